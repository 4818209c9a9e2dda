"""One streaming pass agrees with pyloudnorm and numpy on the whole file, and names what is wrong with a bad one."""

from __future__ import annotations

import warnings

import numpy as np
import pyloudnorm
import pytest
import soundfile

from audiogen.data.measure import BadFile, Limits, measure

RATE = 22050


def swelling(seconds: float, rate: int, channels: int) -> np.ndarray:
    """Noise and a tone between -60 and -10 dB, so that both gates of BS.1770 have something to do."""
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.2 * np.sin(2 * np.pi * 330 * time) + 0.1 * np.random.default_rng(0).standard_normal(len(time))
    level = 10 ** (-(25 + 25 * np.cos(2 * np.pi * time / 5)) / 20)
    return np.stack([sound * level * (1 - 0.3 * channel) for channel in range(channels)], axis=1)


@pytest.mark.parametrize("seconds, rate, channels", [
    (7.3, 44100, 2), (5.05, 11025, 1), (0.43, 48000, 2), (3.0, 8000, 5),
])
def test_loudness_equals_pyloudnorm(tmp_path, seconds, rate, channels):
    sound = swelling(seconds, rate, channels)
    soundfile.write(tmp_path / "x.wav", sound, rate, subtype="FLOAT")
    expected = pyloudnorm.Meter(rate).integrated_loudness(sound)
    assert measure(tmp_path / "x.wav").loudness == pytest.approx(expected, abs=0.1)


def test_a_full_scale_sine_of_997_hz_is_at_minus_3_lufs(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.sin(2 * np.pi * 997 * np.arange(96000) / 48000), 48000, subtype="FLOAT")
    assert measure(tmp_path / "x.wav").loudness == pytest.approx(-3.01, abs=0.1)


def test_counts_peak_clipping_and_silence(tmp_path):
    sound = np.concatenate([0.25 * np.ones(RATE), np.zeros(3 * RATE)])
    sound[100:110] = 1.0  # a run of ten
    sound[200:202] = -1.0  # two are no run
    soundfile.write(tmp_path / "x.flac", sound, RATE)
    measured = measure(tmp_path / "x.flac")
    assert measured.seconds == 4.0 and measured.channels == 1 and measured.sample_rate == RATE
    assert measured.peak_db == pytest.approx(0.0, abs=0.01)
    assert measured.clipped * 4 * RATE == pytest.approx(10)
    assert measured.silent == pytest.approx(0.75)


def test_the_hash_is_of_the_sound_and_not_of_the_container(tmp_path):
    sound = (swelling(2.5, RATE, 2) * 32767).astype(np.int16)
    hashes = {}
    for name in ("a.wav", "b.flac", "c.aiff"):
        soundfile.write(tmp_path / name, sound, RATE)
        hashes[name] = measure(tmp_path / name).hash
    assert len(set(hashes.values())) == 1
    soundfile.write(tmp_path / "d.wav", sound[:, 0], RATE)
    soundfile.write(tmp_path / "e.wav", sound, RATE * 2)
    assert len({*hashes.values(), measure(tmp_path / "d.wav").hash, measure(tmp_path / "e.wav").hash}) == 3


def test_embedded_tags_are_read(tmp_path):
    with soundfile.SoundFile(tmp_path / "x.flac", "w", RATE, 1) as file:
        file.title, file.genre = "Blåtann ", "Jazz"
        file.write(np.full(RATE, 0.1))
    assert measure(tmp_path / "x.flac").embedded == {"title": "Blåtann", "genre": "Jazz"}


def write_bad(folder, kind):
    path = folder / f"{kind} ü.wav"
    sound = swelling(1.0, RATE, 1)
    if kind == "text":
        path.write_text("this is a text file, not a sound\n" * 50)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "no samples":
        soundfile.write(path, sound[:0], RATE)
    elif kind == "zeros":
        soundfile.write(path, 0 * sound, RATE)
    elif kind == "whisper":
        soundfile.write(path, 5e-4 * sound / np.abs(sound).max(), RATE, subtype="FLOAT")
    elif kind in ("nan", "inf"):
        sound[777] = float(kind)
        soundfile.write(path, sound, RATE, subtype="FLOAT")
    elif kind == "slow":
        soundfile.write(path, sound, 1000)
    elif kind == "short":
        soundfile.write(path, sound[:500], RATE)
    elif kind.startswith("cut "):
        path = path.with_suffix("." + kind.split()[1])
        soundfile.write(path, sound, RATE)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif kind == "missing":
        pass
    elif kind == "noise":
        path = path.with_suffix(".mp3")
        path.write_bytes(np.random.default_rng(0).integers(0, 128, 20000, dtype=np.uint8).tobytes())
    return path


@pytest.mark.parametrize("kind, reason", [
    ("text", "unreadable"), ("empty", "empty file"), ("no samples", "zero-length"), ("zeros", "silent: every sample"),
    ("whisper", "silent: its peak is -66 dBFS"), ("nan", "NaN"), ("inf", "NaN or infinite"), ("slow", "1000 Hz"),
    ("short", "too short: 0.023 s"), ("missing", "unreadable: No such file"), ("noise", "unreadable"),
    ("cut wav", "truncated"), ("cut flac", "truncated|unreadable"), ("cut ogg", "truncated"), ("cut aiff", "truncated"),
])
def test_a_bad_file_is_named_with_its_reason(tmp_path, kind, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadFile, match=reason) as error:
            measure(write_bad(tmp_path, kind))
    assert "\n" not in str(error.value)


def test_limits_are_limits(tmp_path):
    soundfile.write(tmp_path / "x.wav", swelling(1.0, 4000, 1), 4000)
    assert measure(tmp_path / "x.wav").seconds == 1.0
    for limits in (Limits(min_seconds=1.1), Limits(min_rate=8000), Limits(min_peak_db=-5)):
        with pytest.raises(BadFile):
            measure(tmp_path / "x.wav", limits)

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import soundfile

from audiogen.conditioning.instruments import INSTRUMENTS
from audiogen.core.errors import UserError
from audiogen.core.score import Note, Score
from audiogen.data.notes import is_open, parse_pitch, read_notes, voices
from audiogen.data.render import Sampler, extend, limit, render_soundfont, write_clip

RATE = 22050


def hertz(pitch: float) -> float:
    return 440.0 * 2 ** ((pitch - 69) / 12)


def write_note(path, pitch, *, seconds=1.2, decay=0.0, rate=24000, lead=0.0, level=0.1):
    t = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * hertz(pitch) * k * t) / k for k in (1, 2, 3)) * np.exp(-decay * t) * level
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate([np.zeros(round(lead * rate)), tone]), rate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cello (held), a grand piano (dying away) and a drum kit (bursts of noise), as synthetic recordings."""
    root = tmp_path_factory.mktemp("notes")
    for name in ("C3", "A3", "F4"):
        write_note(root / "cello" / f"cello_{name}_1.wav", parse_pitch(name), lead=0.05)
        write_note(root / "grand_piano" / f"{name}.wav", parse_pitch(name), decay=2.0, level=0.4)
    noise = np.random.default_rng(0)
    for name, length in (("kick drum", 0.3), ("snare drum", 0.2), ("closed hi-hat", 0.1), ("open hi-hat", 0.8)):
        burst = noise.standard_normal(round(length * RATE)) * np.exp(
            -np.arange(round(length * RATE)) / RATE / length * 4
        )
        path = root / "drum_kit" / f"{name.replace(' ', '_')}_001.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.2 * burst, RATE)
    return root


def peak_hertz(audio):
    """The strongest partial, by a zero-padded FFT."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 19))
    return np.argmax(spectrum) * RATE / (1 << 19)


@pytest.mark.parametrize("name", ["cello", "grand piano"])
@pytest.mark.parametrize("pitch", [48, 50, 53, 57, 61, 68])
def test_pitch_is_right(folder, name, pitch):
    audio = Sampler.from_folder(folder, name).render(Score((Note(0.0, 1.0, pitch),)))
    cents = 1200 * math.log2(peak_hertz(audio[2000:20000]) / hertz(pitch))
    assert abs(cents) < 4


@pytest.mark.parametrize("name", ["cello", "grand piano", "drum kit"])
def test_onsets_are_on_time(folder, name):
    row = INSTRUMENTS[name]
    onsets = (0.25, 0.9013, 1.777)
    notes = tuple(Note(onset, 0.3, 38 if row.drum else 57, drum=row.drum) for onset in onsets)
    audio = Sampler.from_folder(folder, name).render(Score(notes))
    for onset in onsets:
        at = round(onset * RATE)
        before, after = np.abs(audio[at - 400 : at]).max(), np.abs(audio[at : at + 600]).max()
        assert before < 0.05 * after
        heard = at - 400 + int(np.argmax(np.abs(audio[at - 400 : at + 600]) > 0.25 * after))
        assert abs(heard - at) / RATE < 0.005


def test_durations_are_kept_and_long_notes_hold(folder):
    cello = Sampler.from_folder(folder, "cello")
    audio = cello.render(Score((Note(0.0, 6.0, 57, 90),)))
    level = [np.sqrt(np.mean(audio[round(t * RATE) : round((t + 0.2) * RATE)] ** 2)) for t in np.arange(0.2, 5.7, 0.2)]
    assert max(level) / min(level) < 1.25  # no swell, no hole at the joints
    end = round((6.0 + cello.instrument.release) * RATE)
    assert np.abs(audio[end + 10 :]).max(initial=0.0) < 1e-4
    assert len(audio) >= end


def test_struck_notes_die_away_at_their_own_rate(folder):
    audio = Sampler.from_folder(folder, "grand piano").render(Score((Note(0.0, 2.4, 57, 90),)))  # recorded: 1.2 s
    level = [
        np.log(np.sqrt(np.mean(audio[round(t * RATE) : round((t + 0.1) * RATE)] ** 2))) for t in (0.5, 1.0, 1.5, 2.0)
    ]
    slopes = -np.diff(level) / 0.5
    assert np.allclose(slopes, 2.0, atol=0.25)


def test_the_same_score_sounds_the_same_and_louder_notes_are_louder(folder):
    score = Score(tuple(Note(0.2 * i, 0.3, 50 + i, 60 + i) for i in range(12)))
    first, second = (Sampler.from_folder(folder, "grand piano").render(score) for _ in range(2))
    assert np.array_equal(first, second)
    piano = Sampler.from_folder(folder, "grand piano")
    soft, loud = (np.abs(piano.render(Score((Note(0.0, 0.5, 57, v),)))).max() for v in (40, 80))
    assert loud / soft == pytest.approx(2**1.5, rel=0.02)


def test_never_clips(folder):
    crowd = Score(tuple(Note(0.1 * (i % 5), 1.0, 48 + i % 24, 127) for i in range(80)))
    audio = Sampler.from_folder(folder, "grand piano").render(crowd)
    assert 0.9 < np.abs(audio).max() < 1.0
    assert audio.dtype == np.float32
    quiet = np.linspace(-0.7, 0.7, 101, dtype=np.float32)
    assert np.array_equal(limit(quiet), quiet)


def test_exact_length(folder):
    audio = Sampler.from_folder(folder, "cello").render(Score((Note(0.0, 9.0, 57),)), seconds=2.5)
    assert len(audio) == round(2.5 * RATE)
    assert abs(audio[-1]) < 1e-6


def test_a_closed_hi_hat_stops_the_open_one(folder):
    kit = Sampler.from_folder(folder, "drum kit")
    ringing = kit.render(Score((Note(0.0, 0.1, 46, drum=True),)))
    stopped = kit.render(Score((Note(0.0, 0.1, 46, drum=True), Note(0.2, 0.1, 42, 1, drum=True))))
    late = slice(round(0.35 * RATE), round(0.45 * RATE))
    assert np.abs(stopped[late]).max() < 0.1 * np.abs(ringing[late]).max()


def test_missing_drums_are_played_on_others(folder):
    kit = Sampler.from_folder(folder, "drum kit")
    for hit in range(35, 82):
        assert np.abs(kit.render(Score((Note(0.0, 0.1, hit, drum=True),)))).max() > 0.005


def test_extend_joins_where_the_wave_fits():
    t = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 313.7 * t).astype(np.float32)
    held = extend(tone, 4 * RATE, RATE, sustained=True)
    assert len(held) == 4 * RATE
    # A step between neighbouring samples above that of the sine itself would be a click.
    assert np.abs(np.diff(held)).max() < 1.1 * np.abs(np.diff(tone)).max()


def test_loudness_is_common_to_all_instruments(folder):
    import pyloudnorm

    for name in ("cello", "grand piano"):
        notes = tuple(Note(0.5 * i, 0.5, 52 + i % 8, 90) for i in range(16))
        audio = Sampler.from_folder(folder, name).render(Score(notes)).astype(np.float64)
        assert -26 < pyloudnorm.Meter(RATE).integrated_loudness(audio) < -17


def test_metadata_is_read(tmp_path):
    write_note(tmp_path / "a.wav", 57.3)
    (tmp_path / "metadata.csv").write_text(
        "file,instrument,family,midi,f0_hz,velocity,split,licence\n"
        f"a.wav,alto saxophone,saxophone,57,{hertz(57.3):.2f},100,test,CC0-1.0\n"
    )
    (note,) = read_notes(tmp_path)
    assert note.pitch == 57
    assert note.measured == pytest.approx(57.3, abs=0.01)
    assert (note.velocity, note.split, note.licence) == (100, "test", "CC0-1.0")
    assert list(voices([note], INSTRUMENTS["saxophone"])) == ["alto saxophone"]
    audio = Sampler.from_folder(tmp_path, "saxophone").render(Score((Note(0.0, 0.8, 57),)))
    assert 1200 * math.log2(peak_hertz(audio[2000:16000]) / hertz(57)) == pytest.approx(0, abs=4)


@pytest.mark.parametrize("label, heard", [(57, 58.0), (58, 57.4)])
def test_the_better_of_label_and_measurement_is_believed(tmp_path, label, heard):
    write_note(tmp_path / "a.wav", 58.0)
    (tmp_path / "metadata.csv").write_text(f"file,instrument,midi,f0_hz\na.wav,cello,{label},{hertz(heard):.3f}\n")
    audio = Sampler.from_folder(tmp_path, "cello").render(Score((Note(0.0, 0.8, 60),)))
    assert 1200 * math.log2(peak_hertz(audio[2000:16000]) / hertz(60)) == pytest.approx(0, abs=4)


@pytest.mark.parametrize(
    "licence, open_",
    [
        ("CC0-1.0", True),
        ("CC-BY-4.0", True),
        ("CC-BY-3.0", True),
        ("Public Domain (as catalogued)", True),
        ("Unlicense (public domain)", True),
        ("CC-BY-SA-4.0", False),
        ("CC-BY-NC-3.0", False),
        ("", False),
        ("Iowa MIS: free for any use, no restriction", False),
        ("GPL-3.0", False),
    ],
)
def test_open_licences(licence, open_):
    assert is_open(licence) is open_


def test_errors_teach(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no folder of recorded notes"):
        read_notes(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no recorded notes of 'flute'"):
        Sampler.from_folder(folder, "flute")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="fluidsynth is not installed"):
        render_soundfont(Score((Note(0.0, 1.0, 60),)), tmp_path / "a.sf2", 0)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for fluidsynth is a shell script")
def test_fluidsynth_failures_are_told(tmp_path, monkeypatch):
    program = tmp_path / "fluidsynth"
    program.write_text("#!/bin/sh\necho 'not a soundfont' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    font = tmp_path / "bad.sf2"
    font.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a soundfont"):
        render_soundfont(Score((Note(0.0, 1.0, 60),)), font, 0)


def test_a_clip_is_written_with_its_score_and_sidecar(tmp_path):
    score = Score((Note(0.0, 0.5, 60, 90, 0.0, 1.0, "cello", 42),), bpm=120.0)
    write_clip(
        tmp_path / "x" / "a.flac",
        np.zeros(RATE, dtype=np.float32),
        RATE,
        sidecar={"styles": ["cello"], "text": "a cello", "key": None},
        score=score,
    )
    assert soundfile.info(tmp_path / "x" / "a.flac").frames == RATE
    assert json.loads((tmp_path / "x" / "a.json").read_text()) == {"styles": ["cello"], "text": "a cello"}
    assert Score.read(tmp_path / "x" / "a.mid").notes[0].pitch == 60

from __future__ import annotations

import os
import resource
import signal
import wave

import numpy as np
import pytest
import soundfile
import torch

from audiogen.core.audio import Audio, read_made_by
from audiogen.core.errors import UserError

TEXT = "Köhler spielt 琴 \u2014 ♯🎻 \" \\ \0 end"
STORY = {"audiogen": "0.1.0", "prompt": {"text": TEXT}, "seed": 2**62, "long": "x" * 5000}


def sine(seconds: float = 0.25, rate: int = 22050, channels: int = 1) -> torch.Tensor:
    t = torch.arange(round(seconds * rate)) / rate
    return torch.stack([0.5 * torch.sin(2 * torch.pi * 220 * (c + 1) * t) for c in range(channels)])


@pytest.mark.parametrize("suffix, tolerance", [(".wav", 2**-15), (".flac", 2**-15), (".ogg", 0.05)])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_saved_is_read_with_all_that_made_it(tmp_path, suffix, tolerance, channels):
    path = tmp_path / f"a clip, größe 琴{suffix}"
    Audio(sine(channels=channels), 22050, STORY).save(path)
    back = Audio.read(path)
    assert back.sample_rate == 22050 and back.samples.shape == (channels, 5512) and back.samples.dtype == torch.float32
    assert (back.samples - sine(channels=channels)).abs().max() <= tolerance
    assert back.made_by == STORY == read_made_by(path)
    assert back.seconds == pytest.approx(0.25, abs=1e-4)
    assert os.listdir(tmp_path) == [path.name]


def test_float_wav_is_exact(tmp_path):
    samples = torch.rand(1, 999, generator=torch.Generator().manual_seed(0)) * 2 - 1
    Audio(samples, 48000, {"audiogen": "x"}).save(tmp_path / "a.wav", subtype="FLOAT")
    assert torch.equal(Audio.read(tmp_path / "a.wav").samples, samples)


@pytest.mark.parametrize("odd", ["", "y"])
@pytest.mark.parametrize("samples", [100, 101])
def test_other_programs_read_our_wav(tmp_path, odd, samples):
    """The standard library's reader checks chunk sizes; 8 bit and an odd length need the pad byte before our chunk."""
    path = tmp_path / "a.wav"
    Audio(sine()[:, :samples], 8000, {**STORY, "odd": odd}).save(path, subtype="PCM_U8")
    with wave.open(str(path)) as file:
        assert (file.getnframes(), file.getframerate(), file.getsampwidth()) == (samples, 8000, 1)
    assert os.path.getsize(path) == int.from_bytes(path.read_bytes()[4:8], "little") + 8, "RIFF size is the file's"
    assert read_made_by(path)["odd"] == odd


def test_reads_only_the_part_asked_for(tmp_path):
    samples = torch.linspace(-1, 1, 22050)[None]
    Audio(samples, 22050).save(tmp_path / "ramp.wav", subtype="FLOAT")
    part = Audio.read(tmp_path / "ramp.wav", start=0.5, seconds=0.1)
    assert torch.equal(part.samples, samples[:, 11025:13230])
    assert Audio.read(tmp_path / "ramp.wav", start=9.0).samples.shape == (1, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_to_write_and_to_read_what_is_not_finite(tmp_path, bad):
    samples = sine()
    samples[0, 7] = bad
    with pytest.raises(UserError, match="NaN or infinite"):
        Audio(samples, 22050).save(tmp_path / "a.wav")
    assert os.listdir(tmp_path) == []
    soundfile.write(tmp_path / "bad.wav", samples.numpy().T, 22050, subtype="FLOAT")
    with pytest.raises(UserError, match="NaN or infinite"):
        Audio.read(tmp_path / "bad.wav")


def test_foreign_files_say_nothing_of_ours(tmp_path):
    silence = np.zeros(100, dtype=np.float32)
    for name in ("plain.wav", "plain.flac", "plain.ogg"):
        soundfile.write(tmp_path / name, silence, 8000)
        assert read_made_by(tmp_path / name) == {}
    for comment in ('{"title": "not ours"}', "[1, 2]", "free text", '{"audiogen":'):
        with soundfile.SoundFile(tmp_path / "a.flac", "w", 8000, 1) as file:
            file.comment = comment
            file.write(silence)
        assert read_made_by(tmp_path / "a.flac") == {}
    (tmp_path / "text.wav").write_text("this is no audio")
    assert read_made_by(tmp_path / "text.wav") == {}
    (tmp_path / "cut.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVELIST\xff\xff\xff\x7fINFOICMT\xff")
    assert read_made_by(tmp_path / "cut.wav") == {}


@pytest.mark.parametrize("name, content", [
    ("text.wav", b"this is no audio"), ("empty.flac", b""), ("cut.wav", b"RIFF\x00\x00"),
    ("noise.ogg", b"OggS" + bytes(90)),
])
def test_unreadable_files_are_one_clear_line_with_the_path(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        Audio.read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_and_unknown_formats_are_user_errors(tmp_path):
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(UserError, match="no audio file"):
            Audio.read(path)
    with pytest.raises(UserError, match="xyz.*use .wav"):
        Audio(sine(), 22050).save(tmp_path / "a.xyz")
    assert os.listdir(tmp_path) == []


def test_an_older_clip_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.wav"
    Audio(sine(), 22050, {"audiogen": "old"}).save(path)
    bad = sine()
    bad[0, 0] = float("nan")
    with pytest.raises(UserError):
        Audio(bad, 22050, {"audiogen": "new"}).save(path)
    assert Audio.read(path).made_by == {"audiogen": "old"}


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_kill_in_the_middle_leaves_no_half_written_clip(tmp_path, suffix):
    """A child process is killed (SIGKILL) when the bytes are written, just before the file gets its name."""
    path = tmp_path / f"a{suffix}"
    child = os.fork()
    if child == 0:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        Audio(sine(), 22050, STORY).save(path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert not path.exists() and len(os.listdir(tmp_path)) == 1, "a hidden part file at most"
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == []
    Audio(sine(), 22050, STORY).save(path)
    assert Audio.read(path).made_by == STORY


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path):
    """A limit on file size stands for the full disk: the write fails in the middle in the same way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            Audio(sine(seconds=5.0), 22050).save(tmp_path / "a.wav")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "a.wav" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_minute_of_ogg_is_written_whole(tmp_path):
    # More samples in one call than libvorbis can take: it puts them on its stack, and the process dies.
    Audio(0.1 * torch.randn(1, 60 * 48000), 48000).save(tmp_path / "x.ogg")
    assert Audio.read(tmp_path / "x.ogg").seconds == 60.0

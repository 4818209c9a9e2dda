"""audiogen vocode --stream: the bytes are those of the clip rendered whole; pipes and errors."""

from __future__ import annotations

import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audiogen.cli import main, pcm
from audiogen.core.audio import Audio
from audiogen.core.checkpoint import save_checkpoint
from audiogen.core.mel_format import MelFormat
from audiogen.pipeline import Voice
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig
from vocoders.vocos import Vocos, VocosConfig

SMALL = MelFormat(sample_rate=8000, n_fft=256, win_length=256, hop_length=64, n_mels=20, f_max=4000.0)


@pytest.fixture
def streamed(monkeypatch, tmp_path, capsys):
    """streamed("a.npy", stdin=b"") -> code, bytes on stdout, text on stderr, with a small Vocos at "vocoder"."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_checkpoint("vocoder", Vocos(VocosConfig(SMALL, channels=16, hidden=32, layers=1)), room="vocoder")

    def call(*words, stdin=b"", vocoder="vocoder"):
        out = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            code = main(["vocode", *map(str, words), "--vocoder", vocoder, "--stream"])
        return code, out.buffer.getvalue(), capsys.readouterr().err

    return call


def mel(frames=30):
    return (torch.randn(20, frames, generator=torch.Generator().manual_seed(frames)) - 3).numpy()


def whole(sound):
    return Voice.from_pretrained(vocoder="vocoder").vocode(sound).samples[0].numpy()


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_the_bytes_are_the_clip_rendered_whole_whatever_the_chunks(streamed, chunk):
    np.save("a.npy", mel())
    code, data, err = streamed("a.npy", "--pcm", "f32le", "--chunk-frames", chunk)
    expected = whole(torch.from_numpy(mel()))
    assert code == 0 and len(data) == 4 * 30 * 64
    np.testing.assert_allclose(np.frombuffer(data, "<f4"), expected, rtol=0, atol=1e-5)
    assert "f32le, 8000 Hz" in err and "lookahead 64 ms" in err and f"{8 * chunk} ms" in err  # 6 + 2 frames of 8 ms


def test_integers_are_the_default_and_loud_sound_is_clipped_to_their_range():
    audio = torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0])
    data = np.frombuffer(pcm.encode(audio, "s16le"), "<i2")
    np.testing.assert_array_equal(data, [0, 16384, -16384, 32767, -32767, 32767, -32767])


@pytest.mark.parametrize("time", [1, 640, 2000])
def test_audio_comes_back_as_long_as_it_was(streamed, time):
    sound = Audio(0.3 * torch.sin(torch.arange(time) / 9)[None], 8000)
    sound.save("a.wav")
    code, data, err = streamed("a.wav")
    assert code == 0 and len(data) == 2 * time
    expected = whole(Audio.read("a.wav"))
    np.testing.assert_allclose(np.frombuffer(data, "<i2") / 32767, expected, rtol=0, atol=1e-4)


def test_stereo_is_mixed_down_and_said(streamed):
    left = 0.3 * torch.sin(torch.arange(900) / 9)
    Audio(torch.stack([left, torch.zeros(900)]), 8000).save("two.wav")
    Audio(left[None] / 2, 8000).save("one.wav")
    two, one = streamed("two.wav"), streamed("one.wav")
    np.testing.assert_allclose(np.frombuffer(two[1], "<i2"), np.frombuffer(one[1], "<i2"), atol=3)
    assert "2 channels" in two[2] and "channels" not in one[2].replace("1 channel;", "")


def test_frames_on_stdin_are_rendered_as_they_come(streamed):
    np.save("a.npy", mel())
    frames = mel().T.astype("<f4").tobytes()
    assert streamed("-", stdin=frames)[1] == streamed("a.npy")[1] != b""


@pytest.mark.parametrize("stdin, said", [
    (b"", "no mel frame"), (mel().T.tobytes()[:-4], "76 bytes into a frame"),
    (np.full((2, 20), np.nan, np.float32).tobytes(), "NaN"),
])
def test_what_is_no_mel_on_stdin_is_one_line(streamed, stdin, said):
    code, data, err = streamed("-", stdin=stdin)
    assert code == 2 and data == b"" and said in err.splitlines()[-1]


def test_what_cannot_be_streamed_is_said_before_a_byte_is_written(streamed):
    save_checkpoint("lim", GriffinLim(GriffinLimConfig(mel=SMALL, iterations=1)), room="vocoder")
    np.save("a.npy", mel())
    np.save("wide.npy", np.zeros((21, 3)))
    np.save("none.npy", np.zeros((20, 0)))
    for words, options, said in [
        (["a.npy"], {"vocoder": "lim"}, "griffin_lim needs the whole clip"), (["a.npy", "a.npy"], {}, "one clip"),
        (["a.npy", "-o", "x.wav"], {}, "leave -o out"), (["a.npy", "--chunk-frames", 0], {}, "at least 1"),
        (["wide.npy"], {}, "(20, frames)"), (["none.npy"], {}, "(20, frames)"), (["missing.npy"], {}, "no file"),
    ]:
        code, data, err = streamed(*words, **options)
        assert code == 2 and data == b"" and said in err and err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(streamed, root):
    """Like `audiogen vocode ... --stream | head -c 100`, with a clip that is longer than a pipe holds."""
    np.save("long.npy", mel(3000))
    command = [sys.executable, "-m", "audiogen", "vocode", "long.npy", "--vocoder", "vocoder", "--stream"]
    env = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert len(process.stdout.read(100)) == 100
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 0 and "Error" not in said and said.count("\n") == 1

"""Chunk by chunk equals in one go: lengths exact, edges included, noise by its place; every size up to the context."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig
from vocoders.hifigan import HiFiGAN, HiFiGANConfig
from vocoders.streaming import lookahead_seconds, open_stream, render_in_chunks
from vocoders.vocos import Vocos, VocosConfig

FORMAT = MelFormat(n_fft=64, win_length=64, hop_length=16, n_mels=4)


@dataclass(frozen=True)
class NoisyConfig:
    mel: MelFormat = FORMAT


class Noisy(nn.Module):
    """Convolutions of the mel at both rates, plus noise that is filtered too: context and offset both matter."""

    context_frames = 4  # 2 of `a`, and 20 samples of `b`: 2 frames

    def __init__(self) -> None:
        super().__init__()
        self.config = NoisyConfig()
        self.a = nn.Conv1d(4, 3, 5, padding=2)
        self.b = nn.Conv1d(4, 1, 41, padding=20)

    def forward(self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0) -> Tensor:
        x = self.a(mel).repeat_interleave(16, 2)
        z = rng.tape_randn(1, offset * 16, (offset + mel.shape[2]) * 16)
        return self.b(torch.cat([x, z], 1)).tanh()


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "noisy":
        return Noisy().eval()
    if name == "vocos":
        return Vocos(VocosConfig(FORMAT, channels=16, hidden=32, layers=1)).eval()
    return HiFiGAN(HiFiGANConfig(mel=FORMAT, channels=16, rates=(4, 4), kernels=(8, 8), block_kernels=(3,),
                                 block_dilations=((1, 3),))).eval()


def clip(frames: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, frames, generator=torch.Generator().manual_seed(frames)) - 3


@pytest.mark.parametrize("name", ["noisy", "vocos", "hifigan"])
def test_every_chunk_size_up_to_the_context_gives_the_whole_clip(name: str) -> None:
    model = build(name)
    context, rng = model.context_frames, SampleRng(1, ids=[4, 5])
    mel = clip(2 * context + 9)
    with torch.no_grad():
        whole = model(mel, rng=rng)
    for size in range(1, context + 2):
        pieces = list(render_in_chunks(model, mel.split(size, 2), batch=2, rng=rng))
        assert all(piece.shape[2] % 16 == 0 for piece in pieces)
        together = torch.cat(pieces, 2)
        assert together.shape == whole.shape
        torch.testing.assert_close(together, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["noisy", "vocos", "hifigan"])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_clip_shorter_than_the_context_comes_whole_at_the_end(name: str, frames: int) -> None:
    model, mel = build(name), clip(frames)
    stream = open_stream(model, batch=2, rng=SampleRng(1, ids=[4, 5]))
    assert all(stream.push(frame).shape == (2, 1, max(0, 16 * (1 if seen >= model.context_frames else 0)))
               for seen, frame in enumerate(mel.split(1, 2)))
    rest = stream.finish()
    with torch.no_grad():
        whole = model(mel, rng=SampleRng(1, ids=[4, 5]))
    torch.testing.assert_close(rest, whole[:, :, -rest.shape[2] :], rtol=0, atol=1e-5)
    assert stream.finish().shape == (2, 1, 0)


def test_audio_comes_as_soon_as_its_context_is_known_and_memory_stays_bounded() -> None:
    model = build("noisy")
    stream = open_stream(model, rng=SampleRng(0))
    for seen, frame in enumerate(clip(60, 1).split(1, 2), 1):
        stream.push(frame)
        assert stream.made == max(0, seen - 4)
        assert stream.mel.shape[2] <= 2 * 4 + 1
    assert lookahead_seconds(model) == pytest.approx(4 * 16 / 22050)


def test_less_context_than_a_model_says_would_be_heard() -> None:
    """The chunks agree because of the context, not because it does not matter."""
    model = build("noisy")
    mel = clip(30, 1)
    with torch.no_grad():
        whole = model(mel, rng=SampleRng(0))
    model.context_frames = 3
    together = torch.cat(list(render_in_chunks(model, mel.split(2, 2), rng=SampleRng(0))), 2)
    assert (together - whole).abs().max() > 1e-4


def test_an_empty_clip_has_no_audio() -> None:
    assert open_stream(build("vocos")).finish().shape == (1, 1, 0)
    assert list(render_in_chunks(build("vocos"), [])) == []


def test_a_model_that_needs_the_whole_clip_says_so_and_the_way_out() -> None:
    model = GriffinLim(GriffinLimConfig(iterations=1))
    for ask in (open_stream, lookahead_seconds):
        with pytest.raises(UserError, match="griffin_lim needs the whole clip.*without --stream.*vocos"):
            ask(model)


def test_what_does_not_fit_is_refused() -> None:
    model = build("vocos")
    with pytest.raises(UserError, match="rng for 1 clips.*stream of 2"):
        open_stream(model, batch=2, rng=SampleRng(0))
    stream = open_stream(model, batch=2)
    with pytest.raises(UserError, match="3 clips .* stream of 2"):
        stream.push(clip(2, 3))
    with pytest.raises(UserError, match="no frames"):
        stream.push(clip(0))
    with pytest.raises(UserError, match="4 mel bands"):
        stream.push(torch.zeros(2, 5, 1))
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.push(clip(2))


def test_formats_differ_only_in_what_they_say() -> None:
    assert lookahead_seconds(Vocos(VocosConfig(replace(FORMAT, sample_rate=44100), channels=16, hidden=32, layers=1))) \
        == pytest.approx(lookahead_seconds(build("vocos")) / 2)

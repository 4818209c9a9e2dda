from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.data.manifest import Entry
from vocoders import preflight
from vocoders.discriminators import DiscriminatorConfig
from vocoders.gan import GANConfig, VocoderTask
from vocoders.preflight import check_disk, check_length, check_memory, check_sample_rates, check_segment, guess_memory

LOSSES = GANConfig(discriminator=DiscriminatorConfig(((256, 64),), channels=4))
CPU = torch.device("cpu")


class Held(nn.Module):
    """`factor` samples a frame, each the frame's mean through `layers` convolutions."""

    def __init__(self, factor: int = 256, *, layers: int = 1, context: int | None = 3) -> None:
        super().__init__()
        self.config, self.factor, self.context_frames = SimpleNamespace(mel=MelFormat()), factor, context
        self.layers = nn.ModuleList(nn.Conv1d(1, 1, 1) for _ in range(layers))

    def forward(self, mel, *, rng=None, offset=0):
        x = mel.mean(1, keepdim=True).repeat_interleave(self.factor, 2)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def test_rates_that_do_not_make_the_hop_are_named_with_some_that_do():
    check_length(Held())
    with pytest.raises(UserError, match=r"makes 240 samples a frame .* hop_length=256.*\(8, 8, 2, 2\)"):
        check_length(Held(240))


def test_a_segment_must_be_longer_than_what_the_model_sees():
    task = VocoderTask(Held(context=20), LOSSES)
    check_segment(task, 41)
    with pytest.raises(UserError, match="20 frames on either side: take --data.frames 41"):
        check_segment(task, 40)


def test_a_segment_must_be_long_enough_for_the_losses():
    task = VocoderTask(Held(context=None), LOSSES)
    check_segment(task, 5)
    with pytest.raises(UserError, match="the losses need 1025 samples: take --data.frames 5"):
        check_segment(task, 4)


def test_files_of_a_lower_rate_are_counted_and_left_out(capsys):
    entries = [Entry(f"{n}.wav", 1.0, rate, 1) for n, rate in enumerate((44100, 22050, 16000))]
    assert [entry.path for entry in check_sample_rates(entries, 22050, where="m")] == ["0.wav", "1.wav"]
    assert "m: 1 of 3 files have less than 22050 Hz" in capsys.readouterr().out
    with pytest.raises(UserError, match="highest rate is 44100 Hz.*--model.mel.sample-rate 44100"):
        check_sample_rates(entries, 48000, where="m")


def test_states_that_do_not_fit_the_disk_are_refused_before_they_are_written(tmp_path, monkeypatch):
    task = VocoderTask(Held(), LOSSES)
    check_disk(task, tmp_path / "run" / "new", keep=2)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"has 0 MiB free.*--train.keep"):
        check_disk(task, tmp_path / "run" / "new", keep=2)


def test_the_memory_guess_grows_with_the_batch_the_segment_and_the_depth():
    """Each layer here keeps its input and its tanh: two arrays of the clip's length."""
    shallow, deep = (VocoderTask(Held(layers=n), LOSSES) for n in (1, 101))
    base = guess_memory(shallow, clips=1, frames=32)
    assert guess_memory(shallow, clips=4, frames=32) == pytest.approx(4 * base, rel=0.1)
    assert guess_memory(shallow, clips=2, frames=64) == pytest.approx(4 * base, rel=0.1)
    more = guess_memory(deep, clips=1, frames=32) - base
    assert 100 * 32 * 256 * 4 <= more <= 3 * 100 * 32 * 256 * 4


def test_what_the_device_cannot_hold_is_refused_with_the_way_out(monkeypatch, capsys):
    task = VocoderTask(Held(), LOSSES)
    need = guess_memory(task, clips=8, frames=64)
    monkeypatch.setattr(preflight, "memory", lambda device: (10 * need, 10 * need))
    assert check_memory(task, clips=8, frames=64, accumulation=1, device=CPU) == need
    monkeypatch.setattr(preflight, "memory", lambda device: (need // 2, 10 * need))
    check_memory(task, clips=8, frames=64, accumulation=1, device=CPU)
    assert "are free now on cpu" in capsys.readouterr().out
    monkeypatch.setattr(preflight, "memory", lambda device: (need // 3, need // 3))
    with pytest.raises(UserError, match="--train.accumulation 4"):
        check_memory(task, clips=8, frames=64, accumulation=1, device=CPU)


def test_the_checks_leave_the_random_state_and_the_gradients_alone():
    task, before = VocoderTask(Held(), LOSSES), torch.random.get_rng_state()
    guess_memory(task, clips=1, frames=16)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(p.grad is None and p.requires_grad for player in task.players() for p in player.module.parameters())

from __future__ import annotations

import pytest
import torch
from auraloss.freq import MultiResolutionSTFTLoss

from audiogen.core.interfaces import Batch, Condition, Task
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.signal.mel import MelSpectrogram
from vocoders.discriminators import (
    DiscriminatorConfig,
    MultiResolutionDiscriminator,
    adversarial_loss,
    feature_loss,
    verdict_loss,
)
from vocoders.gan import GANConfig, SpectralLoss, VocoderTask, frozen, magnitude_loss
from vocoders.parallel_wavegan import ParallelWaveGAN, ParallelWaveGANConfig

MODEL = ParallelWaveGANConfig(
    bands=8, channels=8, skip_channels=8, layers=2, stacks=1, frame_channels=8, frame_layers=1, iterations=1, refine=1
)
LOSSES = GANConfig(
    magnitude_steps=1, start=3, refine=1, discriminator=DiscriminatorConfig(((256, 64), (128, 32)), channels=4)
)


def _task(clips=()) -> VocoderTask:
    torch.manual_seed(0)
    return VocoderTask(ParallelWaveGAN(MODEL), LOSSES, clips=clips)


def _batch(ids: tuple[int, ...] = (0, 1), frames: int = 12, *, silent: bool = False) -> Batch:
    audio = 0.2 * torch.randn(len(ids), 1, frames * 256, generator=torch.Generator().manual_seed(3))
    if silent:
        audio = torch.zeros_like(audio)
    mel = MelSpectrogram(MelFormat())(audio)
    return Batch(audio, mel, torch.full((len(ids),), frames), Condition(), torch.tensor(ids))


def _gradients(module: torch.nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.grad is not None]


def test_the_task_is_what_the_training_loop_takes() -> None:
    task = _task()
    assert isinstance(task, Task)
    assert [(player.name, player.start) for player in task.players()] == [("generator", 0), ("discriminator", 3)]


def test_at_first_only_the_network_at_frame_rate_learns_but_every_parameter_has_a_gradient() -> None:
    task = _task()
    task.generator_loss(_batch(), SampleRng(0, step=0, ids=[0, 1]))["loss"].backward()
    moved = {name.split(".")[0] for name, p in task.model.named_parameters() if p.grad.abs().sum() > 0}
    assert "magnitude" in moved and moved <= {"magnitude", "frame_net"}


def test_the_generators_turn_leaves_the_discriminator_alone() -> None:
    task = _task()
    losses = task.generator_loss(_batch(), SampleRng(0, step=5, ids=[0, 1]))
    losses["loss"].backward()
    assert {"adversarial", "features"} <= set(losses)
    assert not _gradients(task.discriminator)
    assert len(_gradients(task.model)) == len(list(task.model.parameters()))
    assert all(p.requires_grad for p in task.discriminator.parameters())


def test_the_discriminators_turn_leaves_the_generator_alone() -> None:
    task = _task()
    task.discriminator_loss(_batch(), SampleRng(0, step=5, ids=[0, 1]))["loss"].backward()
    assert not _gradients(task.model)
    assert len(_gradients(task.discriminator)) == len(list(task.discriminator.parameters()))


def test_the_discriminator_judges_the_clip_of_the_generators_turn() -> None:
    task, batch = _task(), _batch()
    rendered = []
    render = task.model.render
    task.model.render = lambda *args, **kwargs: rendered.append(1) or render(*args, **kwargs)
    task.generator_loss(batch, SampleRng(0, step=5, ids=[0, 1]))
    task.discriminator_loss(batch, SampleRng(0, step=5, ids=[0, 1]))
    assert len(rendered) == 1 and not task._rendered


def test_before_its_start_the_discriminator_is_not_asked() -> None:
    task = _task()
    losses = task.generator_loss(_batch(), SampleRng(0, step=2, ids=[0, 1]))
    assert set(losses) == {"loss", "stft", "mel", "magnitude"}
    assert not task._rendered


@pytest.mark.parametrize("step", [0, 2, 5])
def test_losses_and_gradients_are_finite_on_silence(step: int) -> None:
    task = _task()
    task.generator_loss(_batch(silent=True), SampleRng(0, step=step, ids=[0, 1]))["loss"].backward()
    assert all(p.grad.isfinite().all() for p in task.model.parameters())
    if step >= 3:
        loss = task.discriminator_loss(_batch(silent=True), SampleRng(0, step=step, ids=[0, 1]))["loss"]
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in task.discriminator.parameters())


def test_the_spectral_loss_is_auralosss_where_there_is_sound() -> None:
    generator = torch.Generator().manual_seed(0)
    audio, target = (0.1 * torch.randn(2, 1, 4096, generator=generator) for _ in range(2))
    losses = SpectralLoss(MelFormat())(audio, target)
    assert float(losses["stft"]) == pytest.approx(float(MultiResolutionSTFTLoss()(audio, target)), rel=1e-5)
    assert float(SpectralLoss(MelFormat())(target, target)["stft"]) == pytest.approx(0.0, abs=1e-6)


def test_sound_against_silence_costs_what_it_is_loud() -> None:
    loss = SpectralLoss(MelFormat())
    target = torch.zeros(1, 1, 4096)
    quiet, loud = (loss(level * torch.ones(1, 1, 4096), target)["stft"] for level in (0.01, 0.1))
    assert 0 < float(quiet) < float(loud) <= 0.1001


def test_the_magnitude_loss_is_zero_for_the_true_spectrum_only() -> None:
    model, batch = ParallelWaveGAN(MODEL), _batch()
    true = model.short_time.transform(model.short_time.extend(batch.audio[:, 0])).abs().clamp(min=1e-6).log()
    assert float(magnitude_loss(true, model.short_time, batch.audio)) < 1e-4
    assert float(magnitude_loss(true + 0.5, model.short_time, batch.audio)) > 0.5


def test_a_discriminator_can_learn_to_tell_tones_from_noise() -> None:
    torch.manual_seed(0)
    discriminator = MultiResolutionDiscriminator(LOSSES.discriminator)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    real = torch.sin(torch.arange(2048) * torch.tensor([[0.2], [0.5]]))[:, None] * 0.5
    fake = 0.3 * torch.randn(2, 1, 2048)
    losses = []
    for _ in range(15):
        loss = verdict_loss(discriminator(real), discriminator(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    judged_real, judged_fake = discriminator(real), discriminator(fake)
    assert adversarial_loss(judged_real) < adversarial_loss(judged_fake)
    assert feature_loss(judged_real, judged_real) == 0 < feature_loss(judged_real, judged_fake)


def test_frozen_gives_back_what_it_found() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with frozen(layer):
        assert not any(p.requires_grad for p in layer.parameters())
    assert layer.weight.requires_grad and not layer.bias.requires_grad


def test_demos_are_sounds_and_pictures_always_the_same(tmp_path) -> None:
    task = _task(clips=[_batch().audio[0]])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with torch.no_grad():
            task.demo(task.model.eval(), tmp_path / folder, 0)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["clip_0_copy.png", "clip_0_copy.wav", "clip_0_original.png", "clip_0_original.wav"]
    assert (tmp_path / "a/clip_0_copy.wav").read_bytes() == (tmp_path / "b/clip_0_copy.wav").read_bytes()

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import nn

from audiogen.core.interfaces import Batch, Condition, Task
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.core.registry import resolve, table
from audiogen.core.rng import SampleRng
from audiogen.signal.mel import MelSpectrogram
from vocoders.discriminators import DiscriminatorConfig
from vocoders.gan import GANConfig, VocoderTask, copy_synthesis, frozen
from vocoders.losses import SpectralLoss, magnitude_loss
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


def test_in_the_generators_turn_each_clip_is_judged_once_and_the_real_ones_without_gradient() -> None:
    task, seen = _task(), []
    task.discriminator.register_forward_hook(lambda _, args, out: seen.append(out[0][0][-1].requires_grad))
    task.generator_loss(_batch(), SampleRng(0, step=5, ids=[0, 1]))
    assert seen == [False, True]


def test_clips_of_a_step_that_was_given_up_are_forgotten() -> None:
    task = _task()
    task.generator_loss(_batch(), SampleRng(0, step=5, ids=[0, 1]))
    task.generator_loss(_batch((2, 3)), SampleRng(0, step=6, ids=[2, 3]))
    assert list(task._rendered) == [(2, 3)]


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


# ------------------------------------------------------------------------- every vocoder of the table

TRAINED = [name for name in table("vocoder") if name != "griffin_lim"]  # which has nothing to learn


def tiny(name: str) -> nn.Module:
    """The family's default with its layers thinned out, where it has fields of these names."""
    cls = resolve("vocoder", name)
    config = MODEL if name == "parallel_wavegan" else cls.config_type()
    thin = {"channels": 16, "hidden": 24, "skip_channels": 16, "gate_channels": 32}
    known = {field.name for field in fields(config)}
    try:
        config = replace(config, **{key: value for key, value in thin.items() if key in known})
    except (ValueError, TypeError):  # sizes that hang together: the default then, which is small by contract
        pass
    torch.manual_seed(0)
    return cls(config)


def _of(model: nn.Module, *, silent: bool = False, frames: int = 8) -> Batch:
    format = model.config.mel
    time = max(frames, -(-1280 // format.hop_length)) * format.hop_length
    audio = 0.2 * torch.randn(2, 1, time, generator=torch.Generator().manual_seed(3))
    audio = torch.zeros_like(audio) if silent else audio
    with torch.no_grad():
        mel = MelSpectrogram(format)(audio)
    return Batch(audio, mel, torch.full((2,), time // format.hop_length), Condition(), torch.tensor([0, 1]))


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_has_a_finite_gradient(name: str, silent: bool) -> None:
    task = VocoderTask(tiny(name).train(), LOSSES)
    batch, rng = _of(task.model, silent=silent), SampleRng(0, step=5, ids=[0, 1])
    for player in task.players():
        losses = player.loss(batch, rng)
        losses["loss"].backward()
        without = [key for key, p in player.module.named_parameters() if p.grad is None]
        assert not without, f"{name}: {without} would stop training on several devices"
        assert all(value.isfinite() for value in losses.values())
        assert all(p.grad.isfinite().all() for p in player.module.parameters())
        player.module.zero_grad()


@pytest.mark.parametrize("name", TRAINED)
def test_copies_are_as_long_as_the_clip_in_whole_frames(name: str) -> None:
    model = tiny(name).eval()
    hop = model.config.mel.hop_length
    assert copy_synthesis(model, torch.zeros(1, 6 * hop + 7), rng=SampleRng(0)).shape == (1, 6 * hop)


@dataclass(frozen=True)
class OneTapConfig:
    mel: MelFormat = MEL_FORMATS["vocos_24k"]  # pads "center": one frame more than hops


class OneTap(nn.Module):
    """A vocoder whose clip is its mel's mean, held: the least that can be trained."""

    def __init__(self, config: OneTapConfig = OneTapConfig()) -> None:
        super().__init__()
        self.config, self.gain = config, nn.Parameter(torch.tensor(0.1))

    def forward(self, mel, *, rng=None, offset=0):
        return self.gain * mel.mean(1, keepdim=True).repeat_interleave(self.config.mel.hop_length, 2)


def test_a_format_that_pads_center_trains_on_as_many_frames_as_hops() -> None:
    task = VocoderTask(OneTap(), LOSSES)
    batch = _of(task.model)
    assert batch.mel.shape[2] == 9
    task.generator_loss(batch, SampleRng(0, step=5, ids=[0, 1]))["loss"].backward()
    assert task.model.gain.grad.abs() > 0


def test_a_model_with_a_loss_of_its_own_is_the_only_player() -> None:
    class Own(OneTap):
        def loss(self, batch, rng):
            assert batch.mel.shape[2] == 8
            return {"loss": (self(batch.mel) - batch.audio).square().mean()}

    task = VocoderTask(Own(), LOSSES)
    (player,) = task.players()
    player.loss(_of(task.model), SampleRng(0, ids=[0, 1]))["loss"].backward()
    assert player.module is task.model and task.model.gain.grad.abs() > 0


@pytest.mark.parametrize("fields", [
    dict(hinge=True), dict(relative_features=False, reduce="sum"), dict(multi_scale_mel=15.0), dict(adversarial=0.0),
])
def test_the_published_choices_of_loss_change_it(fields) -> None:
    plain, other = (VocoderTask(OneTap(), config) for config in (LOSSES, replace(LOSSES, **fields)))
    other.discriminator.load_state_dict(plain.discriminator.state_dict())
    rng = SampleRng(0, step=5, ids=[0, 1])
    a, b = (task.generator_loss(_of(task.model), rng)["loss"] for task in (plain, other))
    assert a.isfinite() and b.isfinite() and float(a.detach()) != float(b.detach())

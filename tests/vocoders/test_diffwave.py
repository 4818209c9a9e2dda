from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden.made_states import made_mel, made_state

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.core.rng import SampleRng
from vocoders.diffwave import SIX_STEPS, DiffWave, DiffWaveConfig, few_steps, steps_between

GOLDEN = Path(__file__).parents[1] / "golden"
LAYOUTS = json.loads((GOLDEN / "diffwave.json").read_text())  # of the original class, at full size and small
SMALL = DiffWaveConfig(channels=8, layers=4, cycle=2, embedding=16, schedule=(1e-3, 0.05, 0.5))
PARAMS = {"residual_channels": 12, "residual_layers": 6, "dilation_cycle_length": 3}


def _state() -> dict[str, torch.Tensor]:
    """Made weights, with an upsampler whose mel is heard."""
    state = made_state({name: tuple(shape) for name, shape in LAYOUTS["small"].items()})
    for name, value in state.items():
        if "spectrogram_upsampler" in name and name.endswith("weight"):
            value *= 3
    return state


def _draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def _model(config: DiffWaveConfig = SMALL) -> DiffWave:
    """With a last layer of ordinary size, so that the network is heard."""
    torch.manual_seed(0)
    model = DiffWave(config).eval()
    torch.nn.init.normal_(model.output_projection.weight, std=0.3)
    return model


def _mel(batch: int = 1, frames: int = 6) -> torch.Tensor:
    return torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(1)) - 5


@pytest.mark.parametrize("name, t", [("whole", 17.0), ("between", 41.37)])
def test_the_original_network_answers_the_same(name: str, t: float) -> None:
    """At a whole step of training, and between two."""
    model = DiffWave.from_published({"model": _state()}, PARAMS)
    expected = torch.from_numpy(np.load(GOLDEN / "diffwave.npz")[name])
    with torch.no_grad():
        spectrogram = model.upsample(made_mel(80, 6, low=0.0, high=1.0))
        noise = model.noise_in(_draws(3, 1, 1, 6 * 256), torch.tensor([t]), spectrogram)
    assert expected.std() > 0.05
    assert (noise - expected).abs().max() < 1e-5


def test_the_originals_six_steps_give_the_same_clip() -> None:
    model = DiffWave.from_published({"model": _state(), "params": PARAMS}, {})
    expected = torch.from_numpy(np.load(GOLDEN / "diffwave.npz")["six"])
    noise = 0.3 * _draws(4, 6, 1, 6 * 256).transpose(0, 1)
    with torch.no_grad():
        audio = model.play(made_mel(80, 6, low=0.0, high=1.0), noise)
    assert expected.std() > 0.05 and (expected.abs() < 1).float().mean() > 0.95
    assert (audio[:, 0] - expected).abs().max() < 1e-5


def test_the_published_preset_has_the_published_size() -> None:
    model = DiffWave(DiffWave.presets["diffwave_22k"])
    numbers = sum(math.prod(shape) for shape in LAYOUTS["full"].values())
    assert numbers == 2_619_971
    # The last layer's residual, which nothing reads, is not built.
    assert sum(parameter.numel() for parameter in model.parameters()) == numbers - (64 * 64 + 64)
    from_original = DiffWave.from_published(
        {"model": {name: torch.zeros(shape) for name, shape in LAYOUTS["full"].items()}}, {}
    )
    assert from_original.config == model.config
    assert model.config.mel == MEL_FORMATS["diffwave_22k"]


def test_a_layer_is_what_the_paper_draws() -> None:
    """An oracle in plain steps on the model's own weights."""
    model = _model()
    audio, t, mel = _draws(5, 2, 1, 512), torch.tensor([3.0, 40.0]), _mel(2, 2)
    weights = model.state_dict()

    def conv(x: torch.Tensor, name: str, dilation: int = 1) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        return F.conv1d(x, weight, weights[f"{name}.bias"], padding=(weight.shape[2] // 2) * dilation,
                        dilation=dilation)

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    with torch.no_grad():
        c = (0.8 + 0.2 * mel / math.log(10))[:, None]
        for name in ("upsampler.conv1", "upsampler.conv2"):
            weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            c = F.leaky_relu(F.conv_transpose2d(c, weight, bias, stride=(1, 16), padding=(1, 8)), 0.4)
        angle = t[:, None] * 10 ** (torch.arange(64) * 4 / 63)
        e = torch.cat([angle.sin(), angle.cos()], 1)
        for name in ("projection1", "projection2"):
            e = F.silu(dense(e, f"diffusion_embedding.{name}"))
        x, skips = F.relu(conv(audio, "input_projection")), 0
        for layer, dilation in enumerate((1, 2, 1, 2)):
            name = f"residual_layers.{layer}"
            y = conv(x + dense(e, f"{name}.diffusion_projection")[:, :, None], f"{name}.dilated_conv", dilation)
            a, b = (y + conv(c[:, 0], f"{name}.conditioner_projection")).chunk(2, 1)
            h = a.tanh() * b.sigmoid()
            skips = skips + conv(h, f"{name}.skip")
            if layer < 3:
                x = (x + conv(h, f"{name}.residual")) / math.sqrt(2)
        expected = conv(F.relu(conv(skips / math.sqrt(4), "skip_projection")), "output_projection")
        noise = model.noise_in(audio, t, model.upsample(mel))
        assert (noise - expected).abs().max() < 1e-5
        kept = model._keep(model.upsample(mel))
        assert len(kept) == 4
        assert (model.noise_in(audio, t, model.upsample(mel), kept=kept[:2]) - expected).abs().max() < 1e-5


def test_the_true_noise_predictor_gives_back_the_true_distribution(monkeypatch) -> None:
    """Samples of N(0, sigma²) have a known best predictor: sqrt(1 - level) x / (level sigma² + 1 - level)."""
    config, sigma = replace(SMALL, schedule=()), 0.3
    model = DiffWave(config)
    level = np.cumprod(1 - np.array(config.betas))

    def best(audio: torch.Tensor, t: torch.Tensor, spectrogram: torch.Tensor, *, kept: list) -> torch.Tensor:
        now = float(level[round(float(t[0]))])
        return math.sqrt(1 - now) * audio / (now * sigma**2 + 1 - now)

    monkeypatch.setattr(model, "noise_in", best)
    with torch.no_grad():
        audio = model(_mel(1, 80), rng=SampleRng(0))
    # Clamping takes the noisy steps' tails, and 50 steps are coarse for the reverse process.
    assert float(audio.std()) == pytest.approx(sigma, rel=0.15)


def test_few_steps_reach_from_the_least_noise_to_the_most() -> None:
    training = DiffWaveConfig().betas
    for count in (2, 4, 12, 50):
        schedule = few_steps(count, training)
        times = steps_between(schedule, training)
        assert times[0] == pytest.approx(0, abs=1e-3) and times[-1] == pytest.approx(49, abs=1e-3)
        assert times == sorted(times) and len(times) == count
    assert steps_between(training, training) == pytest.approx(list(range(50)), abs=1e-4)
    audio = _model()(_mel(), schedule=few_steps(2, training))
    assert audio.shape == (1, 1, 6 * 256) and audio.abs().max() <= 1


def test_the_loss_is_that_of_the_noise_and_a_gradient_reaches_every_parameter() -> None:
    model = _model().train()
    audio = 0.1 * _draws(6, 2, 1, 6 * 256)
    batch = Batch(audio, _mel(2), torch.tensor([6, 6]), Condition(), torch.tensor([0, 1]))
    losses = model.loss(batch, SampleRng(0, ids=[0, 1]))
    losses["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    again = model.loss(batch, SampleRng(0, ids=[0, 1]))["loss"]
    assert torch.equal(losses["loss"], again)
    with torch.no_grad():  # a network that says nothing is as far off as noise is large
        model.output_projection.weight.zero_()
        model.output_projection.bias.zero_()
        silent = model.loss(batch, SampleRng(0, ids=[0, 1]))["loss"]
    assert float(silent) == pytest.approx(math.sqrt(2 / math.pi), rel=0.1)


def test_training_lowers_the_loss() -> None:
    """It can learn: on one tone, a few steps take the loss well below that of saying nothing."""
    mel = replace(MelFormat(), n_mels=8, n_fft=64, win_length=64, hop_length=16)
    model = DiffWave(replace(SMALL, mel=mel, channels=16, layers=3, upsample_scales=(4, 4))).train()
    audio = 0.3 * torch.sin(torch.arange(24 * 16) * 0.2)[None, None].repeat(4, 1, 1)
    batch = Batch(audio, torch.zeros(4, 8, 24), torch.full((4,), 24), Condition(), torch.arange(4))
    seen = []
    for step in range(30):
        loss = model.loss(batch, SampleRng(0, step=step, ids=[0, 1, 2, 3]))["loss"]
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 5e-3 * gradient.sign()
        seen.append(float(loss.detach()))
    assert sum(seen[-10:]) / 10 < 0.7 * sum(seen[:5]) / 5


@pytest.mark.parametrize("scales, hop", [((16, 16), 256), ((3, 5, 20), 300), ((4, 50), 200)])
def test_other_hops_have_other_scales(scales: tuple[int, ...], hop: int) -> None:
    config = replace(SMALL, mel=replace(MelFormat(), hop_length=hop), upsample_scales=scales)
    assert _model(config)(_mel(2, 3)).shape == (2, 1, 3 * hop)


def test_a_frames_audio_sees_its_context_and_no_more() -> None:
    model = _model(replace(SMALL, layers=8, cycle=8, schedule=(1e-3, 0.3)))
    reach, middle = model.context_frames, 9
    assert reach == math.ceil(2 * 255 / 256) + 2
    mel = _mel(1, 19).requires_grad_()
    model(mel)[..., middle * 256 : (middle + 1) * 256].square().sum().backward()
    seen = mel.grad.abs().sum((0, 1)).nonzero()[:, 0] - middle
    assert reach - 1 <= seen.abs().max() <= reach


def test_chunks_with_their_context_and_offset_are_the_whole() -> None:
    model = _model(replace(SMALL, layers=6, cycle=6))
    reach, frames, mel = model.context_frames, 24, _mel(2, 24)
    rng = SampleRng(7, ids=[3, 4])
    with torch.no_grad():
        whole = model(mel, rng=rng)
        for start in range(0, frames, 7):
            stop, low = min(start + 7, frames), max(start - reach, 0)
            part = model(mel[..., low : stop + reach], rng=SampleRng(7, ids=[3, 4]), offset=low)
            part = part[..., (start - low) * 256 : (stop - low) * 256]
            assert (part - whole[..., start * 256 : stop * 256]).abs().max() < 1e-5
    assert (whole - model(mel, rng=SampleRng(8, ids=[3, 4]))).abs().max() > 1e-2


@pytest.mark.parametrize(
    "content, settings, named",
    [({"generator": {}}, {}, "no model"), ({"model": {}}, {"unconditional": True}, "unconditional"),
     ({"model": {}}, {"noise_schedule": [1e-4, 1e-3, 0.05]}, "noise_schedule"),
     ({"model": {}}, {"hop_samples": 300}, "hop_length=300"),
     ({"model": {"conv_pre.weight": torch.zeros(3)}}, {}, "unexpected: conv_pre.weight")],
)
def test_other_files_are_refused_by_name(content: dict, settings: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        DiffWave.from_published(content, settings)


@pytest.mark.parametrize(
    "change, named",
    [({"upsample_scales": (16, 15)}, "hop_length=256"), ({"beta_last": 1.0}, "beta_last=1.0"),
     ({"layers": 0}, "layers"), ({"schedule": (0.0001, 0.7, 0.7)}, "training only saw"),
     ({"schedule": (0.5, 1.5)}, "between 0 and 1")],
)
def test_a_config_that_cannot_work_is_refused(change: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        replace(SMALL, **change)


def test_the_six_steps_are_the_default() -> None:
    assert DiffWaveConfig().schedule == SIX_STEPS
    with pytest.raises(UserError, match="80 mel bands"):
        _model()(torch.zeros(1, 100, 4))

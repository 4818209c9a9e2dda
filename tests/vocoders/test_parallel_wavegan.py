from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from audiogen.core.checkpoint import load_checkpoint, save_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.signal.mel import MelSpectrogram
from vocoders.parallel_wavegan import ParallelWaveGAN, ParallelWaveGANConfig, hold_and_add

SMALL = ParallelWaveGANConfig(
    bands=8, channels=12, skip_channels=10, layers=4, stacks=2, frame_channels=16, frame_layers=1, iterations=2,
    refine=2,
)
FULL_BAND = replace(
    ParallelWaveGANConfig.published(), channels=8, skip_channels=6, layers=4, stacks=2
)


def _model(config: ParallelWaveGANConfig = SMALL, *, awake: bool = True) -> ParallelWaveGAN:
    """awake: with a last layer of ordinary size, so that the stack is heard."""
    torch.manual_seed(0)
    model = ParallelWaveGAN(config).eval()
    if awake:
        torch.nn.init.normal_(model.last_conv_layers[3].weight, std=0.1)
        if config.excitation != "noise":
            torch.nn.init.normal_(model.magnitude.weight, std=0.02)
    return model


def _mel(batch: int = 1, frames: int = 12) -> torch.Tensor:
    audio = 0.2 * torch.randn(batch, frames * 256, generator=torch.Generator().manual_seed(5))
    return MelSpectrogram(MelFormat())(audio)


@pytest.mark.parametrize("frames", [1, 2, 5, 17])
@pytest.mark.parametrize(
    "config",
    [SMALL, replace(SMALL, bands=4, excitation="shaped_noise"), replace(SMALL, excitation="noise", refine=0), FULL_BAND,
     replace(FULL_BAND, upsample_scales=())],
    ids=["griffin_lim", "shaped_noise", "noise", "full_band", "full_band_held"],
)
def test_every_number_of_frames_gives_exactly_as_many_hops(config: ParallelWaveGANConfig, frames: int) -> None:
    audio = _model(config)(torch.full((2, 80, frames), -4.0))
    assert audio.shape == (2, 1, frames * 256)
    assert audio.isfinite().all()


@pytest.mark.parametrize("config", [SMALL, FULL_BAND], ids=["bands", "full_band"])
def test_a_gradient_reaches_every_parameter(config: ParallelWaveGANConfig) -> None:
    model = _model(config)
    audio, log_magnitude = model.render(_mel())
    loss = audio.square().mean() + (log_magnitude.square().mean() if log_magnitude is not None else 0.0)
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.parametrize("layers, stacks", [(4, 2), (3, 1), (6, 2)])
def test_one_output_sees_exactly_the_receptive_field(layers: int, stacks: int) -> None:
    config = replace(FULL_BAND, layers=layers, stacks=stacks)
    model = _model(config).double()
    x = torch.randn(1, 1, 512, dtype=torch.float64, requires_grad=True)
    model._stack(x, torch.zeros(1, 80, 2, dtype=torch.float64))[0, 0, 256].backward()
    seen = x.grad[0, 0].nonzero()[:, 0]
    assert int(seen.max() - seen.min()) + 1 == config.receptive_field
    assert int(seen.max() + seen.min()) == 2 * 256  # as far back as ahead


def test_holding_after_the_one_by_one_convolution_is_holding_before_it() -> None:
    conv = torch.nn.Conv1d(5, 7, 1, bias=False)
    x, aux = torch.randn(2, 7, 24), torch.randn(2, 5, 6)
    before = x + conv(aux.repeat_interleave(4, dim=2))
    assert torch.allclose(hold_and_add(x, conv(aux)), before, atol=1e-6)


def test_published_form_computes_what_the_paper_says() -> None:
    """An oracle written from the published description, in plain steps, on the model's own weights."""
    model = _model(FULL_BAND)
    mel = torch.randn(1, 80, 5)
    weights = model.state_dict()
    noise = SampleRng(0, ids=[0]).randn(1, 5 * 256)
    c = F.conv1d(F.pad(mel, (2, 2), mode="replicate"), weights["upsample_net.conv_in.weight"])
    for index in (1, 3, 5, 7):
        c = c.repeat_interleave(4, dim=2)[:, None]
        c = F.conv2d(c, weights[f"upsample_net.upsample.up_layers.{index}.weight"], padding=(0, 4))[:, 0]

    def conv(x: torch.Tensor, name: str, dilation: int = 1) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        padding = (weight.shape[2] - 1) // 2 * dilation
        return F.conv1d(x, weight, weights.get(f"{name}.bias"), padding=padding, dilation=dilation)

    x, skips = conv(noise, "first_conv"), 0
    for layer, dilation in enumerate((1, 2, 1, 2)):
        name = f"conv_layers.{layer}"
        a, b = (conv(x, f"{name}.conv", dilation) + conv(c, f"{name}.conv1x1_aux")).chunk(2, 1)
        h = a.tanh() * b.sigmoid()
        skips = skips + conv(h, f"{name}.conv1x1_skip")
        if layer < 3:
            x = (x + conv(h, f"{name}.conv1x1_out")) * math.sqrt(0.5)
    y = conv(F.relu(skips * math.sqrt(1 / 4)), "last_conv_layers.1")
    y = conv(F.relu(y), "last_conv_layers.3")
    assert (model(mel) - y).abs().max() < 1e-5


def test_published_form_has_the_published_size() -> None:
    model = ParallelWaveGAN(ParallelWaveGANConfig.published())
    # 1,346,042 with the weight norms' gains (one for each output channel of each convolution) and the last layer's
    # 64 x 64 + 64 residual convolution that nothing reads; folded and without it:
    gains = 64 + 30 * (128 + 128 + 64 + 64) + 64 + 1 + 80 + 4
    assert sum(p.numel() for p in model.parameters()) == 1_346_042 - gains - (64 * 64 + 64)


def test_an_untrained_model_plays_its_excitation() -> None:
    """So that training starts from Griffin-Lim and can only get better."""
    model = _model(replace(SMALL, refine=0), awake=False)
    mel = _mel(frames=24)
    _, start = model._draw(mel, SampleRng(1))
    excitation, _ = model._excite(model.log_magnitude(mel), start)
    audio, played = model(mel, rng=SampleRng(1)), model.pqmf.synthesis(excitation)
    assert (audio - played).norm() < 0.05 * played.norm()
    assert (model(mel, rng=SampleRng(2)) - played).norm() > 0.5 * played.norm()


def test_the_whitened_excitation_has_about_unit_size_in_every_band() -> None:
    model = _model(awake=False)
    with torch.no_grad():
        start = torch.zeros(1, 513)
        excitation, envelope = model._excite(model.log_magnitude(_mel(frames=80)), start)
    size = (excitation / envelope).square().mean((0, 2)).sqrt()
    assert size.min() > 0.6 and size.max() < 1.6


def test_refining_brings_the_mel_nearer_with_every_pass() -> None:
    model, front_end = _model(), MelSpectrogram(MelFormat())
    mel = _mel(frames=40)
    with torch.no_grad():
        audio, _ = model.render(mel)
        distances = [float((front_end(model.refine(audio, mel, passes=n)) - mel).abs().mean()) for n in (0, 1, 4, 16)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.3 * distances[0]


def test_refining_what_is_right_already_changes_nothing() -> None:
    audio = 0.3 * torch.randn(1, 1, 20 * 256, generator=torch.Generator().manual_seed(0))
    mel = MelSpectrogram(MelFormat())(audio)
    assert (_model().refine(audio, mel) - audio).abs().max() < 1e-4


def test_the_same_rng_gives_the_same_clip_and_no_rng_means_seed_0() -> None:
    model, mel = _model(), _mel()
    with torch.no_grad():
        first = model(mel, rng=SampleRng(1))
        assert torch.equal(first, model(mel, rng=SampleRng(1)))
        assert (first - model(mel, rng=SampleRng(2))).abs().max() > 1e-3
        assert torch.equal(model(mel), model(mel, rng=SampleRng(0, ids=[0])))


@pytest.mark.parametrize("config", [SMALL, FULL_BAND], ids=["bands", "full_band"])
def test_a_clip_is_the_same_alone_and_in_a_batch(config: ParallelWaveGANConfig) -> None:
    """With 32 iterations, in which Griffin-Lim makes a difference of 1e-3 of one in the last bit."""
    config = replace(config, iterations=32 if config.bands > 1 else 0)
    model, mel = _model(config), _mel(batch=3, frames=40)
    with torch.no_grad():
        together = model(mel, rng=SampleRng(0, ids=[4, 5, 6]))
        for index in range(3):
            alone = model(mel[index : index + 1], rng=SampleRng(0, ids=[4 + index]))
            assert (together[index] - alone[0]).abs().max() < 1e-5


def test_silence_stays_silent_and_finite() -> None:
    mel = torch.full((1, 80, 30), math.log(1e-5))
    audio = _model()(mel)
    assert audio.isfinite().all() and audio.abs().max() < 1e-3


def test_a_checkpoint_gives_back_the_same_clip(tmp_path) -> None:
    model, mel = _model(), _mel()
    save_checkpoint(tmp_path / "vocoder", model, room="vocoder")
    again = load_checkpoint(tmp_path / "vocoder", room="vocoder").model
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(mel), model(mel))


def test_autocast_changes_the_clip_little(recwarn) -> None:
    model, mel = _model(), _mel(frames=20)
    with torch.no_grad():
        exact, _ = model.render(mel)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, _ = model.render(mel)
    assert rounded.dtype == torch.float32
    assert rounded.norm() == pytest.approx(float(exact.norm()), rel=0.1)


@pytest.mark.parametrize(
    "change, named",
    [({"bands": 7}, "bands=7"), ({"layers": 5}, "layers=5"), ({"excitation": "pink"}, "pink"),
     ({"upsample_scales": (4, 4)}, r"\(4, 4\)"), ({"frame_channels": 0}, "frame_channels")],
)
def test_a_config_that_cannot_work_is_refused(change: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        replace(SMALL, **change)


def test_a_mel_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="80, frames"):
        _model()(torch.zeros(1, 100, 4))

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

from audiogen.core.checkpoint import load_checkpoint, save_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.signal.mel import MelSpectrogram
from vocoders.parallel_wavegan import ParallelWaveGAN, ParallelWaveGANConfig
from vocoders.published import fold_weight_norm

GOLDEN = Path(__file__).parents[1] / "golden"
LAYOUTS = json.loads((GOLDEN / "parallel_wavegan.json").read_text())  # of the original class: full size, small ones
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


def test_published_form_computes_what_the_paper_says() -> None:
    """An oracle written from the published description, in plain steps, on the model's own weights."""
    model = _model(FULL_BAND)
    mel = torch.randn(1, 80, 5)
    weights = model.state_dict()
    noise = SampleRng(0, ids=[0]).tape_randn(1, 0, 5 * 256)
    c = (mel - weights["mean"][:, None]) / weights["scale"][:, None]
    c = F.conv1d(F.pad(c, (2, 2), mode="replicate"), weights["upsample_net.conv_in.weight"])
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
    _, start = model._draw(mel, SampleRng(1), 0)
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
     ({"upsample_scales": (4, 4)}, r"\(4, 4\)"), ({"frame_channels": 0}, "frame_channels"),
     ({"causal": True}, "causal=True"), ({"kernel_size": 4}, "kernel_size=4")],
)
def test_a_config_that_cannot_work_is_refused(change: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        replace(SMALL, **change)


def test_a_mel_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="80 mel bands"):
        _model()(torch.zeros(1, 100, 4))


def _published(name: str) -> tuple[dict, dict]:
    """checkpoint-*.pkl and config.yml with statistics, as the golden numbers were made."""
    scales = [4, 5, 3, 5] if name == "rates" else [4, 4, 4, 4]
    params = {"layers": 6, "stacks": 2, "residual_channels": 12, "gate_channels": 24, "skip_channels": 10,
              "aux_channels": 20, "upsample_params": {"upsample_scales": scales}}
    params |= {"causal": {"use_causal_conv": True}, "wide": {"kernel_size": 5}, "rates": {"aux_context_window": 1},
               "centred": {}}[name]
    settings = {
        "sampling_rate": 24000, "fft_size": 1024, "hop_size": math.prod(scales), "win_length": None, "num_mels": 20,
        "fmin": 80, "fmax": 7600, "window": "hann", "format": "hdf5", "generator_params": params,
        "stats": {"mean": np.linspace(-5, -2, 20), "scale": np.linspace(0.5, 2, 20)},
    }
    return {"model": {"generator": made_state({k: tuple(v) for k, v in LAYOUTS[name].items()})}}, settings


@pytest.mark.parametrize("name", ["centred", "causal", "wide", "rates"])
def test_the_original_answers_the_same(name: str) -> None:
    model = ParallelWaveGAN.from_published(*_published(name))
    expected = torch.from_numpy(np.load(GOLDEN / "parallel_wavegan.npz")[name])
    noise = torch.from_numpy(np.random.RandomState(11).standard_normal((1, 1, 7 * 300)).astype(np.float32))
    with torch.no_grad():
        audio = model.play(made_mel(20, 7, low=-8, high=0.5), noise[..., : 7 * model.config.mel.hop_length])
    assert expected.std() > 0.02
    assert (audio[0] - expected).abs().max() < 1e-5


def test_the_published_preset_has_the_originals_tensors() -> None:
    model = ParallelWaveGAN(ParallelWaveGAN.presets["parallel_wavegan_22k"])
    ours = {name: list(value.shape) for name, value in model.state_dict().items() if name not in ("mean", "scale")}
    theirs = fold_weight_norm({name: torch.ones(shape) for name, shape in LAYOUTS["full"].items()})
    theirs = {name: list(value.shape) for name, value in theirs.items() if "29.conv1x1_out" not in name}
    assert ours == theirs
    assert sum(math.prod(shape) for shape in LAYOUTS["full"].values()) == 1_346_042


def test_statistics_come_from_the_file_from_the_weights_or_are_asked_for() -> None:
    content, settings = _published("centred")
    stats = np.stack([settings["stats"]["mean"], settings["stats"]["scale"]])
    from_array = ParallelWaveGAN.from_published(content, settings | {"stats": stats})
    assert torch.allclose(from_array.mean, torch.linspace(-5, -2, 20))
    assert torch.allclose(from_array.scale, torch.linspace(0.5, 2, 20))
    held = {"mean": torch.full((20,), 0.5), "scale": torch.full((20,), 2.0)}
    held_content = {"model": {"generator": content["model"]["generator"] | held}}
    assert torch.equal(ParallelWaveGAN.from_published(held_content, settings).mean, held["mean"])
    with pytest.raises(UserError, match="statistics are missing"):
        ParallelWaveGAN.from_published(content, settings | {"stats": None})
    with pytest.raises(UserError, match=r"mean \(5,\)"):
        ParallelWaveGAN.from_published(content, settings | {"stats": stats[:, :5]})


@pytest.mark.parametrize(
    "change, named",
    [({"generator_type": "HiFiGANGenerator"}, "HiFiGANGenerator"), ({"hop_size": 300}, "hop_length=300"),
     ({"params": {"upsample_net": "MelGANGenerator"}}, "MelGANGenerator"), ({"params": {"rnn": 3}}, "rnn"),
     ({"params": {"out_channels": 4}}, "out_channels=4"), ({"params": {"gate_channels": 32}}, "gate_channels=32"),
     ({"params": {"layers": 4}}, "unexpected: conv_layers.4"), ({"num_mels": 80}, "n_mels=80"),
     ({"params": {"upsample_params": {"upsample_scales": [4, 4, 4, 4], "interpolate_mode": "linear"}}}, "linear")],
)
def test_other_models_and_options_of_the_original_are_refused_by_name(change: dict, named: str) -> None:
    content, settings = _published("centred")
    settings["generator_params"] |= change.pop("params", {})
    with pytest.raises(UserError, match=named):
        ParallelWaveGAN.from_published(content, settings | change)
    with pytest.raises(UserError, match="config.yml"):
        ParallelWaveGAN.from_published(content, {})
    with pytest.raises(UserError, match="model/generator"):
        ParallelWaveGAN.from_published({"generator": {}}, settings)


STREAMED = {
    "full_band": FULL_BAND,
    "causal": replace(FULL_BAND, causal=True, kernel_size=2, layers=8, stacks=1),
    "noise_bands": replace(SMALL, excitation="noise", refine=0),
    "shaped_noise": replace(SMALL, excitation="shaped_noise", refine=1),
}


@pytest.mark.parametrize("config", STREAMED.values(), ids=STREAMED)
def test_chunks_with_their_context_and_offset_are_the_whole(config: ParallelWaveGANConfig) -> None:
    model, frames = _model(config), 60
    reach, mel = model.context_frames, _mel(2, 60)
    with torch.no_grad():
        whole = model(mel, rng=SampleRng(7, ids=[3, 4]))
        for start in range(0, frames, 17):
            stop, low = min(start + 17, frames), max(start - reach, 0)
            part = model(mel[..., low : stop + reach], rng=SampleRng(7, ids=[3, 4]), offset=low)
            part = part[..., (start - low) * 256 : (stop - low) * 256]
            assert (part - whole[..., start * 256 : stop * 256]).abs().max() < 1e-5


@pytest.mark.parametrize("config", STREAMED.values(), ids=STREAMED)
def test_a_frames_audio_sees_its_context_and_no_more(config: ParallelWaveGANConfig) -> None:
    model = _model(config)
    reach = model.context_frames
    mel, middle = _mel(1, 2 * reach + 5).requires_grad_(), reach + 2
    model(mel)[..., middle * 256 : (middle + 1) * 256].square().sum().backward()
    seen = mel.grad.abs().sum((0, 1)).nonzero()[:, 0] - middle
    # What shapes the noise reaches further in the noise than in the mel, and a chunk needs both.
    assert (reach // 2 if config.excitation == "shaped_noise" else reach - 2) <= seen.abs().max() <= reach
    assert not config.causal or seen.max() <= 0


def test_griffin_lim_needs_the_whole_clip() -> None:
    assert _model(SMALL).context_frames is None

"""HiFi-GAN and BigVGAN against numbers of the first authors' code, and what streaming, training and users rely on.

The golden files hold outputs of jik876/hifi-gan (V1, V2, V3 as published), NVIDIA/BigVGAN (narrower, with every
switch of its configurations) and ParallelWaveGAN's HiFi-GAN, with their state dicts filled by `made_state`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.made_states import made_mel, made_state
from vocoder_reach import assert_a_frame_sees_just_its_context, assert_chunks_with_their_context_are_the_whole

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from vocoders.hifigan import HiFiGAN, HiFiGANConfig
from vocoders.published import detect

GOLDEN = Path(__file__).parents[1] / "golden"
HIFIGAN, BIGVGAN = (json.loads((GOLDEN / f"{name}.json").read_text()) for name in ("hifigan", "bigvgan"))
TINY = HiFiGANConfig(mel=MelFormat(hop_length=16, n_mels=8), channels=16, rates=(4, 2, 2), kernels=(8, 4, 4),
                     block_kernels=(3, 5), block_dilations=((1, 3), (1, 2)))
TINY_SNAKE = replace(TINY, activation="snakebeta")
SHAPES = {"leaky": TINY, "snake": TINY_SNAKE, "single": replace(TINY, paired=False),
          "odd": replace(TINY, mel=MelFormat(hop_length=15, n_mels=8), rates=(5, 3), kernels=(10, 6))}


def _answers(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"{name}.npz"))


def _bigvgan_state(case: str) -> dict[str, torch.Tensor]:
    """A checkpoint as NVIDIA's code saves it: with the filters that it made itself."""
    made, answers = made_state(BIGVGAN[case]["layout"]), _answers("bigvgan")
    for key in [key for key in made if key.endswith("act.alpha")]:
        place = key.removesuffix("act.alpha")
        made[f"{place}upsample.filter"] = torch.from_numpy(answers["filter_up"])
        made[f"{place}downsample.lowpass.filter"] = torch.from_numpy(answers["filter_down"])
        if not BIGVGAN[case]["settings"]["snake_logscale"]:
            for name in ("alpha", "beta"):
                if f"{place}act.{name}" in made:
                    made[f"{place}act.{name}"] += 1  # so the original was filled, too: about 1 and not about 0
    return made


def _model(config: HiFiGANConfig = TINY, seed: int = 0) -> HiFiGAN:
    torch.manual_seed(seed)
    model = HiFiGAN(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("alpha", "beta")):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def _mel(config: HiFiGANConfig = TINY, frames: int = 12, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, config.mel.n_mels, frames, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", ["v1", "v2", "v3"])
def test_hifi_gan_answers_as_the_original(case: str) -> None:
    state, settings = made_state(HIFIGAN[case]["layout"]), HIFIGAN[case]["settings"]
    model = HiFiGAN.from_published({"generator": state}, settings)
    assert model.config == HiFiGAN.presets[f"hifigan_{case}"]
    with torch.inference_mode():
        assert np.abs(model(made_mel(80, 8)).numpy() - _answers("hifigan")[case]).max() < 1e-5


@pytest.mark.parametrize("case", ["base", "v2", "snake_linear", "single"])
def test_bigvgan_answers_as_the_original(case: str) -> None:
    settings = BIGVGAN[case]["settings"]
    model = HiFiGAN.from_published({"generator": _bigvgan_state(case)}, settings)
    with torch.inference_mode():
        audio = model(made_mel(settings["num_mels"], 6, low=-1, high=0.5)).numpy()
    assert np.abs(audio - _answers("bigvgan")[case]).max() < 1e-5


@pytest.mark.parametrize("case", ["pwg", "pwg_single"])
def test_parallel_wavegans_hifi_gan_answers_as_the_original(case: str) -> None:
    """Rates 5, 5, 4, 3 with kernels of twice as much; the original was given normalised mels."""
    mean, scale = torch.linspace(-5, -3, 80), torch.linspace(0.5, 1.5, 80)
    settings = HIFIGAN[case]["settings"] | {"stats": {"mean": mean.numpy(), "scale": scale.numpy()}}
    content = {"model": {"generator": made_state(HIFIGAN[case]["layout"])}, "steps": 1}
    model = HiFiGAN.from_published(content, settings)
    assert model.config.mel == MEL_FORMATS["parallel_wavegan_24k"]
    with torch.inference_mode():
        audio = model(made_mel(80, 8, low=-2, high=2) * scale[:, None] + mean[:, None])
    assert np.abs(audio.numpy() - _answers("hifigan")[case]).max() < 1e-5


def test_bigvgans_published_sizes() -> None:
    for name in ("bigvgan_base_24k_100band", "bigvgan_v2_24k_100band_256x", "bigvgan_v2_44k_128band_512x"):
        settings, config = BIGVGAN[name]["settings"], HiFiGAN.presets[name]
        with torch.device("meta"):
            model = HiFiGAN(config)
        gains = sum(value.shape[0] for key, value in model.named_parameters() if key.endswith("weight"))
        assert sum(value.numel() for value in model.parameters()) + gains == BIGVGAN[name]["parameters"]
        assert len(list(model.parameters())) + sum(
            key.endswith("weight") or 2 * key.endswith("alpha") for key, _ in model.named_parameters()
        ) == BIGVGAN[name]["tensors"]  # a gain to each weight, two filters to each activation
        wanted = (settings["sampling_rate"], settings["hop_size"], settings["num_mels"], settings["n_fft"])
        assert (config.mel.sample_rate, config.mel.hop_length, config.mel.n_mels, config.mel.n_fft) == wanted
        assert config.rates == tuple(settings["upsample_rates"]) and config.mel.f_max == settings["sampling_rate"] / 2
        assert config.final_bias == settings.get("use_bias_at_final", True)
        assert (config.final == "tanh") == settings.get("use_tanh_at_final", True)


def test_all_spellings_of_weight_norm_and_no_settings_give_the_same_model() -> None:
    state, mel = made_state(HIFIGAN["v2"]["layout"]), made_mel(80, 4)
    model = HiFiGAN.from_published({"generator": state}, HIFIGAN["v2"]["settings"])
    spelt = {key.replace("weight_g", "parametrizations.weight.original0")
             .replace("weight_v", "parametrizations.weight.original1"): value for key, value in state.items()}
    with torch.inference_mode():
        wanted = model(mel)
        for content in ({"generator": spelt}, model.state_dict()):  # the last: folded, and no settings
            assert (HiFiGAN.from_published(content, {})(mel) - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_a_frame_sees_just_its_context(shape: str) -> None:
    config = SHAPES[shape]
    assert_a_frame_sees_just_its_context(_model(config), _mel(config, 2 * config.context_frames + 5))


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_with_their_context_are_the_whole_clip(shape: str) -> None:
    config = SHAPES[shape]
    assert_chunks_with_their_context_are_the_whole(_model(config), _mel(config, config.context_frames + 30))


@pytest.mark.parametrize("config", [TINY, TINY_SNAKE], ids=["leaky", "snake"])
def test_a_clip_is_the_same_alone_and_in_a_batch(config: HiFiGANConfig) -> None:
    model, mel = _model(config), _mel(config, batch=3)
    with torch.inference_mode():
        together = model(mel)
        for index in range(3):
            assert (model(mel[index : index + 1]) - together[index : index + 1]).abs().max() < 1e-5


@pytest.mark.parametrize("config", [TINY, TINY_SNAKE, replace(TINY_SNAKE, final="clamp")], ids=str)
def test_every_parameter_learns(config: HiFiGANConfig) -> None:
    model = _model(config).train()
    model(20 * _mel(config)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_rendering_does_not_write_into_its_mel() -> None:
    for config in (TINY, TINY_SNAKE):
        mel = _mel(config)
        before = mel.clone()
        with torch.inference_mode():
            _model(config)(mel)
        assert torch.equal(mel, before)


def test_clamping_bounds_rendering_alone() -> None:
    model, mel = _model(replace(TINY, final="clamp")), _mel()
    with torch.no_grad():
        model.conv_post.bias.fill_(3.0)
        assert model(mel).max() == 1.0
        assert model.train()(mel).max() > 2.0


def test_the_exported_graph_renders_any_length_without_operators_of_ours() -> None:
    config = replace(TINY_SNAKE, mel=MelFormat(hop_length=4, n_mels=8), rates=(4,), kernels=(8,), block_kernels=(3,),
                     block_dilations=((1,),))  # small: capturing takes its time
    model = _model(config)
    frames = torch.export.Dim("frames", min=2, max=1000)
    program = torch.export.export(model, (_mel(config),), dynamic_shapes=({2: frames},))
    assert not any("audiogen" in str(node.target) for node in program.graph.nodes)
    with torch.inference_mode():
        for length in (5, 31):
            mel = _mel(config, length)
            assert (program.module()(mel) - model(mel)).abs().max() < 1e-5


def test_a_checkpoint_that_does_not_fit_is_refused() -> None:
    state, settings = made_state(HIFIGAN["v3"]["layout"]), HIFIGAN["v3"]["settings"]
    with pytest.raises(UserError, match="missing: conv_post.bias"):
        HiFiGAN.from_published({"generator": {k: v for k, v in state.items() if k != "conv_post.bias"}}, settings)
    with pytest.raises(UserError, match="unexpected: extra.weight"):
        HiFiGAN.from_published({"generator": state | {"extra.weight": torch.zeros(1)}}, settings)
    with pytest.raises(UserError, match="of another shape: .*resblocks"):
        HiFiGAN.from_published({"generator": state}, settings | {"resblock_kernel_sizes": [3, 5, 9]})
    with pytest.raises(UserError, match="lacks 'n_fft'"):
        HiFiGAN.from_published({"generator": state}, {k: v for k, v in settings.items() if k != "n_fft"})
    with pytest.raises(UserError, match="shape of no preset"):
        HiFiGAN.from_published(made_state(BIGVGAN["base"]["layout"]), {})
    with pytest.raises(UserError, match="15 at rate 8"):
        HiFiGAN.from_published({"generator": state}, settings | {"upsample_kernel_sizes": [15, 16, 8]})
    with pytest.raises(UserError, match="of vocos, not of"):
        HiFiGAN.from_published({"backbone.convnext.0.dwconv.weight": torch.zeros(1)}, settings)


def test_a_bigvgan_with_other_filters_is_refused() -> None:
    state = _bigvgan_state("base")
    state["activation_post.downsample.lowpass.filter"] = state["activation_post.downsample.lowpass.filter"].roll(1)
    with pytest.raises(UserError, match="activation_post.downsample.lowpass.filter"):
        HiFiGAN.from_published({"generator": state}, BIGVGAN["base"]["settings"])


def test_parallel_wavegans_forms_that_audiogen_has_not_are_refused() -> None:
    content = {"model": {"generator": made_state(HIFIGAN["pwg"]["layout"])}}
    settings = HIFIGAN["pwg"]["settings"]
    with pytest.raises(UserError, match="stats"):
        HiFiGAN.from_published(content, settings)
    with pytest.raises(UserError, match="config.yml"):
        HiFiGAN.from_published(content, {})
    for change, named in (({"use_causal_conv": True}, "use_causal_conv=True"), ({"gin_channels": 4}, "gin_channels")):
        changed = settings | {"generator_params": settings["generator_params"] | change}
        with pytest.raises(UserError, match=named):
            HiFiGAN.from_published(content, changed)


@pytest.mark.parametrize(
    "change, named",
    [({"rates": (4, 2, 1)}, "multiply to 8"), ({"kernels": (8, 4)}, "3 rates"), ({"activation": "relu"}, "'relu'"),
     ({"channels": 12}, "channels=12"), ({"block_kernels": (3, 4)}, r"\(3, 4\)"), ({"final": "sine"}, "'sine'"),
     ({"block_dilations": ((1,),)}, "block_dilations")],
)
def test_a_config_that_cannot_work_is_refused(change: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        replace(TINY, **change)


def test_a_mel_of_another_format_is_refused() -> None:
    with pytest.raises(UserError, match="HiFi-GAN.* 8 "):
        _model()(torch.zeros(1, 80, 4))


def test_which_family_a_file_is_of() -> None:
    one = torch.zeros(1)
    for key, family in (
        ("conv_pre.weight_g", "hifigan"), ("input_conv.weight", "hifigan"), ("melgan.1.weight", "melgan"),
        ("model.1.weight", "melgan"), ("generator.1.bias", "melgan"),
        ("conv_layers.0.conv1x1_aux.weight", "parallel_wavegan"),
        ("conv_layers.0.conv1x1c.weight", "wavenet"), ("conv_layers.3.conv1x1_out.bias", "wavenet"),
        ("backbone.convnext.0.dwconv.weight", "vocos"), ("diffusion_embedding.projection1.weight", "diffwave"),
    ):
        state = {key: one} | ({key[:-1] + "v": one} if key.endswith("_g") else {})
        for content in (state, {"generator": state}, {"model": {"generator": state, "discriminator": {"x": one}}},
                        {"state_dict": state, "step": 3}, {"model_g": state}):
            assert detect(content) == family, key
    assert detect({"embedding_prev": one, "embedding_curr": one, "dilate_weights": [one]}) == "wavenet"
    with pytest.raises(UserError, match="begin with encoder.weight"):
        detect({"encoder.weight": one})
    with pytest.raises(UserError, match="it holds optimizer"):
        detect({"optimizer": {"lr": 1}})

"""MelGAN against numbers of three original implementations, and what streaming, training and users rely on.

The golden file holds outputs of descriptinc/melgan-neurips and seungwonpark/melgan (as published) and ParallelWaveGAN's
multi-band and full-band forms (narrower), with their state dicts filled by `made_state`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden.made_states import made_mel, made_state
from vocoder_reach import assert_a_frame_sees_just_its_context, assert_chunks_with_their_context_are_the_whole

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from vocoders.melgan import MelGAN, MelGANConfig, reflect

GOLDEN = Path(__file__).parents[1] / "golden"
MADE = json.loads((GOLDEN / "melgan.json").read_text())
TINY = MelGANConfig(mel=MelFormat(hop_length=16, n_mels=8), channels=16, rates=(4, 4), stacks=2, bands=1)
SHAPES = {"full": TINY, "odd": replace(TINY, mel=MelFormat(hop_length=15, n_mels=8), rates=(5, 3)),
          "bands": replace(TINY, mel=MelFormat(hop_length=32, n_mels=8), rates=(4, 2), bands=4)}


def _answer(case: str) -> np.ndarray:
    return np.load(GOLDEN / "melgan.npz")[case]


def _model(config: MelGANConfig = TINY) -> MelGAN:
    torch.manual_seed(0)
    return MelGAN(config).eval()


def _mel(config: MelGANConfig = TINY, frames: int = 12, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, config.mel.n_mels, frames, generator=torch.Generator().manual_seed(0))


def test_melgan_answers_as_the_original() -> None:
    model = MelGAN.from_published(made_state(MADE["neurips"]["layout"]), {})
    assert model.config == MelGAN.presets["melgan_22k"]
    with torch.inference_mode():
        assert np.abs(model(made_mel(80, 8, low=-4, high=0.5)).numpy() - _answer("neurips")).max() < 1e-5


def test_seungwonparks_melgan_answers_as_the_original() -> None:
    model = MelGAN.from_published({"model_g": made_state(MADE["seungwonpark"]["layout"]), "step": 1}, {})
    assert model.config.mel == MEL_FORMATS["hifigan_22k"]
    with torch.inference_mode():
        assert np.abs(model(made_mel(80, 8)).numpy() - _answer("seungwonpark")).max() < 1e-5


@pytest.mark.parametrize("case, cutoff", [("multiband_22k", 0.142), ("multiband_24k_old", 0.15), ("full_band", 0.15)])
def test_parallel_wavegans_melgan_answers_as_the_original(case: str, cutoff: float) -> None:
    """The filter bank changed after version 0.4.2; the original was given normalised mels."""
    mean, scale = torch.linspace(-5, -3, 80), torch.linspace(0.5, 1.5, 80)
    settings = MADE[case]["settings"] | {"stats": np.stack([mean.numpy(), scale.numpy()])}
    model = MelGAN.from_published({"model": {"generator": made_state(MADE[case]["layout"])}}, settings)
    assert model.config.cutoff == cutoff
    with torch.inference_mode():
        audio = model(made_mel(80, 12, low=-2, high=2) * scale[:, None] + mean[:, None])
    assert np.abs(audio.numpy() - _answer(case)).max() < 1e-5


def test_published_sizes() -> None:
    """4.27 million for MelGAN, 2.54 for the multi-band form, with the weight norms' gains."""
    for name, parameters in (("melgan_22k", 4_266_978), ("multiband_melgan_22k", 2_540_000)):
        with torch.device("meta"):
            model = MelGAN(MelGAN.presets[name])
        gains = sum(value.shape[0] for key, value in model.named_parameters() if key.endswith("weight"))
        assert sum(value.numel() for value in model.parameters()) + gains == pytest.approx(parameters, rel=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_frame_sees_just_its_context(shape: str) -> None:
    config = SHAPES[shape]
    assert_a_frame_sees_just_its_context(_model(config), _mel(config, 2 * config.context_frames + 9))


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_with_their_context_are_the_whole_clip(shape: str) -> None:
    config = SHAPES[shape]
    assert_chunks_with_their_context_are_the_whole(_model(config), _mel(config, config.context_frames + 30))


def test_reflection_is_numpys_at_any_length() -> None:
    for time in (1, 2, 5, 20):
        x = torch.randn(2, 3, time)
        wanted = np.pad(x.numpy(), ((0, 0), (0, 0), (9, 9)), mode="reflect" if time > 1 else "edge")
        assert np.array_equal(reflect(x, 9).numpy(), wanted)
        last = x.transpose(1, 2).contiguous().transpose(1, 2)
        assert np.array_equal(reflect(last, 9).numpy(), wanted)


def test_every_parameter_learns_and_the_subbands_are_there_for_their_losses() -> None:
    config = SHAPES["bands"]
    model, mel = _model(config).train(), _mel(config)
    subbands = model.render(mel)
    assert subbands.shape == (1, 4, 12 * 8)
    assert torch.equal(model.pqmf.synthesis(subbands), model(mel))
    model(mel).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_a_block_is_what_the_paper_draws() -> None:
    block = _model().blocks[1].double()
    x = torch.randn(1, 8, 20, dtype=torch.float64)
    inner = F.conv1d(F.pad(F.leaky_relu(x, 0.2), (3, 3), mode="reflect"), block.dilated.weight, block.dilated.bias,
                     dilation=3)
    inner = F.conv1d(F.leaky_relu(inner, 0.2), block.pointwise.weight, block.pointwise.bias)
    wanted = inner + F.conv1d(x, block.shortcut.weight, block.shortcut.bias)
    assert (block(x) - wanted).abs().max() < 1e-12


def test_the_exported_graph_renders_any_length() -> None:
    config = replace(SHAPES["bands"], stacks=1)
    model = _model(config)
    frames = torch.export.Dim("frames", min=8, max=1000)
    program = torch.export.export(model, (_mel(config),), dynamic_shapes=({2: frames},))
    with torch.inference_mode():
        for length in (9, 31):
            mel = _mel(config, length)
            assert (program.module()(mel) - model(mel)).abs().max() < 1e-5


def test_a_checkpoint_that_does_not_fit_is_refused() -> None:
    state = made_state(MADE["neurips"]["layout"])
    with pytest.raises(UserError, match="missing: conv_post.bias"):
        MelGAN.from_published({k: v for k, v in state.items() if k != "model.24.bias"}, {})
    with pytest.raises(UserError, match="unexpected: model.26.weight"):
        MelGAN.from_published(state | {"model.26.weight": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="80 mel bands.*n_mels=100"):
        MelGAN.from_published(state, {}, mel=MEL_FORMATS["vocos_24k"])
    with pytest.raises(UserError, match="of hifigan, not of"):
        MelGAN.from_published({"generator": {"conv_pre.weight": torch.zeros(1)}}, {})
    settings = MADE["full_band"]["settings"]
    content = {"model": {"generator": made_state(MADE["full_band"]["layout"])}}
    for change, named in (({"use_causal_conv": True}, "use_causal_conv=True"), ({"groups": 4}, "groups")):
        changed = settings | {"generator_params": settings["generator_params"] | change}
        with pytest.raises(UserError, match=named):
            MelGAN.from_published(content, changed)
    with pytest.raises(UserError, match="stats"):
        MelGAN.from_published(content, settings)
    with pytest.raises(UserError, match="config.yml"):
        MelGAN.from_published(content, {})


@pytest.mark.parametrize(
    "change, named",
    [({"rates": (4, 2)}, "multiply to 8"), ({"bands": 3}, "bands=3"), ({"channels": 10}, "channels=10"),
     ({"stacks": 0}, "stacks=0")],
)
def test_a_config_that_cannot_work_is_refused(change: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        replace(TINY, **change)

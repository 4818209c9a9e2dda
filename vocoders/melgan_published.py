"""Checkpoints of MelGAN: its first authors' (descriptinc/melgan-neurips), seungwonpark/melgan, and ParallelWaveGAN's
full-band and multi-band ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from vocoders.melgan import PQMF_BETA, PQMF_TAPS, SLOPE, MelGAN, MelGANConfig
from vocoders.published import (
    detect,
    fold_weight_norm,
    generator_state,
    load_published,
    parallel_wavegan_format,
    parallel_wavegan_params,
    statistics,
    take,
)

# All three are one `Sequential`: padding 0, conv_pre 1, then for each stage an activation, the transposed convolution
# and the residual blocks, then an activation, padding and conv_post. What a block calls its three convolutions:
BLOCKS = {"block.2": "dilated", "block.4": "pointwise", "shortcut": "shortcut",  # descriptinc
          "stack.2": "dilated", "stack.4": "pointwise", "skip_layer": "shortcut"}  # ParallelWaveGAN
# What ParallelWaveGAN's generator takes, by the defaults of its signature; audiogen has only one form of most.
DEFAULTS: dict[str, Any] = {
    "in_channels": 80, "out_channels": 1, "kernel_size": 7, "channels": 512, "bias": True,
    "upsample_scales": [8, 8, 2, 2], "stack_kernel_size": 3, "stacks": 3, "nonlinear_activation": "LeakyReLU",
    "nonlinear_activation_params": {"negative_slope": SLOPE}, "pad": "ReflectionPad1d", "pad_params": {},
    "use_final_nonlinear_activation": True, "use_weight_norm": True, "use_causal_conv": False,
}
ONLY = ("kernel_size", "bias", "stack_kernel_size", "nonlinear_activation", "nonlinear_activation_params", "pad",
        "pad_params", "use_final_nonlinear_activation", "use_causal_conv")


def read(content: Mapping[str, Any], settings: Mapping[str, Any], *, mel: MelFormat | None = None) -> MelGAN:
    """-> the model, with every tensor of the checkpoint in its place."""
    state = fold_weight_norm(generator_state(content))
    family = detect(content)
    if family != "melgan":
        raise UserError(f"these are weights of {family}, not of MelGAN")
    form = next(form for form in ("melgan", "model", "generator") if any(key.startswith(form + ".") for key in state))
    if form == "melgan":
        config = _parallel_wavegan_config(settings, mel)
        take(state, [key for key in state if key.startswith("pqmf.")], why="constants that the model makes itself")
    elif form == "model":
        n_mels = settings.get("n_mel_channels", 80)
        config = _config(state, form, settings.get("ratios", (8, 8, 2, 2)), settings.get("n_residual_layers", 3),
                         mel or MEL_FORMATS["melgan_22k"], n_mels)
    else:
        # It takes natural logarithms and scales them itself, as (mel + 5) / 5.
        config = _config(state, form, (8, 8, 2, 2), 3, mel or MEL_FORMATS["hifigan_22k"], 80, normalise=True)
    state = {_renamed(key, form, config): value for key, value in state.items()}
    if form == "generator":
        state["mean"], state["scale"] = (torch.full((config.mel.n_mels,), value) for value in (-5.0, 5.0))
    elif form == "melgan" and "mean" not in state and "scale" not in state:
        state["mean"], state["scale"] = statistics(settings.get("stats"), config.mel.n_mels, what="MelGAN")
    model = MelGAN(config)
    load_published(model, state, what="the published MelGAN")
    return model.eval()


def _renamed(key: str, form: str, config: MelGANConfig) -> str:
    """One tensor's name in the original -> ours; names of no place in the `Sequential` stay as they are."""
    match = re.match(rf"^{form}\.(\d+)\.(.*?)\.?(weight|bias)$", key)
    if match is None:
        return key
    stacked = form == "generator"  # seungwonpark keeps all residual blocks of a stage in one module
    place, inner, kind = int(match[1]), match[2], match[3]
    stride = 3 if stacked else 2 + config.stacks
    stage, rest = divmod(place - 2, stride)
    if place == 1 and not inner:
        return f"conv_pre.{kind}"
    if place == 2 + stride * len(config.rates) + 2 and not inner:
        return f"conv_post.{kind}"
    if not 0 <= stage < len(config.rates):
        return key
    if rest == 1 and not inner:
        return f"ups.{stage}.{kind}"
    if stacked and (found := re.match(r"^(blocks|shortcuts)\.(\d+)(\.[24])?$", inner)):
        index, inner = int(found[2]), f"block{found[3]}" if found[1] == "blocks" else "shortcut"
    else:
        index = rest - 2
    return f"blocks.{stage * config.stacks + index}.{BLOCKS[inner]}.{kind}" if inner in BLOCKS else key


def _config(
    state: Mapping[str, Tensor], form: str, rates: Any, stacks: int, mel: MelFormat, n_mels: int, *,
    normalise: bool = False,
) -> MelGANConfig:
    first = state.get(f"{form}.1.weight")
    if first is None:
        raise UserError(f"the weights hold no {form}.1.weight: the file is incomplete")
    if first.shape[1] != mel.n_mels or n_mels != mel.n_mels:
        raise UserError(
            f"the weights take {first.shape[1]} mel bands and the mel format has n_mels={mel.n_mels}: give the format "
            "that they were trained with"
        )
    return MelGANConfig(
        mel=mel, channels=first.shape[0], rates=tuple(rates), stacks=stacks, bands=1, normalise=normalise
    )


def _parallel_wavegan_config(settings: Mapping[str, Any], mel: MelFormat | None) -> MelGANConfig:
    """config.yml of ParallelWaveGAN."""
    values = parallel_wavegan_params(settings, DEFAULTS, ONLY)
    format = mel or parallel_wavegan_format(settings)
    if values["in_channels"] != format.n_mels:
        raise UserError(f"in_channels={values['in_channels']} and the mel format's n_mels={format.n_mels} differ")
    filters = settings.get("pqmf_params", {})
    if filters.get("taps", PQMF_TAPS) != PQMF_TAPS or filters.get("beta", PQMF_BETA) != PQMF_BETA:
        raise UserError(f"pqmf_params={filters}: audiogen has only taps={PQMF_TAPS}, beta={PQMF_BETA}")
    return MelGANConfig(
        mel=format, channels=values["channels"], rates=tuple(values["upsample_scales"]), stacks=values["stacks"],
        bands=values["out_channels"], normalise=True,
        cutoff=filters.get("cutoff_ratio", 0.142 if _version(settings) > (0, 4, 2) else 0.15),
    )


def _version(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Of the ParallelWaveGAN that wrote the configuration; before it wrote any: 0.1.0."""
    return tuple(int(number) for number in re.findall(r"\d+", str(settings.get("version", "0.1.0")))[:3])

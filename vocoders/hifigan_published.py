"""Checkpoints of the original HiFi-GAN and BigVGAN, and of ParallelWaveGAN's HiFi-GAN, which names the same tensors
otherwise and normalises its mels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from vocoders.hifigan import SLOPE, HiFiGAN, HiFiGANConfig, low_pass
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

# ParallelWaveGAN's names -> the first authors'. Activations stand in front of their convolutions there, at number 0.
RENAMED = (
    (r"^input_conv\.", "conv_pre."), (r"^upsamples\.(\d+)\.1\.", r"ups.\1."), (r"^output_conv\.1\.", "conv_post."),
    (r"^blocks\.(\d+)\.(convs1|convs2)\.(\d+)\.1\.", r"resblocks.\1.\2.\3."),
)
FILTER = re.compile(r"\.(upsample|downsample\.lowpass)\.filter$")
# What ParallelWaveGAN's generator takes, by the defaults of its signature; audiogen has only one form of most.
DEFAULTS: dict[str, Any] = {
    "in_channels": 80, "out_channels": 1, "channels": 512, "kernel_size": 7, "upsample_scales": [8, 8, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4], "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilations": [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "use_additional_convs": True, "bias": True,
    "nonlinear_activation": "LeakyReLU", "nonlinear_activation_params": {"negative_slope": SLOPE},
    "use_causal_conv": False, "use_weight_norm": True,
}
ONLY = ("out_channels", "kernel_size", "bias", "nonlinear_activation", "nonlinear_activation_params", "use_causal_conv")


def read(content: Mapping[str, Any], settings: Mapping[str, Any], *, mel: MelFormat | None = None) -> HiFiGAN:
    """-> the model, with every tensor of the checkpoint in its place."""
    state = fold_weight_norm(generator_state(content))
    family = detect(content)
    if family != "hifigan":
        raise UserError(f"these are weights of {family}, not of HiFi-GAN or BigVGAN")
    if "input_conv.weight" in state or "input_conv.conv.weight" in state:
        config = _parallel_wavegan_config(settings, mel)
        state = {_renamed(key, config.paired): value for key, value in state.items()}
        if "mean" not in state and "scale" not in state:
            state["mean"], state["scale"] = statistics(
                settings.get("stats"), config.mel.n_mels, what="HiFi-GAN"
            )
    else:
        _check_filters(state)
        state = {re.sub(r"^(ups\.\d+)\.0\.", r"\1.", key).replace(".act.", "."): value for key, value in state.items()}
        config = _config(settings, mel) if settings else _preset(state, mel)
    model = HiFiGAN(config)
    load_published(model, state, what="the published " + ("BigVGAN" if config.periodic else "HiFi-GAN"))
    return model.eval()


def _renamed(key: str, paired: bool) -> str:
    for pattern, name in RENAMED:
        key = re.sub(pattern, name, key)
    return key if paired else key.replace(".convs1.", ".convs.")


def _check_filters(state: dict[str, Tensor]) -> None:
    """The anti-aliasing filters are constants, yet every checkpoint of BigVGAN holds them: they must be ours."""
    ours = torch.from_numpy(low_pass()).float()
    names = [key for key in state if FILTER.search(key)]
    for name in names:
        held = state[name].float().flatten()
        if held.shape != ours.shape or (held - ours).abs().max() > 1e-6:
            raise UserError(f"the checkpoint's {name} is not BigVGAN's anti-aliasing filter, and audiogen has no other")
    take(state, names, why="equal to the filter that the model makes itself")


def _config(settings: Mapping[str, Any], mel: MelFormat | None) -> HiFiGANConfig:
    """config.json of HiFi-GAN or BigVGAN."""
    try:
        periodic = settings.get("activation") is not None
        for rate, kernel in zip(settings["upsample_rates"], settings["upsample_kernel_sizes"], strict=True):
            if (kernel - rate) % 2:
                raise UserError(
                    f"upsample_kernel_sizes has {kernel} at rate {rate}: the original makes a sample too many of each "
                    "clip with an odd difference, and audiogen does not"
                )
        return HiFiGANConfig(
            mel=mel or MelFormat(
                sample_rate=settings["sampling_rate"], n_fft=settings["n_fft"], win_length=settings["win_size"],
                hop_length=settings["hop_size"], n_mels=settings["num_mels"], f_min=float(settings["fmin"]),
                f_max=float(settings["fmax"] or settings["sampling_rate"] / 2), eps=1e-9,
            ),
            channels=settings["upsample_initial_channel"], rates=tuple(settings["upsample_rates"]),
            kernels=tuple(settings["upsample_kernel_sizes"]), block_kernels=tuple(settings["resblock_kernel_sizes"]),
            block_dilations=tuple(tuple(row) for row in settings["resblock_dilation_sizes"]),
            paired=str(settings["resblock"]) == "1",
            activation=settings["activation"] if periodic else "leaky_relu",
            logscale=settings["snake_logscale"] if periodic else True,
            final="tanh" if not periodic or settings.get("use_tanh_at_final", True) else "clamp",
            final_bias=not periodic or settings.get("use_bias_at_final", True),
        )
    except KeyError as name:
        raise UserError(f"the configuration lacks {name}: give the config.json beside the checkpoint") from None


def _parallel_wavegan_config(settings: Mapping[str, Any], mel: MelFormat | None) -> HiFiGANConfig:
    """config.yml of ParallelWaveGAN."""
    values = parallel_wavegan_params(settings, DEFAULTS, ONLY)
    format = mel or parallel_wavegan_format(settings)
    if values["in_channels"] != format.n_mels:
        raise UserError(f"in_channels={values['in_channels']} and the mel format's n_mels={format.n_mels} differ")
    return HiFiGANConfig(
        mel=format, channels=values["channels"], rates=tuple(values["upsample_scales"]),
        kernels=tuple(values["upsample_kernel_sizes"]), block_kernels=tuple(values["resblock_kernel_sizes"]),
        block_dilations=tuple(tuple(row) for row in values["resblock_dilations"]),
        paired=values["use_additional_convs"], normalise=True,
    )


def _preset(state: Mapping[str, Tensor], mel: MelFormat | None) -> HiFiGANConfig:
    """The preset whose tensors have these names and shapes. Rates, dilations and formats cannot be read off weights."""
    shapes, found = {key: value.shape for key, value in state.items()}, {}
    for name, preset in HiFiGAN.presets.items():
        if shapes.get("conv_pre.weight") != (preset.channels, preset.mel.n_mels, 7):
            continue
        with torch.device("meta"):
            if {key: value.shape for key, value in HiFiGAN(preset).state_dict().items()} == shapes:
                found[name] = preset
    if not found:
        raise UserError("these weights have the shape of no preset: give the config.json that lies beside them")
    first = next(iter(found.values()))
    if mel is None and len({preset.mel for preset in found.values()}) > 1:
        raise UserError(f"these weights may be {' or '.join(found)}: give the config.json beside them, or a mel format")
    return replace(first, mel=mel or first.mel)

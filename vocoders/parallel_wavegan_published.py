"""Checkpoints of the original Parallel WaveGAN: checkpoint-*.pkl, config.yml and the statistics of the mel.

The original's mels are normalised by each corpus's own mean and scale, which stand in a file of their own (stats.h5 or
stats.npy). A mel without them sounds like noise, so they are asked for, and are kept in the model from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from vocoders.parallel_wavegan import ParallelWaveGAN, ParallelWaveGANConfig
from vocoders.published import fold_weight_norm, load_published, parallel_wavegan_format, statistics, take

# The defaults of the original generator's signature; a value that audiogen has no form of is refused.
DEFAULTS: dict[str, Any] = {
    "in_channels": 1, "out_channels": 1, "kernel_size": 3, "layers": 30, "stacks": 3, "residual_channels": 64,
    "gate_channels": 128, "skip_channels": 64, "aux_channels": 80, "aux_context_window": 2, "dropout": 0.0,
    "bias": True, "use_weight_norm": True, "use_causal_conv": False, "upsample_conditional_features": True,
    "upsample_net": "ConvInUpsampleNetwork", "upsample_params": {"upsample_scales": [4, 4, 4, 4]},
}
ONLY = {"in_channels": 1, "out_channels": 1, "bias": True, "upsample_conditional_features": True,
        "upsample_net": "ConvInUpsampleNetwork"}
ONLY_UPSAMPLING = {"nonlinear_activation": None, "interpolate_mode": "nearest", "freq_axis_kernel_size": 1}


def read(
    content: Mapping[str, Any], settings: Mapping[str, Any], *, mel: MelFormat | None = None
) -> ParallelWaveGAN:
    """content {"model": {"generator": state}}, settings: config.yml and "stats" {"mean", "scale"} or (2, n_mels)."""
    try:
        state = fold_weight_norm(content["model"]["generator"])
    except (KeyError, TypeError):
        raise UserError("this is no checkpoint of Parallel WaveGAN: it has no model/generator") from None
    config = published_config(settings, mel=mel)
    # The last layer's residual goes nowhere in the original, too: its loop over the layers ends there.
    take(state, [f"conv_layers.{config.layers - 1}.conv1x1_out.{name}" for name in ("weight", "bias")],
         why="the last layer's residual, which nothing reads")
    if "mean" not in state and "scale" not in state:
        state["mean"], state["scale"] = statistics(settings.get("stats"), config.mel.n_mels, what="Parallel WaveGAN")
    model = ParallelWaveGAN(config)
    load_published(model, state, what="the published Parallel WaveGAN")
    return model.eval()


def published_config(settings: Mapping[str, Any], *, mel: MelFormat | None = None) -> ParallelWaveGANConfig:
    """config.yml -> our configuration; what it asks for and audiogen has not is a `UserError` that names it."""
    if "generator_params" not in settings:
        raise UserError("the configuration of Parallel WaveGAN is missing: give the checkpoint's config.yml")
    kind = settings.get("generator_type", "ParallelWaveGANGenerator")
    if kind != "ParallelWaveGANGenerator":
        raise UserError(f"generator_type is {kind}: this reads ParallelWaveGANGenerator")
    given = settings["generator_params"]
    unknown = sorted(set(given) - set(DEFAULTS))
    if unknown:
        raise UserError(f"generator_params has {', '.join(unknown)}, which audiogen does not know")
    values = DEFAULTS | given
    upsampling = values["upsample_params"]
    unknown = sorted(set(upsampling) - set(ONLY_UPSAMPLING) - {"upsample_scales", "use_causal_conv",
                                                               "aux_channels", "aux_context_window"})
    if unknown:
        raise UserError(f"upsample_params has {', '.join(unknown)}, which audiogen does not know")
    for name, value, only in (
        *((name, values[name], only) for name, only in ONLY.items()),
        *((name, upsampling.get(name, only), only) for name, only in ONLY_UPSAMPLING.items()),
        ("gate_channels", values["gate_channels"], 2 * values["residual_channels"]),
    ):
        if value != only:
            raise UserError(f"generator_params says {name}={value!r}: audiogen has only {only!r}")
    format = mel or parallel_wavegan_format(settings)
    if values["aux_channels"] != format.n_mels:
        raise UserError(f"aux_channels={values['aux_channels']} and the mel format's n_mels={format.n_mels} differ")
    return ParallelWaveGANConfig(
        mel=format, bands=1, channels=values["residual_channels"], skip_channels=values["skip_channels"],
        layers=values["layers"], stacks=values["stacks"], kernel_size=values["kernel_size"],
        causal=values["use_causal_conv"], frame_channels=0, context=values["aux_context_window"], normalise=True,
        upsample_scales=tuple(upsampling["upsample_scales"]), excitation="noise", iterations=0, refine=0,
    )

"""Published WaveNets: r9y9's wavenet_vocoder, in its layout since 2019 and in that of 2018, and nv-wavenet.

r9y9, since 2019   {"state_dict": ...} with upsample_net.*; hparams.json. Its mels are normalised by the corpus's mean
                   and scale (settings["stats"]), its audio may be pre-emphasised.
r9y9, 2018         {"state_dict": ...} with upsample_conv.*, and biases in conv1x1c, which are folded into conv's.
nv-wavenet         the state dict of its model (pytorch/wavenet.py) and config.json; or the dictionary that
                   `export_weights` makes for its kernels (embedding_prev, dilate_weights, ...), which lacks what brings
                   mels to steps: where upsample.* and cond_layers.conv.* are put beside it, the model is conditioned.

Sizes are read off the tensors. What tensors do not say comes from the settings: where dilations start again, the mel
format, the shape of the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from vocoders.published import fold_weight_norm, generator_state, load_published, statistics, take
from vocoders.wavenet import WaveNet, WaveNetConfig

EXPORTED = {
    "embedding_prev", "embedding_curr", "conv_out_weight", "conv_end_weight", "dilate_weights", "dilate_biases",
    "max_dilation", "res_weights", "res_biases", "skip_weights", "skip_biases", "use_embed_tanh",
}
CONDITIONING = {"upsample.weight", "upsample.bias", "cond_layers.conv.weight", "cond_layers.conv.bias"}


def read(
    cls: type[WaveNet], content: Mapping[str, Any], settings: Mapping[str, Any], mel: MelFormat | None
) -> WaveNet:
    """content, as the file holds it, and the settings beside it -> a model in eval mode. `mel` overrides the settings'.

    Raises `UserError` where a key is missing, unknown or of another shape, or where the original is of a kind that
    audiogen has not.
    """
    try:
        config, state = _translated(content, settings, mel)
    except KeyError as name:
        raise UserError(f"the published WaveNet lacks {name}: the file is incomplete") from None
    model = cls(config)
    load_published(model, state, what="the published WaveNet")
    return model.eval()


def _translated(
    content: Mapping[str, Any], settings: Mapping[str, Any], mel: MelFormat | None
) -> tuple[WaveNetConfig, dict[str, Tensor]]:
    """-> our configuration, and the tensors under our names."""
    if {"embedding_prev", "dilate_weights"} <= set(content):
        return _nvidia(*_exported(content), settings, mel)
    state = fold_weight_norm(generator_state(content))
    if "embed.weight" in state:
        return _nvidia(state, settings.get("wavenet_config", {}), settings, mel)
    if "first_conv.weight" in state:
        return _r9y9(state, settings, mel)
    raise UserError(f"these weights are in no published layout of WaveNet: they begin with {_some(state)}")


def _r9y9(
    state: dict[str, Tensor], settings: Mapping[str, Any], mel: MelFormat | None
) -> tuple[WaveNetConfig, dict[str, Tensor]]:
    layers = _layers(state, "conv_layers.{}.conv.weight")
    only_old = any(key.startswith("upsample_conv.") or key.endswith("conv1x1c.bias") for key in state)
    old = only_old or "builder" in settings
    for layer in range(layers):
        for name in ("conv1x1c", "conv1x1g"):
            if f"conv_layers.{layer}.{name}.bias" in state:  # the same at every step, as that of conv
                state[f"conv_layers.{layer}.conv.bias"] = (
                    state[f"conv_layers.{layer}.conv.bias"] + state.pop(f"conv_layers.{layer}.{name}.bias")
                )
    take(state, [f"conv_layers.{layers - 1}.conv1x1_out.{name}" for name in ("weight", "bias")],
         why="the last layer's residual, which nothing reads")
    state = {key.replace("upsample_conv.", "upsample_net.layers."): value for key, value in state.items()}

    format = mel or _r9y9_format(settings, "r9y9_2018_22k" if old else "r9y9_22k")
    values: dict[str, Any] = {"mel": format, "layers": layers, "cycle": _cycle(settings, layers)}
    values |= _sizes(state)
    channels, inputs, _ = state["first_conv.weight"].shape
    outputs = state["last_conv_layers.3.weight"].shape[0]
    values |= {"channels": channels, "log_scale_min": settings.get("log_scale_min", math.log(1e-14) if old else -16.0)}
    kind = settings.get("output_distribution", "Logistic")
    if settings.get("input_type") == "mulaw":
        raise UserError("input_type is 'mulaw' (companded, not coded): audiogen reads 'raw' and 'mulaw-quantize'")
    if inputs > 1:
        values |= {"output": "softmax", "classes": inputs, "silence": inputs // 2 - 1}
    elif outputs == 2:
        values |= {"output": "gaussian"}
    elif kind == "Logistic" and outputs % 3 == 0:
        values |= {"output": "logistics", "mixtures": outputs // 3}
    else:
        raise UserError(f"output_distribution is {kind!r} with {outputs} channels: audiogen has mixtures of logistics "
                        "('Logistic'), and of Gaussians ('Normal') one")
    if old:
        values["skip_scale"] = "recursive" if settings.get("legacy", True) else "none"
    if "embed_speakers.weight" in state:
        values |= dict(zip(("speakers", "style_dim"), state["embed_speakers.weight"].shape, strict=True))
    elif "conv_layers.0.conv1x1g.weight" in state:
        values["style_dim"] = state["conv_layers.0.conv1x1g.weight"].shape[1]
    values |= _preprocessing(settings)
    values |= _r9y9_upsampling(state, settings)
    if values["upsampling"] != "none" and not old:
        state["mean"], state["scale"] = statistics(settings.get("stats"), format.n_mels, what="WaveNet")
    else:
        state |= _plain(format)
    return WaveNetConfig(**values), state


def _r9y9_upsampling(state: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """How frames become steps, from the tensors' names and shapes; `state` gets what only we store."""
    if "conv_layers.0.conv1x1c.weight" not in state:
        return {"upsampling": "none"}
    planes = sorted((k for k in state if k.startswith("upsample_net.layers.") and k.endswith("weight")), key=_number)
    if planes:
        scales = tuple(state[key].shape[3] for key in planes)
        return {"upsampling": "transposed_planes", "upsample_scales": scales, "bands": state[planes[0]].shape[2]}
    params = settings.get("upsample_params", {})
    if params.get("upsample_activation", "none") != "none" or params.get("mode", "nearest") != "nearest":
        raise UserError(f"upsample_params {params}: audiogen has no activation there, and the mode 'nearest'")
    for key in [key for key in state if key.startswith("upsample_net.up_layers.")]:  # "UpsampleNetwork": no conv_in
        state[key.replace("upsample_net.", "upsample_net.upsample.")] = state.pop(key)
    smooth = sorted((k for k in state if k.startswith("upsample_net.upsample.up_layers.")), key=_number)
    if not smooth:
        return {"upsampling": "hold"}
    if any(state[key].shape[2] != 1 for key in smooth):
        raise UserError("freq_axis_kernel_size is not 1: audiogen smooths along time alone")
    if "upsample_net.conv_in.weight" not in state:
        if settings.get("cin_pad", 0):
            raise UserError(f"'UpsampleNetwork' with cin_pad={settings['cin_pad']}: audiogen reads it with 0")
        state["upsample_net.conv_in.weight"] = torch.eye(state["conv_layers.0.conv1x1c.weight"].shape[1])[:, :, None]
    return {
        "upsampling": "smooth", "upsample_scales": tuple((state[key].shape[3] - 1) // 2 for key in smooth),
        "context": (state["upsample_net.conv_in.weight"].shape[2] - 1) // 2,
    }


def _preprocessing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Gain and pre-emphasis, by 0.85 as in the original's audio.py."""
    before, after = (settings.get(name) or "none" for name in ("preprocess", "postprocess"))
    if (before, after) not in (("none", "none"), ("preemphasis", "inv_preemphasis")):
        raise UserError(
            f"preprocess={before!r}, postprocess={after!r}: audiogen has 'preemphasis' and 'inv_preemphasis'"
        )
    gain = float(settings.get("global_gain_scale", 1.0))
    return {"gain": gain if gain > 0 else 1.0, "preemphasis": 0.85 if before == "preemphasis" else 0.0}


def _r9y9_format(settings: Mapping[str, Any], name: str) -> MelFormat:
    format = MEL_FORMATS[name]
    names = {"sample_rate": "sample_rate", "fft_size": "n_fft", "hop_size": "hop_length", "num_mels": "n_mels"}
    changes: dict[str, Any] = {ours: settings[theirs] for theirs, ours in names.items() if settings.get(theirs)}
    changes |= {ours: float(settings[theirs]) for theirs, ours in {"fmin": "f_min", "fmax": "f_max"}.items()
                if settings.get(theirs) is not None}
    length = settings.get("win_length") or 0
    changes["win_length"] = length if length > 0 else changes.get("n_fft", format.n_fft)
    return replace(format, **changes)


def _cycle(settings: Mapping[str, Any], layers: int) -> int:
    """Layers until the dilations start again: the tensors do not say it."""
    stacks = settings.get("stacks", {24: 4, 30: 3, 20: 2}.get(layers))  # the published sizes
    if not stacks or layers % stacks:
        raise UserError(f"{layers} layers in stacks={stacks}: give the checkpoint's hparams.json, which says how many")
    return layers // stacks


def _exported(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """nv-wavenet's dictionary of lists -> the names of its model's state dict, and what a config would say."""
    unknown = sorted(set(content) - EXPORTED - CONDITIONING)
    missing = sorted(EXPORTED - set(content))
    if unknown or missing:
        raise UserError(f"nv-wavenet's dictionary: missing {', '.join(missing) or 'nothing'}; "
                        f"unknown {', '.join(unknown) or 'nothing'}")
    state = {name: content[name] for name in CONDITIONING & set(content)}
    state |= {"embed.weight": content["embedding_curr"], "conv_out.conv.weight": content["conv_out_weight"],
              "conv_end.conv.weight": content["conv_end_weight"]}
    if content["embedding_prev"].any():
        state["embed_previous.weight"] = content["embedding_prev"]
    for kind in ("dilate", "res", "skip"):
        for part, tensors in (("weight", content[f"{kind}_weights"]), ("bias", content[f"{kind}_biases"])):
            state |= {f"{kind}_layers.{layer}.conv.{part}": tensor for layer, tensor in enumerate(tensors)}
    return state, {"max_dilation": content["max_dilation"], "first_tanh": bool(content["use_embed_tanh"])}


def _nvidia(
    state: dict[str, Tensor], sizes: Mapping[str, Any], settings: Mapping[str, Any], mel: MelFormat | None
) -> tuple[WaveNetConfig, dict[str, Tensor]]:
    layers = _layers(state, "dilate_layers.{}.conv.weight")
    left = dict(state)
    embeddings = [left.pop(name) for name in ("embed_previous.weight", "embed.weight") if name in left]
    made = {"first_conv.weight": torch.stack([table.T for table in embeddings], 2)}  # oldest sample first
    made["first_conv.bias"] = torch.zeros(len(made["first_conv.weight"]))
    names = {"dilate_layers": "conv", "res_layers": "conv1x1_out", "skip_layers": "conv1x1_skip"}
    for theirs, ours in names.items():
        for key in [key for key in left if key.startswith(f"{theirs}.")]:
            _, layer, _, part = key.split(".")
            value = left.pop(key)
            flat = theirs != "dilate_layers" and part == "weight" and value.dim() == 2
            made[f"conv_layers.{layer}.{ours}.{part}"] = value[:, :, None] if flat else value
    for theirs, ours in {"conv_out": "last_conv_layers.1", "conv_end": "last_conv_layers.3"}.items():
        weight = left.pop(f"{theirs}.conv.weight")
        made[f"{ours}.weight"] = weight.reshape(*weight.shape[:2], 1)
        made[f"{ours}.bias"] = torch.zeros(len(weight))
    upsampling: dict[str, Any] = {"upsampling": "none"}
    if "cond_layers.conv.weight" in left:
        weights, biases = (left.pop(f"cond_layers.conv.{part}").chunk(layers) for part in ("weight", "bias"))
        for layer in range(layers):
            made[f"conv_layers.{layer}.conv1x1c.weight"] = weights[layer]
            made[f"conv_layers.{layer}.conv.bias"] = made[f"conv_layers.{layer}.conv.bias"] + biases[layer]
        upsampling = {"upsampling": "transposed_frames", "window": left["upsample.weight"].shape[2]}
        made |= {f"upsample_net.{part}": left.pop(f"upsample.{part}") for part in ("weight", "bias")}
    made |= left  # what no layout knows is named by the loader
    format = mel or _nvidia_format(settings)
    made |= _plain(format)
    largest = int(sizes.get("max_dilation", 128))  # 128: that of the published config.json
    classes, channels = embeddings[-1].shape
    return WaveNetConfig(
        mel=format, output="softmax", classes=classes, layers=layers, cycle=int(math.log2(largest)) + 1,
        channels=channels, hidden_channels=len(made["last_conv_layers.1.bias"]), first_kernel=len(embeddings),
        first_tanh=sizes.get("first_tanh", False), residual_scale=1.0, skip_scale="none", **_sizes(made), **upsampling,
    ), made


def _nvidia_format(settings: Mapping[str, Any]) -> MelFormat:
    data = settings.get("data_config", {})
    names = {"filter_length": "n_fft", "hop_length": "hop_length", "win_length": "win_length",
             "sampling_rate": "sample_rate"}
    return replace(MEL_FORMATS["nv_wavenet_16k"], **{ours: data[key] for key, ours in names.items() if key in data})


def _plain(format: MelFormat) -> dict[str, Tensor]:
    """Statistics of mels that the network takes as they are."""
    return {"mean": torch.zeros(format.n_mels), "scale": torch.ones(format.n_mels)}


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    rows, _, kernel = state["conv_layers.0.conv.weight"].shape
    skip_channels = len(state["conv_layers.0.conv1x1_skip.weight"])
    return {"kernel_size": kernel, "gate_channels": rows // 2, "skip_channels": skip_channels}


def _layers(state: Mapping[str, Tensor], name: str) -> int:
    layers = 0
    while name.format(layers) in state:
        layers += 1
    if not layers:
        raise UserError(f"the weights lack {name.format(0)}: they begin with {_some(state)}")
    return layers


def _number(key: str) -> int:
    """The number in a list's key, "upsample_net.layers.2.weight": 2."""
    return next(int(part) for part in key.split(".") if part.isdigit())


def _some(state: Mapping[str, Tensor]) -> str:
    return ", ".join(list(state)[:4])

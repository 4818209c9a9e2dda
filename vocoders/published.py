"""Weights as their first authors published them: read without running pickled code, weight norms folded away.

Every family's class knows how to build itself from such a file: `from_published(state, settings, mel=...)`. What is
common to them stands here. What we save again is folded float32 safetensors.

Weight normalisation (Salimans and Kingma 2016) writes a weight as w = g v / |v|, the norm taken over all dimensions but
the first. Three spellings are in circulation: `x.weight_g`, `x.weight_v` (torch before 2.1), `x.parametrizations.weight
.original0`, `.original1` (since), and the folded `x.weight`.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiogen.core.checkpoint import load_state
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat

_PAIRS = (
    (re.compile(r"^(.*)\.weight_g$"), "{}.weight_v"),
    (re.compile(r"^(.*)\.parametrizations\.weight\.original0$"), "{}.parametrizations.weight.original1"),
)


def read_weights(path: str | Path) -> dict[str, Any]:
    """The content of a .safetensors or torch file, nested as it is. Torch files are opened with `weights_only`."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as reason:
        named = re.search(r"GLOBAL (\S+)", str(reason))
        raise UserError(
            f"{path} holds {'the Python object ' + named[1] if named else 'Python objects'}, and loading those would "
            "run code from the file: where you trust it, save its state_dict alone and read that"
        ) from None
    except Exception as reason:  # torch raises half a dozen kinds here, for a text file as for a truncated one
        raise UserError(f"{path} is no weights file ({str(reason).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def read_settings(path: str | Path) -> dict[str, Any]:
    """The configuration beside published weights: .json, .yaml or .yml."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            values = json.loads(text)
        else:
            import yaml

            values = yaml.safe_load(text)
    except FileNotFoundError:
        raise UserError(f"no configuration at {path}") from None
    except Exception as reason:
        raise UserError(f"{path} is no readable configuration ({str(reason).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is no table of settings")
    return values


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All three spellings -> `x.weight`. A g without its v, or a v without its g, is an error."""
    folded = dict(state)
    for key in list(state):
        for pattern, other in _PAIRS:
            match = pattern.match(key)
            if match is None:
                continue
            partner = other.format(match[1])
            if partner not in folded:
                raise UserError(f"the weights hold {key} but not {partner}: the file is incomplete")
            g, v = folded.pop(key), folded.pop(partner)
            # In float64: the fold then costs no accuracy beyond the last rounding.
            norm = v.double().flatten(1).norm(dim=1).reshape(-1, *[1] * (v.dim() - 1))
            folded[f"{match[1]}.weight"] = (g.double() * v.double() / norm).to(v.dtype)
    left = [key for key in folded if key.endswith(".weight_v") or key.endswith(".weight.original1")]
    if left:
        raise UserError(f"the weights hold {left[0]} but not its gain: the file is incomplete")
    return folded


def take(state: dict[str, Tensor], names: Iterable[str], *, why: str) -> None:
    """Remove entries that the original code never reads. Each is named by its caller, so nothing vanishes silently:
    `why` says in the source what they were."""
    assert why
    for name in names:
        state.pop(name, None)


def load_published(model: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Load every key or none, in float32; missing, unexpected and misshapen ones are listed in one error."""
    load_state(model, {key: value.float() if value.is_floating_point() else value for key, value in state.items()},
               what=what)


def statistics(stats: Any, n_mels: int, *, what: str) -> tuple[Tensor, Tensor]:
    """The statistics of a corpus's mels, {"mean", "scale"} or an array (2, n_mels) -> mean, scale (n_mels,).

    Parallel WaveGAN keeps them in stats.h5 or stats.npy, r9y9's WaveNet in meanvar.joblib. what: the model's name.
    """
    if stats is None:
        raise UserError(
            f"the published {what} takes normalised mels, and their statistics are missing: give those that lie beside "
            "the checkpoint as settings['stats'] (mean 0 and scale 1 where the mels are normalised already)"
        )
    pair = (stats["mean"], stats["scale"]) if isinstance(stats, Mapping) else (stats[0], stats[1])
    mean, scale = (torch.as_tensor(value, dtype=torch.float32).flatten() for value in pair)
    if mean.shape != (n_mels,) or scale.shape != (n_mels,) or not (scale > 0).all():
        raise UserError(
            f"the statistics hold mean {tuple(mean.shape)} and scale {tuple(scale.shape)}: ({n_mels},) is needed, "
            "with scale > 0"
        )
    return mean, scale


def parallel_wavegan_params(
    settings: Mapping[str, Any], defaults: Mapping[str, Any], only: Iterable[str]
) -> dict[str, Any]:
    """`generator_params` of ParallelWaveGAN's config.yml, completed; `only`: fields that must have their default."""
    if "generator_params" not in settings:
        raise UserError("the configuration of ParallelWaveGAN is missing: give the checkpoint's config.yml")
    # The recipes once spelt it so.
    given = {key.replace("kernal", "kernel"): value for key, value in settings["generator_params"].items()}
    if unknown := sorted(set(given) - set(defaults)):
        raise UserError(f"generator_params has {', '.join(unknown)}, which audiogen does not know")
    values = {**defaults, **given}
    for name in only:
        if values[name] != defaults[name]:
            raise UserError(f"generator_params says {name}={values[name]!r}: audiogen has only {defaults[name]!r}")
    return values


def parallel_wavegan_format(settings: Mapping[str, Any]) -> MelFormat:
    """The mel format that a config.yml of ParallelWaveGAN (any of its models) describes."""
    if settings.get("window", "hann") != "hann" or settings.get("global_gain_scale", 1.0) != 1.0:
        raise UserError(
            f"config.yml says window={settings.get('window')!r} and global_gain_scale="
            f"{settings.get('global_gain_scale')}: audiogen's mels have a Hann window and gain 1"
        )
    try:
        rate, n_fft = settings["sampling_rate"], settings["fft_size"]
        return MelFormat(
            sample_rate=rate, n_fft=n_fft, win_length=settings.get("win_length") or n_fft,
            hop_length=settings["hop_size"], n_mels=settings["num_mels"], f_min=float(settings.get("fmin") or 0.0),
            f_max=float(settings.get("fmax") or rate / 2), log="log10", floor=1e-10, padding="center",
        )
    except KeyError as name:
        raise UserError(f"config.yml lacks {name}: give the checkpoint's whole configuration") from None


# What only one family has: a key that begins so, whichever way its weight norm is spelt. The first match counts.
_FAMILIES = (
    ("vocos", r"backbone\.convnext\.\d+\.dwconv\."),
    ("diffwave", r"diffusion_embedding\.projection1\."),
    ("hifigan", r"(conv_pre|input_conv|input_conv\.conv)\.(weight|bias)"),  # BigVGAN too; PWG's names
    ("melgan", r"(melgan|model|generator)\.\d+\.(weight|bias|conv\.weight)"),  # PWG's, descript's, seungwonpark's
    ("parallel_wavegan", r"conv_layers\.\d+\.conv1x1_aux\."),
    ("wavenet", r"conv_layers\.\d+\.conv1x1|dilate_layers\.\d+\.conv\."),  # both layouts of r9y9's, nv-wavenet's
)
# Where files keep the generator's tensors. Beside them lie discriminators, optimizers and counters of the training.
_PLACES = (("generator",), ("model", "generator"), ("model_g",), ("state_dict",), ("model",))


def generator_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The generator's tensors of a checkpoint, whichever of the published ways it keeps them in."""
    for place in _PLACES:
        found: Any = content
        for name in place:
            found = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
            return dict(found)
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return dict(content)
    raise UserError("no vocoder's weights are in this file: it holds "
                    + (", ".join(map(str, list(content)[:8])) or "nothing"))


def detect(content: Mapping[str, Any]) -> str:
    """The name in the vocoders' TABLE of the family whose weights these are."""
    if {"embedding_prev", "dilate_weights"} <= set(content):
        return "wavenet"  # nv-wavenet's dictionary, which holds lists of tensors
    norm = re.compile(r"(weight_[gv]|parametrizations\.weight\.original[01])$")
    keys = [norm.sub("weight", key) for key in generator_state(content)]
    for family, pattern in _FAMILIES:
        if any(re.match(pattern, key) for key in keys):
            return family
    raise UserError(f"weights of no family that audiogen knows: they begin with {', '.join(keys[:4])}")

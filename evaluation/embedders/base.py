"""What every embedder promises, and where its weights are looked for."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.core.registry import resolve
from evaluation.weights import WEIGHTS, own_folder

# How NumPy pickles arrays and numbers; the module's name changed with version 2.
_NUMPY = {"_reconstruct": np.zeros(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
_DTYPES = [type(np.dtype(kind)) for kind in "fdbBhHiIlLqQ?"]


@runtime_checkable
class Embedder(Protocol):
    """Audio -> one feature vector a window.

    `window` and `hop` are seconds; a clip of less than one window has no vector (callers count or pad it).
    `version` changes whenever the same audio would give other numbers; it is part of the key of the embedding cache.
    """

    name: str
    version: int
    sample_rate: int  # of the audio that it takes
    dim: int
    window: float
    hop: float
    weights_sha256: str  # "" for an embedder without weights
    note: str  # what a reader of its numbers must know

    def __call__(self, audio: Tensor) -> Tensor:
        """audio (batch, time) float32 at `sample_rate` -> (batch, windows, dim)."""


def load_embedder(name: str, *, weights: Mapping[str, str | Path] | str | Path | None = None) -> Embedder:
    """The embedder of that name, in eval mode.

    weights: the folder that holds weight files; or by embedder's name its own file or folder, "" for all others.
    """
    if isinstance(weights, Mapping):
        weights = weights.get(name, weights.get(""))
    return resolve("embedder", name)(weights=weights)


def parse_weights(words: Sequence[str]) -> dict[str, Path] | None:
    """["folder", "yamnet=some/file.tflite"] -> {"": folder, "yamnet": file}; None for no words."""
    found: dict[str, Path] = {}
    for word in words:
        name, sign, path = word.partition("=")
        if sign and re.fullmatch(r"\w+", name):
            resolve("embedder", name)  # an unknown name is an error now
        else:
            name, path = "", word
        if name in found:
            raise UserError(f"--weights names two places for {name or 'all embedders'}: {found[name]} and {path}")
        if not Path(path).exists():
            raise UserError(f"--weights {word}: there is nothing at {path}")
        found[name] = Path(path)
    return found or None


def read_weights(file: str, *, sha256: str, source: str, weights: str | Path | None) -> bytes:
    """The bytes of a published weight file, checked against its hash.

    Looked for in `weights` (its folder, or the file itself), then where `audiogen weights get` puts them: the folder
    that AUDIOGEN_WEIGHTS names, else one in the user's cache. `sha256`: the hash, or its beginning where no more is
    published. Never fetched here, never patched in place.
    """
    folders = [Path(folder) for folder in (weights, own_folder()) if folder]
    for folder in folders:
        path = folder if folder.is_file() else folder / file
        if path.is_file():
            data = path.read_bytes()
            found = hashlib.sha256(data).hexdigest()
            if not found.startswith(sha256):
                raise UserError(f"{path} is not the published file (sha256 {found[:12]}..., not {sha256[:12]}...): "
                                f"copy it again from {source}")
            return data
    looked = ", ".join(str(folder) for folder in folders)
    fetch = next((f"audiogen weights get {name} fetches it; or " for name, known in WEIGHTS.items()
                  if any(one.name == file for one in known.files)), "")
    raise UserError(f"weights {file} not found: looked in {looked}; {fetch}get it from {source} (sha256 "
                    f"{sha256[:12]}...) and name its folder with --weights or AUDIOGEN_WEIGHTS, or use --embedder "
                    "melstats, which needs none")


def read_tensors(data: bytes, *, what: str) -> dict[str, Tensor]:
    """A torch file's tensors; Python objects in it are not run. `what`: its name, for the error.

    NumPy arrays beside the tensors are let pass (PANNs' 16 kHz file keeps its sampler's), nothing else is.
    """
    arrays = [(function, f"{module}.multiarray.{name}") for module in ("numpy.core", "numpy._core")
              for name, function in _NUMPY.items()]
    try:
        with torch.serialization.safe_globals([*arrays, np.ndarray, np.dtype, *_DTYPES]):
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as reason:
        raise UserError(f"{what} is no file of tensors ({str(reason).splitlines()[0]})") from None
    if not isinstance(found, dict):
        raise UserError(f"{what} holds a {type(found).__name__}, not a dictionary of tensors")
    return found


def windows(frames: Tensor, length: int, hop: int) -> Tensor:
    """frames (batch, time, dim) -> (batch, windows, length, dim); whole windows only, so there may be none."""
    if frames.shape[1] < length:
        return frames.new_zeros(frames.shape[0], 0, length, frames.shape[2])
    return frames.unfold(1, length, hop).transpose(2, 3)  # unfold puts the window last


def in_blocks(function, rows: Tensor, block: int, width: int) -> Tensor:
    """function over rows (n, ...) -> (n, width), `block` rows at a time, so that memory does not grow with the clip."""
    if not len(rows):
        return rows.new_zeros(0, width)
    return torch.cat([function(part) for part in rows.split(block)])

"""Models of the library transformers from a folder on disk: safetensors and JSON only; nothing is fetched or run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from audiogen.core.errors import UserError
from evaluation.weights import WEIGHTS, own_folder


def transformers() -> ModuleType:
    """The library, without its talk. Raises `UserError` where it is not installed."""
    from audiogen.signal.torchaudio_parts import torchaudio_parts

    torchaudio_parts()  # transformers imports torchaudio where it is installed, also where it does not load
    try:
        import transformers
    except ImportError:
        raise UserError("this embedder needs the package transformers: pip install 'audiogen[embedders]'") from None
    transformers.logging.set_verbosity_error()
    return transformers


def find_folder(name: str, *, source: str, weights: str | Path | None) -> tuple[Path, dict[str, Any], str]:
    """-> the folder, its config.json, and the sha256 of its model.safetensors.

    Looked for as `weights` itself, then as the folder `name` in `weights`, and where `audiogen weights get` puts it.
    """
    places = [Path(weights), Path(weights) / name] if weights else []
    places.append(own_folder() / name)
    for folder in places:
        if (folder / "config.json").is_file():
            file = folder / "model.safetensors"
            if not file.is_file():
                raise UserError(f"{folder} has no model.safetensors; pickled weights are not opened, but audiogen "
                                f"weights convert {folder / 'pytorch_model.bin'} turns them into it")
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256") if hasattr(hashlib, "file_digest") else _sha256(opened)
            try:
                config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            except ValueError as reason:
                raise UserError(f"{folder / 'config.json'} is no JSON ({reason})") from None
            return folder, config, digest.hexdigest()
    looked = ", ".join(str(p) for p in places)
    fetch = f"audiogen weights get {name} fetches it; or " if name in WEIGHTS else ""
    raise UserError(f"{name}: no folder with config.json and model.safetensors; looked in {looked}; {fetch}get "
                    f"{source} and name its folder with --weights {name}=FOLDER, or use --embedder melstats, which "
                    "needs none")


def _sha256(opened: Any) -> Any:
    digest = hashlib.sha256()
    while block := opened.read(1 << 20):
        digest.update(block)
    return digest


def load_exactly(model_type: Any, folder: Path, *, unread: tuple[str, ...] = ()) -> Any:
    """The model with every weight of its own found in the file, in eval mode. `unread`: beginnings of names in the file
    that the model may leave alone."""
    model, found = model_type.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True)
    _complain(folder, missing=list(found["missing_keys"]),
              unknown=[key for key in found["unexpected_keys"] if not key.startswith(unread)],
              other=[key[0] for key in found.get("mismatched_keys", ())])
    return model.float().eval()


def load_named(model: Any, state: dict[str, Tensor], folder: Path) -> Any:
    """Put `state` into `model`, where every name and shape fits exactly."""
    own = model.state_dict()
    _complain(folder, missing=sorted(own.keys() - state.keys()), unknown=sorted(state.keys() - own.keys()),
              other=[name for name in own.keys() & state.keys() if own[name].shape != state[name].shape])
    model.load_state_dict(state)
    return model.float().eval()


def _complain(folder: Path, *, missing: list[str], unknown: list[str], other: list[str]) -> None:
    wrong = [f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
             for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", other)) if names]
    if wrong:
        raise UserError(f"{folder / 'model.safetensors'} does not fit: weights {'; '.join(wrong)}")

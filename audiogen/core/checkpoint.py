"""A checkpoint is a folder: config.json, model.safetensors (EMA weights), README.md (card), scores.json. No pickles."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from audiogen.core.config import from_dict, to_dict
from audiogen.core.errors import UserError
from audiogen.core.files import whole_folder
from audiogen.core.mel_format import MelFormat
from audiogen.core.registry import name_of, resolve

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model in eval mode, and all that was written beside it."""

    model: Any
    room: str
    name: str
    mel: MelFormat | None  # None for composers, whose models know notes only
    labels: dict = field(default_factory=dict)  # what else the model was trained with: styles, recipe, data
    hash: str = ""


def save_checkpoint(
    folder: str | Path, model: nn.Module, *, room: str, labels: dict | None = None,
    card: str = "", scores: dict | None = None, weights: dict[str, Tensor] | None = None,
) -> None:
    """Write `model` (or `weights` in its place) with its `config`, whole or not at all.

    `model.config` is a frozen dataclass, with a field `mel: MelFormat` but for composers; the class is found again by
    its table name.
    """
    from safetensors.torch import save_file

    import audiogen

    values = {
        "format": FORMAT, "audiogen": audiogen.__version__, "room": room, "name": name_of(room, type(model)),
        "config": to_dict(model.config), "labels": labels or {},
    }
    state = weights if weights is not None else model.state_dict()
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with whole_folder(folder) as part:
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        (part / "config.json").write_text(text, encoding="utf-8")
        save_file(state, part / "model.safetensors", metadata={"format": "pt"})
        card = card or f"# {values['name']}\n\nTrained with audiogen {audiogen.__version__}.\n"
        (part / "README.md").write_text(card, encoding="utf-8")
        (part / "scores.json").write_text(json.dumps(scores or {}, indent=1) + "\n", encoding="utf-8")


def read_config(folder: str | Path) -> dict:
    """config.json of a checkpoint folder, checked. Raises `UserError` with what is wrong and the way out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no checkpoint folder at {folder}")
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        missing = {"format", "room", "name", "config"} - set(values)
        if not missing and not (isinstance(values["format"], int) and isinstance(values["config"], dict)
                                and isinstance(values["room"], str) and isinstance(values["name"], str)):
            raise ValueError("its fields are of other types than they were written with")
    except FileNotFoundError:
        hint = " (pickled .pt/.pth/.bin files are never read from here)" if _pickles(folder) else ""
        raise UserError(f"{folder} is no checkpoint: it has no config.json{hint}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as reason:
        raise UserError(f"{folder}/config.json is corrupt ({reason}); copy or download the checkpoint again") from None
    if missing:
        raise UserError(f"{folder}/config.json lacks {', '.join(sorted(missing))}; it is not an audiogen checkpoint")
    if values["format"] > FORMAT:
        raise UserError(f"{folder} was written by a newer audiogen (format {values['format']}): upgrade audiogen")
    return values


def load_checkpoint(folder: str | Path, *, room: str | None = None, device: str = "cpu") -> Checkpoint:
    """Build the model that the folder describes and load its weights, every key of them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    values = read_config(folder)
    if room is not None and values["room"] != room:
        raise UserError(f"{folder} holds a {values['room']} ({values['name']}), not a {room}")
    cls = resolve(values["room"], values["name"])
    try:
        model = cls(from_dict(cls.config_type, values["config"]))
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError, AssertionError,
            MemoryError) as reason:  # whatever a constructor makes of impossible numbers
        raise UserError(f"{folder}/config.json describes no {values['name']} that can be built ({reason}); copy or "
                        "download the checkpoint again") from None
    weights = folder / "model.safetensors"
    if not weights.is_file():
        hint = f"; {_pickles(folder)[0].name} is a pickle, which is never read" if _pickles(folder) else ""
        raise UserError(f"{folder} has no model.safetensors{hint}")
    try:
        state = load_file(weights, device="cpu")
    except (SafetensorError, OSError, ValueError) as reason:
        raise UserError(f"{weights} is corrupt or no safetensors file ({reason}); copy or download it again") from None
    load_state(model, state, what=str(folder))
    return Checkpoint(model.to(device).eval(), values["room"], values["name"], getattr(model.config, "mel", None),
                      values.get("labels", {}), checkpoint_hash(folder))


def load_state(model: nn.Module, state: dict[str, Tensor], *, what: str) -> None:
    """Load every key or none: missing, unexpected and misshapen ones are all listed in one error."""
    own = model.state_dict()
    missing = sorted(set(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    misshapen = sorted(
        f"{key} {tuple(state[key].shape)} where {tuple(own[key].shape)} is needed"
        for key in set(own) & set(state) if own[key].shape != state[key].shape
    )
    problems = [f"{name}: {', '.join(keys)}" for name, keys in
                [("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)] if keys]
    if problems:
        raise UserError(f"{what} does not fit {type(model).__name__}; " + "; ".join(problems))
    model.load_state_dict(state)


def checkpoint_hash(folder: str | Path) -> str:
    """12 hex digits over the configuration and the weights: which checkpoint made this sound."""
    return files_hash(Path(folder) / "config.json", Path(folder) / "model.safetensors")


def files_hash(*files: Path) -> str:
    """12 hex digits over the contents of some files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _pickles(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"))

"""audiogen info: what is installed, on what machine, and which checkpoints are at hand."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from audiogen import __version__
from audiogen.core.errors import UserError

PACKAGES = ("torchaudio", "accelerate", "numpy", "scipy", "soundfile", "soxr", "librosa", "safetensors", "tyro")


@dataclass(frozen=True)
class Info:
    """Versions, machine, checkpoints with their styles and licences, and where they were looked for.

    examples:
      audiogen info
      audiogen info --checkpoint runs/mine/engine
      audiogen info --json
    """

    checkpoint: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the shipped one)")] = None
    """An engine folder or a single checkpoint. Its hash pins it on a hub: owner/name@revision#hash."""
    json: bool = False
    """As JSON, for programs."""

    def run(self) -> int:
        values = gather(self.checkpoint)
        if self.json:
            print(json.dumps(values, indent=1, ensure_ascii=False))
            return 0
        for name, value in values.items():
            if name == "checkpoints":
                for checkpoint in value:
                    print("\n".join(_lines(checkpoint)))
            else:
                print(f"{name:<12} {value if not isinstance(value, dict) else _pairs(value)}")
        return 0


def gather(checkpoint: Path | None = None) -> dict[str, Any]:
    """All that `audiogen info` prints, as JSON values."""
    import torch

    import audiogen.ops  # noqa: F401 (loads the kernels)
    from audiogen.core.hub import folder_hash
    from audiogen.ops.library import state

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if checkpoint is not None and not checkpoint.is_dir():
        raise UserError(f"no checkpoint folder at {checkpoint}")
    folder = checkpoint or Path(__file__).parents[1] / "pretrained"
    found = _checkpoints(folder)
    if checkpoint is not None and not found:
        raise UserError(f"{checkpoint} holds no checkpoint: there is no config.json in it")
    weights = os.environ.get("AUDIOGEN_WEIGHTS")
    return {
        "audiogen": __version__,
        "python": f"{platform.python_version()} ({platform.machine()}, {platform.system()} {platform.release()})",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}",
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": ", ".join(["cpu", *cuda]),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "kernels": state(),
        "looked in": str(folder) + ("" if found else " (no checkpoint there)"),
        **({} if checkpoint is None else {"hash": folder_hash(checkpoint)}),
        "embedders": weights or "AUDIOGEN_WEIGHTS is not set: evaluation uses log-mel statistics",
        "checkpoints": found,
    }


def _checkpoints(folder: Path) -> list[dict[str, Any]]:
    from audiogen.core.checkpoint import checkpoint_hash, read_config

    found = []
    for config in sorted(folder.rglob("config.json")) if folder.is_dir() else []:
        try:
            values = read_config(config.parent)
            styles = values.get("labels", {}).get("vocabulary", {}).get("styles", [])
            found.append({
                "folder": str(config.parent), "room": values["room"], "name": values["name"],
                "hash": checkpoint_hash(config.parent), "licence": _licence(config.parent, folder),
                "mel": _mel_hash(values["config"]), "styles": list(styles),
            })
        except (UserError, OSError) as reason:
            found.append({"folder": str(config.parent), "problem": str(reason)})
    return found


def _mel_hash(config: dict[str, Any]) -> str | None:
    from audiogen.core.config import from_dict
    from audiogen.core.mel_format import MelFormat

    return from_dict(MelFormat, config["mel"]).hash() if "mel" in config else None


def _licence(folder: Path, root: Path) -> str | None:
    """The `license:` line at the head of the checkpoint's card, or of the card of the engine that it belongs to."""
    for place in (folder, folder.parent):
        card = place / "README.md"
        match = re.search(r"(?m)^licen[sc]e:\s*(.+)$", card.read_text(encoding="utf-8")) if card.is_file() else None
        if match:
            return match[1].strip()
        if place == root:
            break
    return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value or 'missing'}" for name, value in values.items())


def _lines(checkpoint: dict[str, Any]) -> list[str]:
    if "problem" in checkpoint:
        return [f"checkpoint   {checkpoint['problem']}"]
    lines = [f"checkpoint   {checkpoint['room']} {checkpoint['name']} {checkpoint['hash']}  {checkpoint['folder']}"]
    lines.append(f"             mel format {checkpoint['mel']}, licence {checkpoint['licence'] or 'not stated'}")
    if checkpoint["styles"]:
        lines.append(f"             styles: {', '.join(checkpoint['styles'])}")
    return lines

"""Which files a set consists of: a folder of audio, or a manifest that `audiogen scan` wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiogen.core.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")
MANIFEST = ".jsonl"
BESIDE = "manifest.jsonl"  # in a folder: what `audiogen scan folder/ -o folder/manifest.jsonl` wrote


@dataclass(frozen=True)
class Listing:
    """Files in a fixed order. `place`: what the person named; names of clips are relative to `folder`.

    styles: file -> its one style, where a manifest says it; a file of several styles has none.
    """

    place: Path
    folder: Path
    files: tuple[Path, ...]
    styles: Mapping[Path, str] = field(default_factory=dict)

    @classmethod
    def of(cls, place: str | Path | Listing, *, split: str | None = None) -> Listing:
        """A folder, or a manifest (.jsonl), or the entries of its one `split`. Raises `UserError` for anything else,
        and where there is no audio."""
        if isinstance(place, Listing):
            return place
        place = Path(place)
        if place.suffix == MANIFEST:
            return cls._of_manifest(place, split)
        if split is not None:
            raise UserError(f"{place} has no split {split!r}: only a manifest (.jsonl, by audiogen scan) has splits")
        if not place.is_dir():
            raise UserError(f"no folder of clips at {place}")
        files = tuple(sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
                             and not p.is_dir()))
        if not files:
            raise UserError(f"{place} holds no audio ({' '.join(SUFFIXES)})")
        styles = _read(place / BESIDE)[1] if (place / BESIDE).is_file() else {}
        return cls(place, place, files, {path: style for path in files if (style := _one(styles.get(_plain(path))))})

    @classmethod
    def _of_manifest(cls, place: Path, split: str | None) -> Listing:
        folder, styles, splits = _read(place)
        if split is not None and split not in splits.values():
            raise UserError(f"{place} has no split {split!r}; it has {', '.join(sorted(set(splits.values())))}")
        files = tuple(path for path in styles if split in (None, splits[path]))
        if not files:
            raise UserError(f"{place} lists no file")
        return cls(place, folder, files, {path: style for path in files if (style := _one(styles[path]))})

    def name(self, path: Path) -> str:
        """The clip's name: its path within the folder, where it lies there."""
        return name_of(path, self.folder)

    def part(self, index: int, count: int) -> Listing:
        """Every `count`-th file from the `index`-th on."""
        return Listing(self.place, self.folder, self.files[index::count], self.styles)


def name_of(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _read(manifest: Path) -> tuple[Path, dict[Path, tuple[str, ...]], dict[Path, str]]:
    """-> the root, and of every file that is no duplicate its styles and its split."""
    try:
        lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
        header: dict[str, Any] = lines.pop(0) if lines and "manifest" in lines[0] else {}
        root = Path(os.path.normpath(manifest.absolute().parent / header.get("root", ".")))
        if header.get("files", len(lines)) != len(lines):
            raise ValueError(f"{len(lines)} files where its header says {header['files']}")
        lines = [line for line in lines if not line.get("duplicate_of")]
        return (root, {root / line["path"]: tuple(line.get("styles", ())) for line in lines},
                {root / line["path"]: line.get("split", "train") for line in lines})
    except FileNotFoundError:
        raise UserError(f"no manifest at {manifest}; make one with: audiogen scan FOLDER -o {manifest}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as reason:
        raise UserError(f"{manifest} is no manifest that audiogen scan wrote ({reason}); scan again") from None


def _plain(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))


def _one(styles: tuple[str, ...] | None) -> str | None:
    return styles[0] if styles and len(styles) == 1 else None

"""The manifest: what is known about every file of a folder of sounds, one JSON object a line.

    {"manifest": 1, "audiogen": "0.1.0", "root": "sounds", "files": 2, "seconds": 12.5}      the header
    {"path": "piano/a.flac", "seconds": 4.0, "sample_rate": 44100, ...}                      one `Entry` a line
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from audiogen.core.files import whole_file

FORMAT = 1
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Entry:
    """One file: what was measured in it, what it is said to be, and on which side of the split it lies."""

    path: str  # relative to the manifest's root, with forward slashes; or absolute
    seconds: float
    sample_rate: int  # Hz, of the file
    channels: int
    loudness: float | None = None  # LUFS, integrated and gated (BS.1770-4); None: below the gate of -70 LUFS
    peak_db: float = 0.0  # dBFS, of the samples
    clipped: float = 0.0  # fraction of the samples in runs of three or more at full scale
    silent: float = 0.0  # fraction of the blocks of 0.1 s whose peak is below -60 dBFS
    hash: str = ""  # BLAKE2b of the decoded samples: the same for a copy in another lossless container
    text: str = ""  # a caption
    tags: dict[str, Any] = field(default_factory=dict)  # str -> str or list of str: licence, attribution, title, ...
    styles: tuple[str, ...] = ()  # label, instrument or style names
    score: str | None = None  # a MIDI file, as `path`
    source: str = ""  # what must not be on two sides of the split: a recording, a player, a sample library's note
    split: str = "train"
    duplicate_of: str | None = None  # the `path` of the first file that sounds the same

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"{self.path}: split {self.split!r} must be one of {', '.join(SPLITS)}")
        if not (0 <= self.seconds < 1e9 and self.sample_rate > 0 and self.channels > 0):
            raise UserError(f"{self.path}: seconds={self.seconds}, sample_rate={self.sample_rate} and "
                            f"channels={self.channels} must be positive")

    @property
    def time(self) -> int:
        """Samples in each channel, at the file's own rate."""
        return round(self.seconds * self.sample_rate)


@dataclass(frozen=True)
class Manifest:
    """Entries in a fixed order, and the folder that their paths are relative to."""

    entries: tuple[Entry, ...]
    root: Path = Path(".")

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def seconds(self) -> float:
        return sum(entry.seconds for entry in self.entries)

    @property
    def styles(self) -> Counter:
        """style -> number of files."""
        return Counter(style for entry in self.entries for style in entry.styles)

    def audio(self, entry: Entry) -> Path:
        """Where the entry's audio lies."""
        return self.root / entry.path

    def score(self, entry: Entry) -> Path | None:
        """Where the entry's MIDI file lies, if it has one."""
        return self.root / entry.score if entry.score else None

    def select(
        self, *, split: str | None = None, styles: Sequence[str] | None = None, duplicates: bool = True
    ) -> Manifest:
        """The entries of one split, of any of `styles`, and with `duplicates=False` only the first of equal sounds."""
        if split is not None and split not in SPLITS:
            raise UserError(f"no split {split!r}{did_you_mean(split, SPLITS)}")
        for style in styles or ():
            if style not in self.styles:
                raise UserError(f"no file of the manifest has the style {style!r}{did_you_mean(style, self.styles)}")
        wanted = None if styles is None else set(styles)
        kept = (
            entry for entry in self.entries
            if (split is None or entry.split == split)
            and (wanted is None or wanted.intersection(entry.styles))
            and (duplicates or entry.duplicate_of is None)
        )
        return Manifest(tuple(kept), self.root)


def write_manifest(path: str | Path, entries: Iterable[Entry], *, root: str | Path = ".") -> Manifest:
    """Write a manifest whole or not at all. `root`: what relative paths start from.

    Where one of the two holds the other, root is written relative to the manifest, so that both can move together.
    """
    import audiogen

    path, root = Path(path), Path(root).absolute()
    manifest = Manifest(tuple(entries), root)
    home = path.absolute().parent
    near = root == home or home in root.parents or root in home.parents
    header = {
        "manifest": FORMAT, "audiogen": audiogen.__version__,
        "root": Path(os.path.relpath(root, home)).as_posix() if near else root.as_posix(),
        "files": len(manifest), "seconds": round(manifest.seconds, 3),
    }
    with whole_file(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write(json.dumps(header, ensure_ascii=False) + "\n")
        for entry in manifest:
            file.write(json.dumps(_compact(entry), ensure_ascii=False, allow_nan=False) + "\n")
    return manifest


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest, strictly. Raises `UserError` with the number of the line that is wrong.

    Without a header, paths are relative to the manifest's own folder.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no manifest at {path}; make one with: audiogen scan FOLDER -o {path}")
    root, entries, expected = path.absolute().parent, [], None
    known = {entry.name for entry in dataclasses.fields(Entry)}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as reason:
        raise UserError(f"{path} is not a manifest ({reason})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError(f"an object of fields is needed, not {type(values).__name__}")
            if number == 1 and "manifest" in values:
                if values["manifest"] > FORMAT:
                    raise UserError(f"{path} was written by a newer audiogen: upgrade audiogen, or scan again")
                root = root / values.get("root", ".")
                expected = values.get("files")
                continue
            for name in values:
                if name not in known:
                    raise ValueError(f"unknown field {name!r}{did_you_mean(name, known)}")
            entries.append(Entry(**{**values, "styles": tuple(values.get("styles", ()))}))
        except UserError:
            raise
        except (ValueError, TypeError, RecursionError) as reason:
            raise UserError(f"{path}, line {number}: {reason}; scan the folder again, or correct that line") from None
    if expected is not None and expected != len(entries):
        raise UserError(f"{path} holds {len(entries)} files where its header says {expected}: it was cut; scan again")
    return Manifest(tuple(entries), Path(os.path.normpath(root)))


def _compact(entry: Entry) -> dict:
    values = {name.name: getattr(entry, name.name) for name in dataclasses.fields(entry)}
    values["seconds"] = round(entry.seconds, 6)  # a sample is at least 2.6e-6 s (384 kHz), so `time` stays exact
    for name in ("text", "tags", "styles", "score", "source", "duplicate_of"):
        if not values[name]:
            del values[name]
    return values

"""What a sound is said to be, by the cascade: sidecar .json, .txt, metadata.csv, embedded tags, folder names.

Every layer gives the same few fields; for text, styles, split and source the first layer that has one wins, and other
tags are kept from all layers, the earlier winning. The names of the fields are the usual ones:

    text      caption, prompt, text, description (the first that is there; the others stay as tags)
    styles    label, instrument, instruments, style, styles, genre
    split     split, subset: train | training, valid | validation | val | dev, test | testing | eval
    source    source_group: what must not be on two sides of the split
    score     score, midi: a MIDI file; else a .mid or .midi beside the sound
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

TEXT_FIELDS = ("caption", "prompt", "text", "description")
STYLE_FIELDS = ("label", "instrument", "instruments", "style", "styles", "genre")
FILE_FIELDS = ("file", "filename", "file_name", "path", "audio", "audio_file")
SPLIT_NAMES = {
    "train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test", "eval": "test",
}
MEASURED = ("seconds", "duration", "sample_rate", "channels")  # columns that the scan measures itself
DULL_FOLDERS = {"audio", "audios", "clips", "data", "dataset", "files", "samples", "sounds",
                "wav", "wavs", "flac", "mp3", "ogg", "opus", "aiff"}
FIELD_LIMIT = 2000  # characters of a text that are kept


@dataclass
class Said:
    """What one layer, or all of them, say about a sound."""

    text: str = ""
    styles: tuple[str, ...] = ()
    split: str | None = None
    source: str = ""
    score: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)

    def filled_from(self, later: Said) -> Said:
        """This layer, completed by a later one."""
        return Said(
            self.text or later.text, self.styles or later.styles, self.split or later.split,
            self.source or later.source, self.score or later.score, {**later.tags, **self.tags},
        )


class Cascade:
    """The layers of every file under `root`. Problems (a sidecar that is no JSON, a split that is none) are listed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []
        self._tables: dict[Path, dict[str, dict[str, str]]] = {}
        self._told: set[str] = set()

    def __call__(self, path: Path, embedded: Mapping[str, str]) -> Said:
        """All that is said about the sound at `path`; `embedded` is what the file itself carries."""
        said = Said()
        for layer in (self._json, self._txt, self._csv):
            said = said.filled_from(layer(path))
        said = said.filled_from(self._embedded(embedded)).filled_from(self._folders(path))
        if said.score is None:
            beside = next((p for p in (path.with_suffix(s) for s in (".mid", ".midi", ".MID")) if p.is_file()), None)
            said.score = str(beside) if beside else None
        if not said.text:
            said.text = ", ".join(said.styles)
        return said

    def _json(self, path: Path) -> Said:
        for sidecar in (path.with_suffix(".json"), path.with_name(path.name + ".json")):
            if sidecar.is_file():
                try:
                    values = json.loads(sidecar.read_text(encoding="utf-8-sig"))
                except (ValueError, OSError) as reason:
                    self._problem(f"{self._name(sidecar)} is not readable as JSON ({reason}): ignored")
                    continue
                if isinstance(values, dict):
                    return self._fields(values, home=sidecar.parent, name=self._name(sidecar))
                self._problem(f"{self._name(sidecar)} holds no object of fields: ignored")
        return Said()

    def _txt(self, path: Path) -> Said:
        sidecar = path.with_suffix(".txt")
        if not sidecar.is_file():
            return Said()
        try:
            return Said(text=_clean(sidecar.read_text(encoding="utf-8-sig", errors="replace")))
        except OSError as reason:
            self._problem(f"{self._name(sidecar)} cannot be read ({reason.strerror}): ignored")
            return Said()

    def _csv(self, path: Path) -> Said:
        """The row of the nearest metadata.csv that has one for the file; it may stand in any parent folder."""
        said = Said()
        folder = path.parent
        while True:
            row = self._table(folder).get(path.relative_to(folder).as_posix())
            if row is not None:
                said = said.filled_from(self._fields(row, home=folder, name=self._name(folder / "metadata.csv")))
            if folder in (self.root, folder.parent):
                return said
            folder = folder.parent

    def _table(self, folder: Path) -> dict[str, dict[str, str]]:
        """file column -> row, of folder/metadata.csv."""
        if folder not in self._tables:
            rows: dict[str, dict[str, str]] = {}
            table = folder / "metadata.csv"
            if table.is_file():
                try:
                    with open(table, newline="", encoding="utf-8-sig") as file:
                        reader = csv.DictReader(file)
                        column = next((name for name in FILE_FIELDS if name in (reader.fieldnames or ())), None)
                        if column is None:
                            self._problem(f"{self._name(table)} has no column 'file': ignored")
                        for row in reader if column else ():
                            key = Path(str(row.pop(column) or "").replace("\\", "/")).as_posix()
                            rows[key] = {name: text for name, text in row.items() if isinstance(name, str)}
                except (OSError, csv.Error, UnicodeDecodeError) as reason:
                    self._problem(f"{self._name(table)} cannot be read ({reason}): ignored")
            self._tables[folder] = rows
        return self._tables[folder]

    def _embedded(self, embedded: Mapping[str, str]) -> Said:
        tags = {name: _clean(text) for name, text in embedded.items() if name != "software"}
        comment = tags.get("comment", "")
        if comment.startswith("{"):  # written by audiogen: what made the clip
            try:
                comment = str(json.loads(comment).get("prompt", ""))
            except (ValueError, AttributeError):
                comment = ""
            tags.pop("comment")
        text = comment or tags.get("title", "")
        return Said(text=text, styles=_names(tags.get("genre")), tags={n: t for n, t in tags.items() if n != "genre"})

    def _folders(self, path: Path) -> Said:
        folders = path.relative_to(self.root).parent.parts
        split = next((SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES), None)
        dull = DULL_FOLDERS.union(SPLIT_NAMES)
        names = [name for name in folders if name.lower() not in dull and not re.fullmatch(r"[\W\d_]+", name)]
        return Said(styles=_unique(name.replace("_", " ").strip() for name in names[-1:]), split=split)

    def _fields(self, values: Mapping[str, Any], *, home: Path, name: str) -> Said:
        values = {str(key).strip().lower(): value for key, value in values.items()}
        values = {key: value for key, value in values.items() if value not in (None, "", [], {})}
        said = Said()
        said.text = next((_clean(str(values.pop(key))) for key in TEXT_FIELDS if key in values), "")
        said.styles = _unique(style for key in STYLE_FIELDS for style in _names(values.pop(key, None)))
        for key in ("split", "subset"):
            if key in values:
                given = str(values.pop(key)).strip()
                said.split = SPLIT_NAMES.get(given.lower())
                if said.split is None:
                    self._problem(f"{name}: split {given!r} is none of train, valid, test: ignored")
        said.source = str(values.pop("source_group", "")).strip()
        for key in ("score", "midi"):
            given = values.get(key)
            if isinstance(given, str) and given.lower().endswith((".mid", ".midi")):
                del values[key]
                if (home / given).is_file():
                    said.score = str(home / given)
                else:
                    self._problem(f"{name}: there is no score {given}: ignored")
        said.tags = {key: _tag(value) for key, value in values.items() if key not in MEASURED}
        return said

    def _problem(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.problems.append(text)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@lru_cache(maxsize=4096)
def _split_names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in re.split(r"[;,|]", text) if part.strip())


def _names(value: Any) -> tuple[str, ...]:
    """A style field -> names: a list, or text with commas or semicolons between them."""
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return tuple(_clean(str(item)) for item in value if str(item).strip())
    return _split_names(_clean(str(value)))


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))


def _tag(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_clean(str(item)) for item in value]
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)[:FIELD_LIMIT]
    return _clean(str(value))


def _clean(text: str) -> str:
    return " ".join(text.replace("\0", " ").split())[:FIELD_LIMIT]

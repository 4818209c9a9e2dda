"""Folders of single recorded notes and drum hits: what each file holds, read from metadata.csv or from its name."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from audiogen.conditioning.instruments import INSTRUMENTS, Instrument, find_instrument
from audiogen.core.errors import UserError

AUDIO = (".flac", ".wav", ".ogg", ".opus", ".aif", ".aiff", ".mp3")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_OPEN = re.compile(r"\s*(cc0|cc-by-\d|cc by \d|public domain|unlicense|mit\b|bsd)", re.I)


@dataclass(frozen=True)
class RecordedNote:
    """One file. `pitch` is the MIDI number it is said to be, `measured` what an estimator heard; None: no pitch."""

    path: Path
    name: str  # the recorded instrument's own name: "Wurlitzer electric piano", "kick drum"
    family: str = ""
    pitch: float | None = None
    velocity: int = 80
    articulation: str = ""
    split: str = "train"
    licence: str = ""
    attribution: str = ""
    source: str = ""
    group: str = ""  # what must not be on two sides of a split
    caption: str = ""
    measured: float | None = None


def read_notes(folder: str | Path) -> list[RecordedNote]:
    """Every recorded note of a folder, in the order of its metadata.csv or of the file names.

    metadata.csv: columns file, and any of instrument (or label), family, midi, f0_hz, pitch, velocity, articulation,
    split, licence, attribution, source, source_group, caption. Without it, names such as `cello/cello_A2_03.flac` or
    `cello/57.wav` give the pitch, and the folder or the words of the name give the instrument.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder of recorded notes at {folder}")
    table = folder / "metadata.csv"
    if table.is_file():
        with open(table, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        notes = [_from_row(folder, row) for row in rows if row.get("file")]
    else:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO)
        notes = [_from_name(folder, path) for path in files]
    if not notes:
        raise UserError(f"{folder} holds no recorded notes ({', '.join(AUDIO)})")
    return notes


def is_open(licence: str) -> bool:
    """Whether anyone may use what is made from it, at most for a credit: no share-alike, no custom terms."""
    return bool(_OPEN.match(licence)) and not re.search(r"(?i)\b(sa|nc|nd)\b|iowa", licence)


def voices(notes: Iterable[RecordedNote], instrument: Instrument) -> dict[str, list[RecordedNote]]:
    """The recorded instruments that can play `instrument`, each by itself: two pianos are two voices.

    A voice is one name of one library with one way of playing (a sung "ah", a bowed string); a drum kit is one voice.
    """
    found: dict[str, list[RecordedNote]] = {}
    for note in notes:
        if instrument.drum:
            if note.pitch is None and _is_of_kit(note, instrument):
                found.setdefault(instrument.name, []).append(note)
            continue
        if note.pitch is None or find_instrument(note.name) is not instrument:
            continue
        if instrument.articulations:
            if note.articulation and note.articulation not in instrument.articulations:
                continue
            way = ""
        else:
            if re.search(r"(?i)staccato|short|tremolo|muted", note.articulation):
                continue
            way = note.articulation if "sung" in note.articulation else ""
        label = " ".join(filter(None, (note.name, way, f"({Path(note.source).name})" if note.source else "")))
        found.setdefault(label, []).append(note)
    return found


def parse_pitch(text: str) -> int | None:
    """ "A2" -> 45, "c#4" -> 61 (C4 = 60), "60" -> 60; None where it is neither."""
    match = re.fullmatch(r"([A-Ga-g])([#sb♯♭]?)(-?\d)", text.strip())
    if match:
        sign = {"": 0, "b": -1, "♭": -1}.get(match[2], 1)
        return _STEPS[match[1].upper()] + sign + 12 * (int(match[3]) + 1)
    return int(text) if re.fullmatch(r"\d{1,3}", text.strip()) and int(text) < 128 else None


def _is_of_kit(note: RecordedNote, instrument: Instrument) -> bool:
    machine = re.search(r"(?i)808", note.name + note.family)
    if instrument.name == "TR-808 drums":
        return bool(machine) or find_instrument(note.family) is instrument
    kit = find_instrument(note.family)
    return kit is instrument or (kit is None and not machine and note.family.lower() in ("", "drum kit", "drums"))


def _from_row(folder: Path, row: dict[str, str]) -> RecordedNote:
    def value(*names: str) -> str:
        return next((row[name].strip() for name in names if (row.get(name) or "").strip()), "")

    pitch = float(value("midi")) if value("midi") else parse_pitch(value("pitch")) if value("pitch") else None
    measured = 69 + 12 * math.log2(float(value("f0_hz")) / 440) if value("f0_hz") else None
    return RecordedNote(
        folder / row["file"],
        value("instrument", "label"),
        value("family"),
        pitch,
        int(float(value("velocity") or 80)),
        value("articulation"),
        value("split") or "train",
        value("licence"),
        value("attribution"),
        value("source"),
        value("source_group"),
        value("caption"),
        measured,
    )


def _from_name(folder: Path, path: Path) -> RecordedNote:
    words = re.split(r"[\s_]+", path.stem)
    pitches = [(word, parse_pitch(word)) for word in words]
    named = [pair for pair in pitches if pair[1] is not None and not pair[0].isdigit()]
    numbers = [pair for pair in pitches if pair[1] is not None and 21 <= pair[1] <= 108 and len(pair[0]) < 3]
    pitch = (named or numbers or [("", None)])[0]
    name = " ".join(word for word in words if word != pitch[0] and not word.isdigit())
    parents = [part.replace("_", " ") for part in path.relative_to(folder).parts[:-1]] + [folder.name.replace("_", " ")]
    kit = next((part for part in parents if (row := find_instrument(part)) and row.drum), "")
    if kit:
        return RecordedNote(path, name or parents[0], kit)
    known = next((text for text in (name, *parents) if find_instrument(text) in INSTRUMENTS.values()), None)
    return RecordedNote(path, known or name or parents[0], parents[0], None if pitch[1] is None else float(pitch[1]))

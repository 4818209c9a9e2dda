"""Folders of MIDI files as training data for composers: tunes on the grid, their splits, and samples by number."""

from __future__ import annotations

import csv
import hashlib
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from torch.utils.data import Dataset

from audiogen.composers.analysis import chord_steps, estimate_chords, estimate_key, transposed_chord
from audiogen.composers.events import BAR, DURATION, HIT, PREFIX, Vocabulary, tokens_of
from audiogen.composers.grid import BASS, DRUMS, KEYS, METRES, PARTS, STEPS, Sheet, above_c, sheet_of
from audiogen.composers.note_tasks import check_task, source_and_target
from audiogen.composers.rules import RuleComposer
from audiogen.conditioning.instruments import INSTRUMENTS
from audiogen.conditioning.prompts import FORMS
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.midi import META, METRE, read_events
from audiogen.core.rng import SampleRng, key
from audiogen.core.score import Score

MIDI = (".mid", ".midi")
MIN_BARS = 4
SHARES = (("train", 0.9), ("valid", 0.95), ("test", 1.0))  # of source groups, where no metadata.csv says their split


@dataclass(frozen=True)
class Tune:
    """One piece. `group`: what must not be on two sides of a split (a work, a book)."""

    name: str
    sheet: Sheet
    split: str = "train"
    group: str = ""
    licence: str = ""
    attribution: str = ""


def read_tunes(folder: str | Path, *, split: str | None = None) -> tuple[list[Tune], dict[str, str]]:
    """The tunes of a folder of MIDI files (of one split), and why others were left out: file -> reason.

    metadata.csv, if there is one, names the files: column file, and any of label (the style), split, source_group,
    licence, attribution. Without it every MIDI file below the folder is read, its style is the folder it lies in, its
    group the start of its name up to the first digit, and groups are dealt to train (90 %), valid and test by a hash.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder of MIDI files at {folder}")
    table = folder / "metadata.csv"
    if table.is_file():
        with open(table, newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if Path(row.get("file") or "").suffix.lower() in MIDI]
    else:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in MIDI)
        rows = [_row(folder, file) for file in files]
    if not rows:
        raise UserError(f"{folder} holds no MIDI files")
    tunes, left_out = [], {}
    for row in rows:
        group = row.get("source_group") or row["file"]
        place = row.get("split") or _split(group)
        if split is not None and place != split:
            continue
        try:
            sheet = read_sheet(folder / row["file"], style=(row.get("label") or row.get("style") or "").lower())
        except UserError as reason:
            left_out[row["file"]] = str(reason)
            continue
        tunes.append(Tune(row["file"], sheet, place, group, row.get("licence") or "", row.get("attribution") or ""))
    if not tunes:
        raise UserError(f"{folder}: none of {len(rows)} MIDI files can be used"
                        + (f"; the first: {next(iter(left_out.values()))}" if left_out else f" (split {split})"))
    return tunes, left_out


def read_sheet(path: Path, *, style: str = "") -> Sheet:
    """A MIDI file as a training tune. Raises `UserError` for one that cannot be one.

    Of a piece whose metre changes, the longest stretch of one metre. A pickup is guessed (`pickup_steps`), and rests
    fill the bar before it. A key signature is taken as it is where it says minor; of a major one (many writers know no
    other) the estimate chooses between it and its relative minor; without one the key is estimated among all.
    """
    score = Score.read(path)
    metre, first, last = _longest_metre(path)
    if metre not in METRES:
        raise UserError(f"its metre {metre} is unknown to the event vocabulary")
    sheet = sheet_of(replace(score, metre=metre), style=style, first=first, last=last)
    if not sheet.notes:
        raise UserError("no note stands in its longest stretch of one metre")
    shift = -pickup_steps(sheet) % sheet.bar_steps
    if shift:
        moved = tuple(note._replace(step=note.step + shift) for note in sheet.notes)
        end = max(note.step + (1 if note.part == DRUMS else note.steps) for note in moved)
        sheet = replace(sheet, notes=moved, bars=-(-end // sheet.bar_steps))
    if sheet.bars < MIN_BARS:
        raise UserError(f"{sheet.bars} bars; {MIN_BARS} are needed")
    if sheet.key is None or sheet.key.endswith("major"):
        index = KEYS.index(sheet.key) if sheet.key else 0
        relative = (KEYS[index], KEYS[12 + (index + 9) % 12])
        sheet = replace(sheet, key=estimate_key(sheet, relative if sheet.key else KEYS))
    return sheet


def pickup_steps(sheet: Sheet) -> int:
    """How long the music before the first bar line is, guessed from where the weight falls: 0 for a full first bar.

    A MIDI file does not say it. Every shift by half a quarter is tried; the weight of a bar line is how long the notes
    last that begin on it, those of the bass that lie below its mean twice. Another shift than 0 must weigh a quarter
    more, for most pieces have no pickup.
    """
    width = sheet.bar_steps
    bass = [note.pitch for note in sheet.notes if note.part == BASS]
    low = sum(bass) / max(len(bass), 1)
    weights = [0.0] * width
    for note in sheet.notes:
        deep = note.part == BASS and note.pitch < low
        weights[note.step % width] += min(note.steps, width) * (2 if deep else 1)
    shifts = [step for step in range(0, width, STEPS // 2) if weights[step] > 0]
    best = max(shifts, key=lambda step: weights[step], default=0)
    return best if weights[best] > 1.25 * weights[0] else 0


def rule_tunes(count: int, *, seed: int = 0) -> list[Tune]:
    """Pieces that the rule composer writes: any form; a quarter for its ensemble, the others for one instrument.

    Their style is the form; they are all for training, and nobody's but the rules'. 15 to 30 seconds each.
    """
    players = [row.name for row in INSTRUMENTS.values() if row.family != "bass"]
    tunes = []
    for number in range(count):
        choose = random.Random(key(seed, number, "rule tunes"))
        form = choose.choice(sorted(FORMS))
        alone = choose.choice(players)
        prompt = Prompt(styles=((form, 1.0),)) if choose.random() < 0.25 else Prompt(form, styles=((alone, 1.0),))
        score = RuleComposer().compose(
            prompt, seconds=choose.uniform(15, 30), rng=SampleRng(seed, ids=[number], stream="rule tunes")
        )
        if score.metre in METRES:
            tunes.append(Tune(f"rules/{number}", sheet_of(score, style=form), "train", f"rules/{number}"))
    return tunes


class NoteDataset(Dataset):
    """Sample k -> (k, tokens, source or None): a tune in C, cut at bar lines; a function of (seed, k).

    A tune is drawn the more often the more bars it has, by the square root; `shares` of tunes count besides. A cut
    begins at any bar and ends with the last one that `length` tokens hold, so a sample is never longer; a single bar
    that is longer is cut within. Every tune is moved to C (`Sheet.in_c`). In one of ten samples the style is not told.
    """

    def __init__(
        self, tunes: Sequence[Tune], vocabulary: Vocabulary, *, length: int = 256, seed: int = 0, task: str = "all",
        shares: Sequence[float] | None = None,
    ) -> None:
        if not tunes:
            raise ValueError("no tunes")
        if length < 32:
            raise UserError(f"length={length}: 32 tokens at least")
        self.tunes, self.vocabulary, self.length = list(tunes), vocabulary, length
        self.seed, self.task = seed, check_task(task)
        shares = shares or [1.0] * len(self.tunes)
        self._weights = [share * tune.sheet.bars**0.5 for tune, share in zip(self.tunes, shares, strict=True)]
        self._sizes: dict[int, list[int]] = {}  # of tunes that were drawn: tokens before each bar
        self._chords: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return 2**62  # samples have numbers without an end

    def __getitem__(self, k: int) -> tuple[int, list[int], list[int] | None]:
        choose = random.Random(key(self.seed, k, "notes"))
        while True:
            index = choose.choices(range(len(self.tunes)), self._weights)[0]
            bars = self.tunes[index].sheet.bars
            # As often from the first bar as from any four others: the beginning is what is asked for most.
            first = max(0, choose.randrange(-4, max(1, bars - MIN_BARS + 1)))
            made = self.sample(index, first, named=choose.random() >= 0.1)
            if made is not None:
                return k, *made

    def sample(
        self, index: int, first: int = 0, *, named: bool = True
    ) -> tuple[list[int], list[int] | None] | None:
        """Tune `index` from bar `first` on, with or without the name of its style.

        None where nothing can be learned from it: no notes are left to write, or none are given.
        """
        sheet = self.tunes[index].sheet
        bars = self._fitting(index, first)
        if self.task == "continuation" and bars < 2:
            return None
        cut = sheet.cut(first, bars).in_c()
        chords = None
        if self.task == "chords_to_melody":
            each = sheet.bar_steps // chord_steps(sheet.metre)
            known = self._chords.setdefault(index, []) or estimate_chords(sheet)
            self._chords[index] = known
            inside, down = known[first * each : (first + bars) * each], -above_c(sheet.key)
            chords = [transposed_chord(chord, down) for chord in inside]
        source, target = source_and_target(
            cut if named else replace(cut, style=""), self.task, self.vocabulary, chords=chords
        )
        if not target.notes or (self.task == "melody_to_accompaniment" and len(target.notes) == len(cut.notes)):
            return None
        tokens = tokens_of(target, self.vocabulary)[: self.length]
        return tokens, None if source is None else source[: self.length]

    def _fitting(self, index: int, first: int) -> int:
        """How many whole bars from `first` on the sample's tokens hold; one at least."""
        sheet = self.tunes[index].sheet
        if index not in self._sizes:
            tokens = tokens_of(sheet, self.vocabulary, end=False)
            self._sizes[index] = [at for at, token in enumerate(tokens) if BAR.has(token)] + [len(tokens)]
        sizes = self._sizes[index]
        # A cut may begin with a velocity for every part, and end with an end. Two halves have two samples' room.
        room = self.length * (2 if self.task == "continuation" else 1) - PREFIX - len(PARTS) - 1
        return max(1, bisect_right(sizes, sizes[first] + room) - 1 - first)


def note_count(tokens: Sequence[int]) -> int:
    """Notes and hits in a sequence."""
    return sum(DURATION.has(token) or HIT.has(token) for token in tokens)


def _longest_metre(path: Path) -> tuple[str, float, float]:
    """(metre, first beat, beat after the last) of the longest stretch without a change of metre."""
    events = read_events(path.read_bytes())
    beats = events.ticks_per_beat or events.ticks_per_second / 2
    changes = {0.0: "4/4"}
    for tick, _, status, kind, data in events.events:
        if status == META and kind == METRE and len(data) >= 2 and 1 <= data[0] <= 32 and data[1] <= 5:
            changes[tick / beats] = f"{data[0]}/{2 ** data[1]}"
    merged: list[tuple[float, str]] = []
    for at, metre in sorted(changes.items()):
        if not merged or merged[-1][1] != metre:
            merged.append((at, metre))
    stretches = pairwise([*merged, (max(events.last_tick / beats, merged[-1][0]) + 1.0, "")])
    (first, metre), (last, _) = max(stretches, key=lambda pair: pair[1][0] - pair[0][0])
    return metre, first, last


def _row(folder: Path, file: Path) -> dict[str, str]:
    group = str(file.relative_to(folder).with_suffix(""))
    cut = next((i for i, letter in enumerate(group) if letter.isdigit() and i > 3), len(group))
    style = file.parent.name if file.parent != folder else ""
    return {"file": str(file.relative_to(folder)), "label": style.replace("_", " "), "source_group": group[:cut]}


def _split(group: str) -> str:
    share = int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "little") / 2**64
    return next(name for name, stop in SHARES if share < stop)

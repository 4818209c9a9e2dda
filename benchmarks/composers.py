"""Which composer? Rules and every learned one on held-out tunes: likelihood, statistics, prompts kept, copies, speed.

    python benchmarks/composers.py --folder MIDI/ --composers rules lstm gru runs/x/model
    python benchmarks/composers.py --folder MIDI/ --composers lstm --json benchmarks/results/composers.json
    python benchmarks/composers.py --folder MIDI/ --composers lstm gru transformer --runs runs/composers --minutes 7

The last line trains first: --composers are then rows of ROWS, each is trained on one core for as many steps as fit into
--minutes, and lies in RUNS/NAME; nothing is measured.

Held out are the tunes of the splits valid and test, which no training sees (recipes/composer.py). Each composer is
asked for one piece for every one of --pieces of them: its style, key, metre and tempo, as many bars, on a piano. One of
another task than "all" is given what it needs of the tune itself (its chords, its melody, its first half), and only
what it wrote is measured, against the same parts of real tunes. Columns:

nats a note, a token   negative log-likelihood of held-out tunes (--cuts stretches of each, of at most --length tokens,
                       moved to C; style, key, metre and tempo are given), without a grammar's help. The first
                       row is a model that knows the grammar and nothing else. Tasks cannot be compared.
pitches, steps, durations   Jensen-Shannon divergence in bits from the held-out tunes: of pitch classes counted from
                       the tonic, of times between onsets, of note lengths (0: the same; 1: nothing in common)
key, downbeat          shares of pieces in whose notes the key that was asked for is found again (Krumhansl), and whose
                       weight falls on the bar lines (`pickup_steps` is 0)
copy                   longest passage of the melody that stands in a training tune too, in notes, in any key: mean,
                       most
× real time            seconds of music for a second of work, one thread

Intervals (95 %) by a jackknife over tunes. "training tunes" are real ones of the training split in the composers'
place, in the held-out tunes' metres: no composer should be expected to be nearer than these. Their passages are looked
for in the training tunes of other source groups.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.composers import load_composer  # noqa: E402  (runs outside an installed audiogen)
from audiogen.composers.analysis import estimate_key  # noqa: E402
from audiogen.composers.event_grammar import Grammar  # noqa: E402
from audiogen.composers.events import PREFIX, Vocabulary  # noqa: E402
from audiogen.composers.grid import DRUMS, MELODY, STEPS, Sheet, score_of, sheet_of  # noqa: E402
from audiogen.composers.harmony import Key  # noqa: E402
from audiogen.composers.note_model import NoteModel  # noqa: E402
from audiogen.composers.note_tasks import TASKS  # noqa: E402
from audiogen.composers.tunes import NoteDataset, Tune, note_count, pickup_steps, read_tunes  # noqa: E402
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.files import whole_file  # noqa: E402
from audiogen.core.interfaces import Prompt  # noqa: E402
from audiogen.core.rng import SampleRng  # noqa: E402
from benchmarks.clip import machine  # noqa: E402
from benchmarks.short_training import Row, ShortTraining  # noqa: E402
from evaluation.estimate import Estimate, interval, jackknife  # noqa: E402

ROWS: dict[str, Row] = dict.fromkeys(
    ("lstm", "gru", "transformer", "music_transformer", "transformer_xl", "reformer"), Row()
)
ROWS |= {  # short trainings' own: when a model begins to hear what it wrote itself
    name: Row(words=("--model.own-tokens-from", "100", "--model.own-tokens-full", "300"))
    for name in ("chords_to_melody", "melody_to_accompaniment", "continuation")
}
GROUPS = 16
LONGEST = 48  # steps that lengths and onset distances are told apart up to: a whole note


@dataclass(frozen=True)
class Benchmark:
    """Compare composers."""

    folder: Path
    """MIDI files, with or without a metadata.csv."""
    composers: tuple[str, ...] = ("rules",)
    """Names or checkpoint folders, a row each."""
    minutes: float = 0.0
    """Train --composers for so long, into --runs; 0: measure them."""
    runs: Path = Path("runs/composers")
    """Of --minutes."""
    pieces: int = 32
    bars: int = 16
    length: int = 512
    """Tokens in a stretch whose likelihood is measured."""
    cuts: int = 2
    """Stretches of each held-out tune."""
    seed: int = 0
    json: Path | None = None
    """Also write the figures here."""

    def run(self) -> int:
        if self.minutes:
            data = ("--data.folder", str(self.folder), "--data.rules", "1000")
            training = ShortTraining("composer", ROWS, self.runs, self.minutes, data)
            for name in self.composers:
                training.train(name)
            return 0
        torch.set_num_threads(1)
        tunes, _ = read_tunes(self.folder)
        training = [tune for tune in tunes if tune.split == "train"]
        held_out = [tune for tune in tunes if tune.split != "train"]
        if not training or not held_out:
            raise UserError(f"{self.folder} has {len(training)} tunes to train on and {len(held_out)} held out: "
                            "both are needed")
        chosen = [tune for tune in held_out if tune.sheet.bars >= self.bars and MELODY in _parts(tune.sheet)]
        random.Random(self.seed).shuffle(chosen)
        chosen = chosen[: self.pieces]
        real = [tune.sheet.cut(0, self.bars) for tune in chosen]
        melodies = Melodies(training)
        rows = [self._training_row(training, chosen, real, melodies)]
        for name in self.composers:
            rows.append(self._row(name, held_out, real, melodies))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        result = {"held out": len(held_out), "pieces": len(real), "bars": self.bars, "length": self.length,
                  "grammar alone": self._grammar_alone(held_out), "rows": rows} | machine()
        print_table(result)
        if self.json:
            with whole_file(self.json) as part:
                part.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0

    def _row(self, name: str, held_out: list[Tune], real: list[Sheet], melodies: Melodies) -> dict[str, Any]:
        composer = load_composer(name)
        task = composer.config.task if isinstance(composer, NoteModel) else "all"
        row: dict[str, Any] = {"name": Path(name).parent.name if "/" in name else name, "task": task}
        if isinstance(composer, NoteModel):
            row["weights"] = sum(value.numel() for value in composer.parameters())
            row |= self._likelihood(composer, held_out, task)
        pieces, seconds, spent = [], 0.0, 0.0
        for number, sheet in enumerate(real):
            prompt, asked = _prompt(sheet, task)
            began = time.process_time()
            score = composer.compose(prompt, seconds=asked, rng=SampleRng(self.seed, ids=[number]))
            spent += time.process_time() - began
            seconds += score.seconds
            pieces.append(sheet_of(score))
        written = [_written(piece, task) for piece in pieces]
        return row | _statistics(written, [_written(sheet, task) for sheet in real]) | {
            "key": _share(estimate_key(piece) == sheet.key for piece, sheet in zip(pieces, real, strict=True)),
            "downbeat": _share(pickup_steps(piece) == 0 for piece in pieces),
            "copy": _copies([melodies.longest(piece) for piece in written]) if MELODY in TASKS[task] else None,
            "real time": seconds / spent,
        }

    def _training_row(
        self, training: list[Tune], chosen: list[Tune], real: list[Sheet], melodies: Melodies
    ) -> dict[str, Any]:
        choose = random.Random(self.seed)
        long = [tune for tune in training if tune.sheet.bars >= self.bars and MELODY in _parts(tune.sheet)]
        picked = [choose.choice([t for t in long if t.sheet.metre == tune.sheet.metre] or long) for tune in chosen]
        pieces = [tune.sheet.cut(0, self.bars) for tune in picked]
        copies = [melodies.longest(piece, but=tune.group) for tune, piece in zip(picked, pieces, strict=True)]
        return {"name": "training tunes", "task": "all"} | _statistics(pieces, real) | {
            "key": _share(estimate_key(piece) == piece.key for piece in pieces),
            "downbeat": _share(pickup_steps(piece) == 0 for piece in pieces), "copy": _copies(copies),
        }

    def _likelihood(self, model: NoteModel, held_out: list[Tune], task: str) -> dict[str, Any]:
        """Nats a note and a token over stretches of every held-out tune."""
        sums = []  # (nats, notes, tokens) of every tune
        for tokens, source in self._stretches(held_out, model.vocabulary, task):
            found = [(float(model.score_losses(t, s).sum()), note_count(t), len(t) - PREFIX)
                     for t, s in zip(tokens, source, strict=True)]
            sums.append(np.sum(found, axis=0) if found else np.zeros(3))
        table = np.array([row for row in sums if row[1] > 0])
        return {
            "nats a note": _estimate(lambda rows: rows[:, 0].sum() / rows[:, 1].sum(), table),
            "nats a token": _estimate(lambda rows: rows[:, 0].sum() / rows[:, 2].sum(), table),
        }

    def _stretches(self, held_out: list[Tune], vocabulary: Vocabulary, task: str):
        data = NoteDataset(held_out, vocabulary, length=self.length, task=task)
        for index, tune in enumerate(held_out):
            firsts = sorted({tune.sheet.bars * cut // self.cuts for cut in range(self.cuts)})
            items = [item for item in (data.sample(index, first) for first in firsts) if item is not None]
            yield [tokens for tokens, _ in items], [source for _, source in items]

    def _grammar_alone(self, held_out: list[Tune]) -> dict[str, Any]:
        """Nats of a model that takes every allowed token for equally likely."""
        vocabulary, nats, notes, count = Vocabulary(), 0.0, 0, 0
        for tokens, _ in self._stretches(held_out[::4], vocabulary, "all"):
            for line in tokens:
                grammar = Grammar(vocabulary)
                for place, token in enumerate(line):
                    if place >= PREFIX:
                        nats += math.log(int(grammar.allowed().sum()))
                    grammar.take(token)
                notes, count = notes + note_count(line), count + len(line) - PREFIX
        return {"nats a note": nats / notes, "nats a token": nats / count}


class Melodies:
    """The melodies of many tunes, as steps from note to note: (onset distance, interval), one number each."""

    def __init__(self, tunes: Sequence[Tune]) -> None:
        lines = [np.append(melody(tune.sheet), -1) for tune in tunes]
        self.lines = np.concatenate(lines)
        self.groups = np.repeat([tune.group for tune in tunes], [len(line) for line in lines])

    def longest(self, sheet: Sheet, *, but: str | None = None) -> int:
        """Notes in the longest passage of the sheet's melody that stands in one of the tunes (but those of one group),
        in any key."""
        lines = self.lines if but is None else np.where(self.groups == but, -1, self.lines)
        return longest_common(melody(sheet), lines) + 1


def melody(sheet: Sheet) -> np.ndarray:
    """(notes - 1,): each step of the melody as one number; above 96 steps apart is as 96."""
    notes = [note for note in sheet.notes if note.part == MELODY]
    return np.array([min(b.step - a.step, 96) * 256 + b.pitch - a.pitch + 128
                     for a, b in zip(notes, notes[1:], strict=False)], dtype=np.int64)


def longest_common(line: np.ndarray, lines: np.ndarray) -> int:
    """Length of the longest run of `line` that stands in `lines`: exact, one pass over `lines` for each element."""
    runs, best = np.zeros(len(lines) + 1, dtype=np.int64), 0
    for element in line:
        runs[1:] = np.where(lines == element, runs[:-1] + 1, 0)
        best = max(best, int(runs.max()))
    return best


def histograms(sheet: Sheet) -> dict[str, np.ndarray]:
    """Shares of pitch classes from the tonic (12), of distances between onsets (LONGEST), of lengths (LONGEST)."""
    tonic = Key.named(sheet.key).tonic if sheet.key else 0
    notes = [note for note in sheet.notes if note.part != DRUMS]
    onsets = sorted({note.step for note in notes})
    values = {
        "pitches": ([(note.pitch - tonic) % 12 for note in notes], 12),
        "steps": ([min(b - a, LONGEST) - 1 for a, b in zip(onsets, onsets[1:], strict=False)], LONGEST),
        "durations": ([min(note.steps, LONGEST) - 1 for note in notes], LONGEST),
    }
    return {name: np.bincount(found, minlength=size) / max(len(found), 1) if found else np.zeros(size)
            for name, (found, size) in values.items()}


def divergence(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence in bits between the mean histograms of two sets (pieces, bins)."""
    p, q = (rows.sum(0) / max(rows.sum(), 1e-12) for rows in (first, second))
    middle = (p + q) / 2

    def relative(a: np.ndarray) -> float:
        inside = a > 0
        return float((a[inside] * np.log2(a[inside] / middle[inside])).sum())

    return (relative(p) + relative(q)) / 2


def _statistics(pieces: Sequence[Sheet], real: Sequence[Sheet]) -> dict[str, Any]:
    made, known = [histograms(piece) for piece in pieces], [histograms(sheet) for sheet in real]
    found = {}
    for name in ("pitches", "steps", "durations"):
        sides = [np.array([row[name] for row in rows]) for rows in (made, known)]
        value = divergence(*sides)
        variances = [
            _variance(lambda rows: divergence(rows, sides[1]), sides[0], value),  # noqa: B023  (called at once)
            _variance(lambda rows: divergence(sides[0], rows), sides[1], value),  # noqa: B023
        ]
        found[name] = _shown(interval(value, variances, used=min(GROUPS, len(made)), n=len(real), m=len(made),
                                      lowest=0.0))
    return found


def _estimate(value_of: Callable[[np.ndarray], float], rows: np.ndarray) -> dict[str, Any]:
    value = float(value_of(rows))
    return _shown(interval(value, [_variance(value_of, rows, value)], used=min(GROUPS, len(rows)), n=len(rows), m=0))


def _variance(value_of: Callable[[np.ndarray], float], rows: np.ndarray, value: float) -> float | None:
    groups = np.arange(len(rows)) % min(GROUPS, len(rows))
    left_out = [float(value_of(rows[groups != group])) for group in np.unique(groups)]
    return jackknife(value, left_out, [float((groups == group).mean()) for group in np.unique(groups)])


def _shown(estimate: Estimate) -> dict[str, Any]:
    known = estimate.low is not None
    return {"value": estimate.value, "interval 95": [estimate.low, estimate.high] if known else None}


def _share(hits: Any) -> float:
    hits = list(hits)
    return sum(hits) / len(hits)


def _copies(notes: list[int]) -> dict[str, float]:
    return {"mean": sum(notes) / len(notes), "most": max(notes)}


def _parts(sheet: Sheet) -> set[int]:
    return {note.part for note in sheet.notes}


def _prompt(sheet: Sheet, task: str) -> tuple[Prompt, float]:
    """What a composer is asked, and how many seconds."""
    bar_seconds = sheet.bar_steps / STEPS * 60 / sheet.bpm
    prompt = Prompt(text=f"{sheet.style} for piano", bpm=sheet.bpm, key=sheet.key, metre=sheet.metre)
    if task != "all":
        given = sheet.cut(0, sheet.bars // 2) if task == "continuation" else sheet
        prompt = replace(prompt, score=score_of(given))
    return prompt, sheet.bars * bar_seconds


def _written(sheet: Sheet, task: str) -> Sheet:
    """What the composer wrote of a piece: the parts, or the bars, that its task makes."""
    if task == "continuation":
        return sheet.cut(sheet.bars // 2, sheet.bars - sheet.bars // 2)
    return sheet.only(TASKS[task])


def print_table(result: dict[str, Any]) -> None:
    """Markdown."""
    heads = ("composer", "task", "weights", "nats a note", "nats a token", "pitches", "steps", "durations", "key",
             "downbeat", "copy", "× real time")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    alone = result["grammar alone"]
    print(f"| grammar alone | all |  | {alone['nats a note']:.2f} | {alone['nats a token']:.2f} |" + "  |" * 7)
    for row in result["rows"]:
        weights = f"{row['weights'] / 1e6:.2f} M" if "weights" in row else ""
        cells = [row["name"], row["task"].replace("_", " "), weights]
        cells += [_cell(row[name]) if name in row else "" for name in heads[3:8]]
        copy = row["copy"]
        cells += [f"{row['key']:.2f}", f"{row['downbeat']:.2f}",
                  f"{copy['mean']:.1f}, {copy['most']}" if copy else "", f"{row['real time']:.0f}"
                  if "real time" in row else ""]
        print("| " + " | ".join(cells) + " |")


def _cell(value: dict[str, Any]) -> str:
    limits = value["interval 95"]
    return f"{value['value']:.3g}" + (f" ({limits[0]:.3g} to {limits[1]:.3g})" if limits else "")


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(Benchmark, description=__doc__).run())
    except UserError as error:
        sys.exit(f"benchmarks/composers.py: {error}")

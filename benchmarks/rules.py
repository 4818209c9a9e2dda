"""Is what the rule composer writes in style? Every style, read back from its notes by measures it does not know.

    python benchmarks/rules.py                     a table, 8 pieces of 30 s a style
    python benchmarks/rules.py --json FILE         and JSON

key        share of pieces whose key is found in their notes by Temperley's profiles (2001; the composer uses others)
on chord   share of melody notes on the first beat of a bar that belong to its chord; in brackets of all melody notes
steps      share of melody intervals of at most two semitones; leaps: of more than a fifth
range      lowest and highest note of the melodies
beats      share of the bars' beats on which some note starts
faults     in four-part styles: parallel fifths and octaves, leading notes that do not rise, voices that cross; a piece
seconds    of work for a piece, one thread
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import audiogen  # noqa: E402  (runs from a checkout too)
from audiogen.composers.chords import progression  # noqa: E402
from audiogen.composers.ensemble import Piece  # noqa: E402
from audiogen.composers.harmony import TONICS, Key  # noqa: E402
from audiogen.composers.rhythms import Metre  # noqa: E402
from audiogen.composers.rules import RuleComposer  # noqa: E402
from audiogen.composers.styles import STYLES  # noqa: E402
from audiogen.core.interfaces import Prompt  # noqa: E402
from audiogen.core.rng import SampleRng  # noqa: E402

# How much each note, counted from the tonic, stands in pieces of a textbook (Temperley 2001, Kostka-Payne).
PROFILES = {
    "major": (0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400),
    "minor": (0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330),
}


def heard_key(piece: Piece) -> Key:
    weights = np.zeros(12)
    for note in piece.score.notes:
        if not note.drum:
            weights[note.pitch % 12] += note.beats
    keys = [Key(tonic, mode) for mode in PROFILES for tonic in range(12)]
    return max(keys, key=lambda key: np.corrcoef(np.roll(PROFILES[key.mode], key.tonic), weights)[0, 1])


def faults(piece: Piece) -> int:
    """Of a piece in four voices that sound together throughout."""
    moments: dict[float, list[int]] = {}
    for note in piece.score.notes:
        moments.setdefault(round(note.beat, 3), []).append(note.pitch)
    key, metre = Key.named(piece.score.key), Metre.named(piece.score.metre)
    bars = progression(piece.chords, metre)
    rows = [sorted(moments[at]) for at in sorted(moments)]
    chords = [
        [slot for slot in bars[int((at + 1e-6) // metre.length)] if slot.at <= at % metre.length + 1e-6][-1].chord
        for at in sorted(moments)
    ]
    found = sum(len(row) != 4 or row[1] == row[2] or row[2] == row[3] for row in rows)
    for (before, one), (after, two) in zip(
        zip(rows, chords, strict=True), list(zip(rows, chords, strict=True))[1:], strict=False
    ):
        if len(before) != 4 or len(after) != 4:
            continue
        for low in range(4):
            for high in range(low + 1, 4):
                moved = before[low] != after[low] and before[high] != after[high]
                interval = (after[high] - after[low]) % 12
                found += moved and interval in (0, 7) and interval == (before[high] - before[low]) % 12
            dominant = one.root == (key.tonic + 7) % 12 and two.root == key.tonic
            found += dominant and before[low] % 12 == (key.tonic - 1) % 12 and after[low] - before[low] != 1
    return found


def measure(name: str, pieces: int, seconds: float) -> dict[str, Any]:
    right = first = on_chord = notes = under = moves = steps = leaps = beats = struck = wrong = 0
    pitches: list[int] = []
    work = 0.0
    for number in range(pieces):
        mode = ("major", "minor")[number % 2]
        asked = f"{random.Random(f'{name}/{number}').choice(TONICS[mode])} {mode}"
        prompt = Prompt(styles=((name, 1.0),), key=asked)
        began = time.process_time()
        piece = RuleComposer().piece(prompt, seconds=seconds, rng=SampleRng(number))
        work += time.process_time() - began
        metre = Metre.named(piece.score.metre)
        bars = progression(piece.chords, metre)
        right += heard_key(piece) == Key.named(asked)
        starts = {round(note.beat, 3) for note in piece.score.notes}
        grid = [round(bar * metre.length + at, 3) for bar in range(len(bars)) for at, _ in metre.beats]
        beats, struck = beats + len(grid), struck + len(starts & set(grid))
        melody = [note for note in piece.score.notes if note.instrument == piece.parts["melody"]]
        for note in melody:
            bar, at = divmod(note.beat + 1e-6, metre.length)
            chord = [slot for slot in bars[int(bar)] if slot.at <= at][-1].chord
            notes, under = notes + 1, under + (note.pitch % 12 in chord.tones)
            if at < 1e-5:
                first, on_chord = first + 1, on_chord + (note.pitch % 12 in chord.tones)
            pitches.append(note.pitch)
        sizes = [abs(a.pitch - b.pitch) for a, b in zip(melody, melody[1:], strict=False)]
        moves, steps, leaps = moves + len(sizes), steps + sum(s <= 2 for s in sizes), leaps + sum(s > 7 for s in sizes)
        wrong += faults(piece) if STYLES[name].four_part else 0
    return {
        "style": name, "key": right / pieces, "on_chord": on_chord / first, "all_on_chord": under / notes,
        "steps": steps / moves, "leaps": leaps / moves, "low": min(pitches), "high": max(pitches),
        "beats": struck / beats, "faults": wrong / pieces if STYLES[name].four_part else None, "seconds": work / pieces,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print("style           key  on chord (all)  steps leaps  range  beats faults  seconds")
    for name in STYLES:
        row = measure(name, options.pieces, options.seconds)
        rows.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
        print(
            f"{name:14} {row['key']:4.2f}      {row['on_chord']:4.2f} ({row['all_on_chord']:4.2f})   "
            f"{row['steps']:4.2f} {row['leaps']:5.3f}  {row['low']}-{row['high']}   {row['beats']:4.2f} "
            f"{'' if row['faults'] is None else row['faults']:>6}  {row['seconds']:7.2f}"
        )
    key = sum(row["key"] for row in rows) / len(rows)
    print(f"all: key {key:.3f}, {sum(row['seconds'] for row in rows) / len(rows):.2f} s a piece")
    if options.json:
        machine = {"machine": platform.machine(), "python": platform.python_version(), "audiogen": audiogen.__version__}
        options.json.write_text(json.dumps({"pieces": options.pieces, "seconds": options.seconds, **machine,
                                            "styles": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Labelled tunes without end: pieces of the rule composer as MIDI, with their style, key, tempo, chords and form.

    python recipes/data_rules.py --out tunes --pieces 1000
    python recipes/data_rules.py --out tunes --pieces 100 --styles waltz chorale --parts melody --seed 7
    Smoke (seconds): python recipes/data_rules.py --out tunes --pieces 2 --seconds 8

Piece k of a seed is a pure function of (seed, k): any stretch of the set can be made alone, in a folder of its own
(`--first 500 --pieces 500`), and a longer set begins with a shorter one. `--workers`, or a Ray cluster's address
(`--ray auto`), spreads the work; the files are the same.

Writes `NNNNNN.mid`; `tunes.jsonl`, a line a piece: file, split, style, key, bpm, metre, form, bars, chords, parts,
seconds, notes, seed and number; and `metadata.csv`, by which the learned composers read such a folder. Of every 20
pieces one is valid and one is test. The pieces may be used for anything (CC0).

Cost: about 0.1 s of one core a piece of 30 s (54 pieces, 0.46 hours of music, in 5.6 s).
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.composers.chords import progression  # noqa: E402  (runs outside an installed audiogen)
from audiogen.composers.constraints import Constraints  # noqa: E402
from audiogen.composers.ensemble import Piece  # noqa: E402
from audiogen.composers.harmony import TONICS  # noqa: E402
from audiogen.composers.rhythms import Metre  # noqa: E402
from audiogen.composers.rules import RuleComposer  # noqa: E402
from audiogen.composers.styles import STYLES, find_form, unknown_style  # noqa: E402
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.files import whole_file  # noqa: E402
from audiogen.core.interfaces import Prompt  # noqa: E402
from audiogen.core.parallel import parallel  # noqa: E402
from audiogen.core.rng import SampleRng  # noqa: E402

MANIFEST = "tunes.jsonl"
TASK = 20  # pieces a task


@dataclass(frozen=True)
class DataRules:
    """Write pieces of the rule composer with their labels."""

    out: Path
    pieces: int = 1000
    first: int = 0  # number of the first piece
    seconds: float = 30.0  # at least, in whole bars
    styles: tuple[str, ...] = ()  # none named: all
    parts: tuple[str, ...] = ()  # of melody, harmony, bass, drums; none named: those of the style
    seed: int = 0
    workers: int = 1  # processes
    ray: str | None = None  # address of a Ray cluster that does the work; all its machines see --out

    def run(self) -> int:
        if self.pieces < 1 or self.first < 0:
            raise UserError(f"pieces={self.pieces}, first={self.first}: at least one piece, from number 0 on")
        for name in self.styles:
            if find_form(name) is None:
                raise unknown_style(name)
        self.out.mkdir(parents=True, exist_ok=True)
        numbers = range(self.first, self.first + self.pieces)
        recipe = replace(self, out=self.out.absolute())  # other machines stand elsewhere
        tasks = [(recipe, numbers[at : at + TASK]) for at in range(0, len(numbers), TASK)]
        parts = parallel(_write, tasks, workers=min(self.workers, len(tasks)), crashed=None, ray=self.ray)
        if None in parts:
            raise UserError(f"pieces from {tasks[parts.index(None)][1][0]} on were not made: their process died")
        lines = [line for part in parts for line in part]
        with whole_file(self.out / "metadata.csv") as part, open(part, "w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(("file", "label", "split", "source_group", "licence", "attribution"))
            for line in lines:
                group = f"rules/{self.seed}/{line['number']}"
                table.writerow((line["file"], line["style"], line["split"], group, "CC0-1.0", "audiogen, by rules"))
        with whole_file(self.out / MANIFEST) as part:
            part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        print(f"{self.out / MANIFEST}: {len(lines)} pieces, {sum(line['seconds'] for line in lines) / 3600:.2f} hours")
        return 0

    def save(self, number: int) -> dict[str, Any]:
        """Write piece `number`; its line of the manifest."""
        piece, name = self.piece(number), f"{number:06d}.mid"
        piece.score.save(self.out / name)
        return {"file": name, **self.labels(number, piece)}

    def piece(self, number: int) -> Piece:
        """Piece `number`: styles in turn, keys drawn evenly, everything else as the composer likes."""
        styles = self.styles or tuple(STYLES)
        rng = SampleRng(self.seed, ids=[number], stream="data_rules")
        drawn, tonic = rng.rand(2)[0].tolist()
        mode = ("major", "minor")[int(drawn * 2)]
        prompt = Prompt(styles=((styles[number % len(styles)], 1.0),), key=f"{TONICS[mode][int(tonic * 12)]} {mode}")
        return RuleComposer(Constraints(parts=self.parts)).piece(prompt, seconds=self.seconds, rng=rng.fork("piece"))

    def labels(self, number: int, piece: Piece) -> dict[str, Any]:
        """What is known of a piece."""
        score = piece.score
        return {
            "split": {18: "valid", 19: "test"}.get(number % 20, "train"),
            "style": piece.form,
            "key": score.key,
            "bpm": score.bpm,
            "metre": score.metre,
            "form": piece.sections,
            "bars": len(progression(piece.chords, Metre.named(score.metre))),
            "chords": piece.chords,
            "parts": piece.parts,
            "seconds": round(score.seconds, 3),
            "notes": len(score.notes),
            "seed": self.seed,
            "number": number,
        }


def _write(task: tuple[DataRules, range]) -> list[dict[str, Any]]:
    recipe, numbers = task
    return [recipe.save(number) for number in numbers]


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(DataRules, description=__doc__).run())
    except UserError as reason:
        sys.exit(f"data_rules: {reason}")

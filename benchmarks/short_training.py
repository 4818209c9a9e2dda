"""Trains families for the same time: as many steps as fit into it, so that each sees the end of its schedule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audiogen.core.errors import UserError

SHORT = ("--train.batch-size", "8", "--train.warmup", "50", "--train.ema", "0.99", "--train.log-every", "20",
         "--train.demo-every", "1000000", "--train.threads", "1")
TRIAL = 32  # steps whose pace, in their second half, says how many there can be


@dataclass(frozen=True)
class Row:
    """How a row of a table is trained."""

    preset: str = ""
    """Default: the row's name."""
    after: str = ""
    """The row that must be there first: "--first" for a stage, "--init" for a teacher."""
    words: tuple[str, ...] = ()
    """Further options; those that are short trainings' own, in place of the recipe's for long ones."""
    share: float = 1.0
    """Of the minutes."""


@dataclass(frozen=True)
class ShortTraining:
    """Runs RUNS/NAME of `audiogen train RECIPE`, one core each, one after the other; those that are there stay.

    Raises: UserError for a row that `rows` lacks, and where a training fails, naming its log (RUNS/NAME.log).
    """

    recipe: str
    rows: Mapping[str, Row]
    runs: Path
    minutes: float
    data: tuple[str, ...]
    """The words that say what is trained on."""

    def train(self, name: str) -> None:
        row = self.rows.get(name)
        if row is None:
            raise UserError(f"{name}: unknown; choose from {', '.join(self.rows)}")
        if (self.runs / name / "model" / "config.json").is_file():
            return
        words = [sys.executable, "-m", "audiogen", "train", self.recipe, *self.data, *SHORT, *row.words]
        if row.after:
            option, first = row.after.split()
            self.train(first)
            words += [option, str(self.runs / first / "model")]
        if not row.after.startswith("--init"):
            words += ["--preset", row.preset or name]
        self.runs.mkdir(parents=True, exist_ok=True)
        log = self.runs / f"{name}.log"
        with tempfile.TemporaryDirectory() as folder:  # not --train.plan: a GAN has penalties every few steps
            trial = ("--train.run", folder, "--train.steps", str(TRIAL), "--train.log-every", str(TRIAL // 2))
            _run([*words, *trial], log)
            last = (Path(folder) / "log.jsonl").read_text().splitlines()[-1]
        steps = max(TRIAL, int(json.loads(last)["steps_per_second"] * self.minutes * row.share * 60))
        words += ["--train.run", str(self.runs / name), "--train.steps", str(steps)]
        print(" ".join(words[3:]), flush=True)
        _run(words, log)


def _run(words: Sequence[str], log: Path) -> None:
    with open(log, "w") as file:
        ended = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if ended.returncode:
        raise UserError(f"a training ended with {ended.returncode}: see {log}")

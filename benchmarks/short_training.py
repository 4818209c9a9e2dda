"""Trains families for the same time of a core: as many steps as fit into it, so that each sees its schedule end."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audiogen.core.errors import UserError

SHORT = ("--train.batch-size", "8", "--train.warmup", "50", "--train.ema", "0.99", "--train.log-every", "20",
         "--train.demo-every", "1000000", "--train.threads", "1")
TRIAL = 16  # steps


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
    """Of a core."""
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
        # Of the processor's seconds, not the clock's: others may use it too. Not --train.plan's: a GAN has penalties
        # every few steps only.
        short, long = (self._cost(words, trial, log) for trial in (TRIAL, 3 * TRIAL))
        steps = max(TRIAL, int(2 * TRIAL / (long - short) * self.minutes * row.share * 60))
        words += ["--train.run", str(self.runs / name), "--train.steps", str(steps)]
        print(" ".join(words[3:]), flush=True)
        _run(words, log)


    def _cost(self, words: Sequence[str], steps: int, log: Path) -> float:
        """Seconds of a core that a training of `steps` takes, with all that is done once."""
        with tempfile.TemporaryDirectory() as folder:
            return _run([*words, "--train.run", folder, "--train.steps", str(steps)], log)


def _run(words: Sequence[str], log: Path) -> float:
    """Seconds of a core that a command takes; what it says goes to `log`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(log, "w") as file:
        ended = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if ended.returncode:
        raise UserError(f"a training ended with {ended.returncode}: see {log}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

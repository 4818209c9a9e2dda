"""What a run lets one hear of itself: clips from fixed seeds at intervals, scored where there is a judge.

A kill may come at any moment: a folder of demos is whole or not there, weights are kept before their score is written
down, and a run that goes on makes what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from audiogen.core.files import whole_folder
from audiogen.training.meter import forget_lines_after


class Demos:
    """run: the run's folder. make: (folder, step) -> writes the clips. judge: a folder of them -> a score, the lower
    the better. keep: (folder, scores) -> saves the weights of this moment there. say: prints a line."""

    def __init__(
        self, run: Path, make: Callable[[Path, int], None], judge: Callable[[Path], float] | None,
        keep: Callable[[Path, dict], None], say: Callable[[str], None],
    ) -> None:
        self.run, self.make, self.judge, self.keep, self.say = run, make, judge, keep, say
        self.scores = run / "scores.jsonl"

    def write(self, step: int) -> None:
        """demos/step_..., and its line in scores.jsonl; best/ where that is the best so far."""
        folder = self._folder(step)
        with whole_folder(folder) as part:
            self.make(part, step)
        if self.judge is not None and step:
            self._judge(self.judge(folder), step)

    def missing(self, step: int) -> bool:
        """Whether a run that goes on at this step, where demos are due, lacks them or their score."""
        if step == 0 or not self._folder(step).is_dir():
            return True
        lines = self.scores.read_text().splitlines() if self.scores.is_file() else []
        return self.judge is not None and not any(json.loads(line)["step"] == step for line in lines)

    def forget_after(self, step: int) -> None:
        """Scores of steps that a resumed run makes again."""
        forget_lines_after(self.scores, step)

    def _folder(self, step: int) -> Path:
        return self.run / "demos" / f"step_{step:08d}"

    def _judge(self, score: float, step: int) -> None:
        score, best = float(score), self.run / "best"
        known = json.loads((best / "scores.json").read_text())["score"] if (best / "scores.json").is_file() else None
        better = known is None or score < known
        self.say(f"step {step}: demo clips score {score:.4g}"
                 + (", the best so far" if better else f" (best {known:.4g})"))
        if better:
            self.keep(best, {"step": step, "score": score})
        self.forget_after(step - 1)
        with open(self.scores, "a") as stream:
            stream.write(json.dumps({"step": step, "score": score}) + "\n")

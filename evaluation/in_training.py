"""Demo clips of a training run, scored against saved reference statistics: `fit(..., judge=demo_judge("real.npz"))`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evaluation.report import evaluate
from evaluation.summary import Summary


def demo_judge(reference: str | Path, *, metric: str = "kernel") -> Callable[[Path], float]:
    """folder of clips -> its distance to the summary `reference` (.npz, by `audiogen embed`), lower is better.

    The kernel distance by default: its expectation does not depend on the number of clips, and demos are few. The
    summary is read at once, so that a wrong file is an error before the first step. Clips of less than a window are
    padded; those that cannot be used are left out.
    """
    Summary.load(reference)

    def judge(folder: Path) -> float:
        result = evaluate(reference, folder, metrics=(metric,), cache=None, anchors=False, health=False, short="pad",
                          max_rejects=1.0, workers=1)
        return result["embedders"][0]["scores"][metric]["value"]

    return judge

"""Two summaries -> scores: every distance with its interval, and the floor that chance alone would give.

A reader needs both: a distance of 3.1 says nothing until one knows that one half of the reference scores 2.9 against
the other half, and that noise at 20 dB scores 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from evaluation.estimate import Estimate
from evaluation.frechet import FEWEST, estimate_frechet, frechet_curve, frechet_infinity
from evaluation.kernel_distance import bandwidth_of, estimate_kernel_distance
from evaluation.mauve import estimate_mauve_distance
from evaluation.posteriors import estimate_inception_score, estimate_kl_divergence, posteriors_of
from evaluation.precision_recall import estimate_precision_recall
from evaluation.summary import Summary, require_alike

# name -> (what it is called in tables, whether lower is better)
METRICS: dict[str, tuple[str, bool]] = {
    "frechet": ("Fréchet distance", True),
    "fad_inf": ("Fréchet distance, N → ∞", True),
    "kernel": ("kernel distance × 100", True),
    "precision": ("precision", False),
    "recall": ("recall", False),
    "density": ("density", False),
    "coverage": ("coverage", False),
    "mauve": ("MAUVE distance (-ln)", True),
    "inception": ("inception score", False),
    "kl": ("KL(reference || generated), pairs", True),
}
OF_CLASSES = ("inception", "kl")  # for embedders that are taggers
NEIGHBOURS = ("precision", "recall", "density", "coverage")


def score(
    reference: Summary, generated: Summary, *, metrics: Sequence[str] = tuple(METRICS),
    anchors: dict[str, Summary] | None = None, logits: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """-> {"scores": name -> row, "floor": name -> row, "anchors": anchor -> name -> row, "curve", "warnings", ...}.

    A row is {value, se, interval_95, n_reference, n_generated}, counted in clips. A metric that too few clips allow is
    left out, and a warning says why. logits: features -> class logits of the embedder, where it is a tagger; "kl" pairs
    clips whose paths are equal but for the suffix. Raises `UserError` where the two summaries were made in
    different ways.
    """
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"no metric is called {name!r}{did_you_mean(name, METRICS)}")
    require_alike(reference, generated)
    warnings = _too_few(reference, generated)
    asked = () if set(metrics) == set(METRICS) else OF_CLASSES  # not asked for by name: left out without a word
    rows = _estimates(reference, generated, metrics, warnings, logits, asked=asked)
    halves = [reference.half(which) for which in (0, 1)]
    floor: dict[str, Estimate] = {}
    if all(half.moments.total().n for half in halves):
        floor = _estimates(*halves, metrics, [], logits)
    ladder = {name: _estimates(reference, changed, [m for m in metrics if m in ("frechet", "kernel")], [])
              for name, changed in (anchors or {}).items()}
    curve = frechet_curve(reference.moments, generated.moments) if "fad_inf" in rows else []
    return {
        "scores": {name: _row(estimate) for name, estimate in rows.items()},
        "floor": {name: _row(estimate) for name, estimate in floor.items()},
        "anchors": {name: {m: _row(e) for m, e in estimates.items()} for name, estimates in ladder.items()},
        "curve": [{"windows": windows, "frechet": value} for windows, value in curve],
        "windows": {"reference": reference.moments.total().n, "generated": generated.moments.total().n},
        "warnings": warnings,
    }


def _estimates(
    x: Summary, y: Summary, metrics: Iterable[str], warnings: list[str],
    logits: Callable[[Tensor], Tensor] | None = None, *, asked: Sequence[str] = (),
) -> dict[str, Estimate]:
    metrics = list(metrics)
    found: dict[str, Estimate] = {}

    def attempt(name: str, estimate: Callable[[], Estimate | dict[str, Estimate]]) -> None:
        try:
            value = estimate()
        except UserError as reason:
            if name in OF_CLASSES and name not in asked:
                return
            warnings.append(f"no {METRICS[name][0] if name in METRICS else name}: {reason}")
            return
        found.update(value if isinstance(value, dict) else {name: value})

    a, b = x.sample.cut(), y.sample.cut()
    sides = (a.rows, b.rows, a.clips.tolist(), b.clips.tolist())
    if "frechet" in metrics:
        attempt("frechet", lambda: estimate_frechet(x.moments, y.moments))
    if "fad_inf" in metrics:
        attempt("fad_inf", lambda: frechet_infinity(x.moments, y.moments))
    if "kernel" in metrics:
        attempt("kernel", lambda: estimate_kernel_distance(*sides, bandwidth=bandwidth_of(a.rows)))
    if set(metrics) & set(NEIGHBOURS):
        attempt("precision and recall", lambda: estimate_precision_recall(*sides))
    if "mauve" in metrics:
        attempt("mauve", lambda: estimate_mauve_distance(*sides))
    if "inception" in metrics:
        attempt("inception", lambda: estimate_inception_score(_posteriors(y, logits), [c.digest for c in y.clips]))
    if "kl" in metrics:
        attempt("kl", lambda: _kl(x, y, logits))
    return {name: found[name] for name in METRICS if name in found and name in metrics}


def _posteriors(summary: Summary, logits: Callable[[Tensor], Tensor] | None) -> Tensor:
    """(clips, classes) of the summary's clips."""
    if logits is None:
        raise UserError("this embedder knows no classes: take yamnet or panns")
    return posteriors_of(logits(torch.stack([clip.mean for clip in summary.clips])))


def _kl(x: Summary, y: Summary, logits: Callable[[Tensor], Tensor] | None) -> Estimate:
    sides = [{str(PurePath(clip.path).with_suffix("")): row
              for clip, row in zip(s.clips, _posteriors(s, logits), strict=True)} for s in (x, y)]
    names = sorted(sides[0].keys() & sides[1].keys())
    if not names:
        raise UserError("no clips of the same name on both sides, and it compares pairs")
    return estimate_kl_divergence(*(torch.stack([side[name] for name in names]) for side in sides), names)


def _too_few(reference: Summary, generated: Summary) -> list[str]:
    sides = (("reference", reference), ("generated", generated))
    warnings = []
    thin = [f"{s.moments.total().n} windows of {name} audio" for name, s in sides
            if s.moments.total().n < FEWEST * s.dim]
    if thin:
        warnings.append(f"{' and '.join(thin)} for {reference.dim} dimensions: the Fréchet distance is biased upwards; "
                        "compare it only with sets of the same size and with the floor, or read the kernel distance, "
                        "whose expectation does not depend on N")
    few = [f"{sum(s.moments.clips)} {name} clips" for name, s in sides if sum(s.moments.clips) < 30]
    if few:
        warnings.append(f"{' and '.join(few)}: the intervals are rough")
    return warnings


def _row(estimate: Estimate) -> dict[str, Any]:
    interval = None if estimate.se is None else [estimate.low, estimate.high]
    return {"value": estimate.value, "se": estimate.se, "interval_95": interval,
            "n_reference": estimate.n, "n_generated": estimate.m}

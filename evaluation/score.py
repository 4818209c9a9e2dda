"""Two summaries -> scores: every distance with its interval, and the floor that chance alone would give.

A reader needs both: a distance of 3.1 says nothing until one knows that one half of the reference scores 2.9 against
the other half, and that noise at 20 dB scores 14.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from audiogen.core.parallel import cores
from evaluation.cache import EmbeddingCache
from evaluation.estimate import Estimate, groups_of
from evaluation.frechet import FEWEST, estimate_frechet, frechet_curve, frechet_infinity
from evaluation.kernel_distance import KernelReference
from evaluation.mauve import estimate_mauve_distance
from evaluation.posteriors import estimate_inception_score, estimate_kl_divergence, posteriors_of
from evaluation.precision_recall import estimate_precision_recall
from evaluation.remembered import fingerprint, key, recall, remember
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
MANY = 512  # dimensions from which on one decomposition is worth all the cores
NEIGHBOURS = ("precision", "recall", "density", "coverage")


def score(
    reference: Summary, generated: Summary, *, metrics: Sequence[str] = tuple(METRICS),
    anchors: dict[str, Summary] | None = None, logits: Callable[[Tensor], Tensor] | None = None,
    store: EmbeddingCache | None = None,
) -> dict[str, Any]:
    """-> {"scores": name -> row, "floor": name -> row, "anchors": anchor -> name -> row, "curve", "warnings", ...}.

    A row is {value, se, interval_95, n_reference, n_generated}, counted in clips. A metric that too few clips allow is
    left out, and a warning says why. logits: features -> class logits of the embedder, where it is a tagger; "kl" pairs
    clips whose paths are equal but for the suffix. store: where estimates of the very same summaries are kept and
    found again. Raises `UserError` where the two summaries were made in
    different ways.
    """
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"no metric is called {name!r}{did_you_mean(name, METRICS)}")
    require_alike(reference, generated)
    warnings = _too_few(reference, generated)
    asked = () if set(metrics) == set(METRICS) else OF_CLASSES  # not asked for by name: left out without a word
    halves = [reference.half(which) for which in (0, 1)]
    jobs = [(_Sides(reference, generated), metrics, asked)]
    if all(half.moments.total().n for half in halves):
        jobs.append((_Sides(*halves), metrics, ()))
    ladder = [m for m in metrics if m in ("frechet", "kernel")]
    jobs += [(_Sides(reference, changed, kernel=jobs[0][0].kernel), ladder, ()) for changed in (anchors or {}).values()]
    found = _all_estimates(jobs, logits, store or EmbeddingCache(None))
    rows, said = found[0]
    warnings += said
    floor = found[1][0] if len(jobs) > 1 + len(anchors or {}) else {}
    damaged = [estimates for estimates, _ in found[len(found) - len(anchors or {}) :]]
    curve = frechet_curve(reference.moments, generated.moments) if "fad_inf" in rows else []
    return {
        "scores": {name: _row(estimate) for name, estimate in rows.items()},
        "floor": {name: _row(estimate) for name, estimate in floor.items()},
        "anchors": {name: {m: _row(e) for m, e in estimates.items()}
                    for name, estimates in zip(anchors or {}, damaged, strict=True)},
        "curve": [{"windows": windows, "frechet": value} for windows, value in curve],
        "windows": {"reference": reference.moments.total().n, "generated": generated.moments.total().n},
        "warnings": warnings,
    }


class _Sides:
    """Two summaries, and what several metrics need of them."""

    def __init__(self, x: Summary, y: Summary, *, kernel: Callable[[], KernelReference] | None = None) -> None:
        self.x, self.y = x, y
        a, b = x.sample.cut(), y.sample.cut()
        self.rows = (a.rows, b.rows, a.clips.tolist(), b.clips.tolist())
        # One for all sets against the same reference; functools.cache lets two threads compute it, never mix it up.
        self.kernel = kernel or cache(lambda: KernelReference(a.rows, groups_of(self.rows[2])))
        self.names = [fingerprint(side) for side in (x, y)]

    def estimate(self, name: str, logits: Callable[[Tensor], Tensor] | None) -> Estimate | dict[str, Estimate]:
        """One metric, or the four neighbours together. Raises `UserError` where there are too few clips for it."""
        x, y = self.x, self.y
        if name == "frechet":
            return estimate_frechet(x.moments, y.moments)
        if name == "fad_inf":
            return frechet_infinity(x.moments, y.moments)
        if name == "kernel":
            return self.kernel().estimate(self.rows[1], self.rows[2], self.rows[3])
        if name == "mauve":
            return estimate_mauve_distance(*self.rows)
        if name == "inception":
            return estimate_inception_score(_posteriors(y, logits), [c.digest for c in y.clips])
        if name == "kl":
            return _kl(x, y, logits)
        return estimate_precision_recall(*self.rows)


def _all_estimates(
    jobs: Sequence[tuple[_Sides, Sequence[str], Sequence[str]]], logits: Callable[[Tensor], Tensor] | None,
    store: EmbeddingCache,
) -> list[tuple[dict[str, Estimate], list[str]]]:
    """(two sides, metrics, those that were asked for by name) -> for each its estimates, and why others are missing.

    Each estimate is computed with one thread, as many at a time as there are cores: on matrices of this size several
    threads for one product win little on an idle machine and lose everything on a busy one; and the numbers do not
    depend on how many there are.
    """
    found: list[tuple[dict[str, Estimate], list[str]]] = [({}, []) for _ in jobs]
    work = [(index, name) for index, (_, metrics, _) in enumerate(jobs) for name in _families(metrics)]
    wide = max(sides.x.dim for sides, *_ in jobs) > MANY
    keys = [key(name, *jobs[index][0].names) for index, name in work]
    known = [recall(store, place) for place in keys]
    with ThreadPoolExecutor(1 if wide else cores(), initializer=None if wide else _one_thread) as pool:
        results = [pool.submit(_attempt, jobs[index][0], name, logits) if value is None else None
                   for (index, name), value in zip(work, known, strict=True)]
    for (index, name), place, value, result in zip(work, keys, known, results, strict=True):
        reason = ""
        if result is not None:
            value, reason = result.result()
            if not reason:
                remember(store, place, value)
        if not reason:
            found[index][0].update(value if isinstance(value, dict) else {name: value})
        elif name not in OF_CLASSES or name in jobs[index][2]:
            found[index][1].append(f"no {METRICS[name][0] if name in METRICS else name}: {reason}")
    return [({name: rows[name] for name in METRICS if name in rows and name in metrics}, reasons)
            for (rows, reasons), (_, metrics, _) in zip(found, jobs, strict=True)]


def _families(metrics: Sequence[str]) -> list[str]:
    names = [name for name in METRICS if name in metrics and name not in NEIGHBOURS]
    return names + (["precision and recall"] if set(metrics) & set(NEIGHBOURS) else [])


def _attempt(
    sides: _Sides, name: str, logits: Callable[[Tensor], Tensor] | None
) -> tuple[Estimate | dict[str, Estimate] | None, str]:
    try:
        return sides.estimate(name, logits), ""
    except UserError as reason:
        return None, str(reason)


def _one_thread() -> None:
    torch.set_num_threads(1)  # of this thread of Python alone


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

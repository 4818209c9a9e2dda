"""Is A nearer to the reference than B? The difference of two distances, with its own interval.

Two intervals that overlap do not say that the sets are alike: both distances share the reference, and often the
prompts. So the difference is jackknifed itself: a group of reference clips is left out of both distances at once, and
where A and B hold clips of the same names (the same prompts, say) a group of names is left out of both as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from audiogen.core.errors import UserError
from evaluation.cache import EmbeddingCache, default_cache
from evaluation.clips import ClipSet, Wanted, embed_clips, read_sets
from evaluation.embedders.base import Embedder, load_embedder
from evaluation.estimate import Estimate, interval, jackknife
from evaluation.frechet import frechet_of_moments
from evaluation.listing import Listing
from evaluation.moments import GroupedMoments


def difference(reference: GroupedMoments, a: GroupedMoments, b: GroupedMoments, *, paired: bool) -> Estimate:
    """Fréchet distance of `a` minus that of `b`, both to `reference`: below 0 where a is nearer.

    paired: group g of `a` and of `b` belong together. `n`, `m` of the result are the clips of a and b.
    """
    def between(r: GroupedMoments, x: GroupedMoments, y: GroupedMoments) -> float:
        whole = r.total()
        factor = whole.factor()
        return (frechet_of_moments(whole, x.total(), factor_x=factor)
                - frechet_of_moments(whole, y.total(), factor_x=factor))

    value = between(reference, a, b)
    variances = [_left_out(value, reference, lambda g: between(reference.without(g), a, b))]
    if paired:
        variances.append(_left_out(value, a, lambda g: between(reference, a.without(g), b.without(g))))
    else:
        variances.append(_left_out(value, a, lambda g: between(reference, a.without(g), b)))
        variances.append(_left_out(value, b, lambda g: between(reference, a, b.without(g))))
    used = min(sum(1 for part in side.parts if part.n) for side in (reference, a, b))
    return interval(value, variances, used=used, n=sum(a.clips), m=sum(b.clips))


def _left_out(value: float, side: GroupedMoments, without: Callable[[int], float]) -> float | None:
    used = [g for g, part in enumerate(side.parts) if part.n]
    rows = sum(part.n for part in side.parts)
    if len(used) < 2:
        return None
    return jackknife(value, [without(g) for g in used], [side.parts[g].n / rows for g in used])


def compare(
    a: str | Path, b: str | Path, reference: str | Path, *, embedders: tuple[str, ...] = ("melstats",),
    weights: Mapping[str, Path] | str | Path | None = None, cache: str | Path | None = "default",
    max_rejects: float = 0.01,
) -> dict[str, Any]:
    """Two sets of clips against one reference -> for each embedder both distances and their difference. Folders, or
    manifests (.jsonl).

    The clips are paired where both sets hold the same names (whatever their suffix).
    """
    models = [load_embedder(name, weights=weights) for name in dict.fromkeys(embedders)]
    shortest = max(model.window for model in models)
    rows = []
    with EmbeddingCache(default_cache() if cache == "default" else cache or ":memory:") as store:
        sets = read_sets({name: Wanted(Listing.of(place)) for name, place in
                          (("reference", reference), ("a", a), ("b", b))},
                         shortest=shortest, max_rejects=max_rejects, store=store, embedders=models, weights=weights)
        names = {name: {_stem(clips, path) for path in clips.clips} for name, clips in sets.items()}
        paired = names["a"] == names["b"]
        for model in models:
            moments = {name: _moments(clips, model, store) for name, clips in sets.items()}
            if any(m.total().n == 0 for m in moments.values()):
                raise UserError(f"{model.name} found no window in one of the sets")
            estimate = difference(moments["reference"], moments["a"], moments["b"], paired=paired)
            whole = moments["reference"].total()
            rows.append({
                "embedder": model.name, "weights_sha256": model.weights_sha256, "note": model.note,
                "a": frechet_of_moments(whole, moments["a"].total()),
                "b": frechet_of_moments(whole, moments["b"].total()),
                "difference": estimate.value, "se": estimate.se,
                "interval_95": None if estimate.se is None else [estimate.low, estimate.high],
                "verdict": _verdict(estimate),
            })
    return {"a": str(a), "b": str(b), "reference": str(reference), "paired": paired,
            "clips": {name: len(clips.clips) for name, clips in sets.items()}, "embedders": rows}


def _moments(clips: ClipSet, model: Embedder, store: EmbeddingCache) -> GroupedMoments:
    """Grouped by name and not by content, so that clips of one name are left out together."""
    grouped = GroupedMoments(model.dim)
    names = {digest: _stem(clips, path) for path, digest in clips.clips.items()}
    for digest, features in embed_clips(clips, model, store):
        grouped.add(names[digest], features)
    return grouped


def _stem(clips: ClipSet, path: Path) -> str:
    return str(PurePath(clips.name(path)).with_suffix(""))


def _verdict(estimate: Estimate) -> str:
    if estimate.se is None:
        return "too few clips to say"
    if estimate.low <= 0.0 <= estimate.high:
        return "no difference that these clips can show"
    return "A is nearer to the reference" if estimate.value < 0 else "B is nearer to the reference"

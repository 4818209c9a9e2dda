"""`evaluate`: two folders -> a result with N, interval, floor, anchors and provenance; as JSON and as tables."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import audiogen
from audiogen.core import rng
from audiogen.core.errors import UserError
from audiogen.core.files import whole_file
from audiogen.signal.resample import RESAMPLER
from evaluation.adherence import measure_health
from evaluation.cache import EmbeddingCache, default_cache
from evaluation.clips import PREPROCESSING, ClipSet, check_clips, embed_clips
from evaluation.embedders.base import Embedder, load_embedder
from evaluation.estimate import Estimate
from evaluation.frechet import estimate_frechet, frechet_of_moments
from evaluation.moments import GroupedMoments

SCHEMA = 1
METHOD = "nuclear norm of covariance factors, float64; delete-a-group jackknife over clips"


def noisy(audio: Tensor, sample_rate: int, digest: str) -> Tensor:
    """White noise 20 dB below the clip."""
    level = audio.square().mean().sqrt() / 10
    return audio + level * torch.randn(audio.shape, generator=rng.generator("anchor", digest))


def low_passed(audio: Tensor, sample_rate: int, digest: str) -> Tensor:
    """Nothing above 3 kHz."""
    spectrum = torch.fft.rfft(audio)
    spectrum[torch.fft.rfftfreq(len(audio), 1 / sample_rate) > 3000.0] = 0
    return torch.fft.irfft(spectrum, len(audio))


def white_noise(audio: Tensor, sample_rate: int, digest: str) -> Tensor:
    """Noise alone, as loud as the clip."""
    return audio.square().mean().sqrt() * torch.randn(audio.shape, generator=rng.generator("anchor", digest))


def silence(audio: Tensor, sample_rate: int, digest: str) -> Tensor:
    return torch.zeros_like(audio)


ANCHORS: dict[str, Callable[[Tensor, int, str], Tensor]] = {
    "reference + noise at 20 dB": noisy,
    "reference below 3 kHz": low_passed,
    "white noise": white_noise,
    "silence": silence,
}


def evaluate(
    reference: str | Path, generated: str | Path, *, embedders: Sequence[str] = ("melstats",),
    weights: str | Path | None = None, cache: str | Path | None = "default", anchors: bool = True,
    anchor_clips: int = 64, short: str = "reject", max_rejects: float = 0.01, health: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Score the clips of folder `generated` against those of `reference`; -> the values of result.json.

    For every embedder: the Fréchet distance with a standard error and 95 % interval (jackknife over groups of clips),
    a floor (one half of the reference against the other: what "no difference" looks like at that N), and anchors (what
    known damage to at most `anchor_clips` reference clips costs). Health (loudness, clipping, ...) of the generated
    clips.

    short: what becomes of clips of less than one window, "reject" or "pad" (with silence). cache: a file, "default", or
    None (kept in memory, for this run only). Raises `UserError` where weights are missing or more than `max_rejects` of
    the files cannot be scored.
    """
    if short not in ("reject", "pad"):
        raise UserError(f"short={short!r} must be 'reject' or 'pad'")
    if not embedders:
        raise UserError("name at least one embedder")
    models = [load_embedder(name, weights=weights) for name in dict.fromkeys(embedders)]
    shortest = max(model.window for model in models) if short == "reject" else 0.0
    sets = {
        "reference": check_clips(reference, shortest=shortest, max_rejects=max_rejects),
        "generated": check_clips(generated, shortest=shortest, max_rejects=max_rejects),
    }
    store = EmbeddingCache(default_cache() if cache == "default" else cache or ":memory:")
    warnings = _overlap(sets)
    metrics = []
    try:
        for model in models:
            say(f"{model.name}: {' and '.join(f'{len(s.clips)} {name}' for name, s in sets.items())} clips")
            metrics.append(_score(sets, model, store, anchor_clips if anchors else 0, short == "pad", warnings))
    finally:
        store.close()
    result = {
        "schema": SCHEMA, "audiogen": audiogen.__version__, "torch": torch.__version__,
        "python": platform.python_version(), "resampler": RESAMPLER, "preprocessing": PREPROCESSING,
        "short_clips": short,
        "sets": {name: _describe(clips) for name, clips in sets.items()},
        "metrics": metrics, "warnings": warnings,
    }
    if health:
        result["health"] = {str(path.relative_to(sets["generated"].folder)): dataclasses.asdict(measure_health(path))
                            for path in sets["generated"].clips}
    return result


def _score(sets: dict[str, ClipSet], model: Embedder, store: EmbeddingCache, anchor_clips: int, pad: bool,
           warnings: list[str]) -> dict[str, Any]:
    def moments(clips: ClipSet, **how: Any) -> GroupedMoments:
        grouped = GroupedMoments(model.dim)
        for digest, features in embed_clips(clips, model, store, pad=pad, **how):
            grouped.add(digest, features)
        return grouped

    reference, generated = moments(sets["reference"]), moments(sets["generated"])
    digests = sorted(set(sets["reference"].clips.values()))
    half_a, half_b = (moments(sets["reference"], only=set(digests[side::2])) for side in (0, 1))  # of equal N
    for name, grouped in (("reference", reference), ("generated", generated)):
        frames = grouped.total().n
        if frames < 4 * model.dim:
            warnings.append(f"{model.name}: {frames} windows of {name} audio for {model.dim} dimensions: the distance "
                            f"is biased upwards, compare it only with sets of the same size and with the floor")
    floor = None
    if min(half_a.total().n, half_b.total().n) > 0:
        floor = _row(estimate_frechet(half_a, half_b))
    rows = {}
    chosen = set(sorted(sets["reference"].clips.values())[:anchor_clips])
    for name, change in ANCHORS.items() if chosen else ():
        changed = moments(sets["reference"], change=change, change_name=name, only=chosen)
        value = frechet_of_moments(reference.total(), changed.total())  # no interval: a rung of the ladder needs none
        rows[name] = _row(Estimate(value, None, None, None, sum(reference.clips), sum(changed.clips)))
    return {
        "metric": "frechet", "method": METHOD,
        "embedder": model.name, "embedder_version": model.version, "weights_sha256": model.weights_sha256,
        "note": model.note, "sample_rate": model.sample_rate, "dim": model.dim, "window_seconds": model.window,
        "hop_seconds": model.hop, **_row(estimate_frechet(reference, generated)),
        "windows": {"reference": reference.total().n, "generated": generated.total().n},
        "floor": floor, "anchors": rows,
    }


def _row(estimate: Estimate) -> dict[str, Any]:
    interval = None if estimate.se is None else [estimate.low, estimate.high]
    return {"value": estimate.value, "se": estimate.se, "interval_95": interval,
            "n_reference": estimate.n, "n_generated": estimate.m}


def _describe(clips: ClipSet) -> dict[str, Any]:
    return {"folder": str(clips.folder), "clips": len(clips.clips), "hours": round(clips.seconds / 3600, 4),
            "rejected": [dataclasses.asdict(reject) for reject in clips.rejects]}


def _overlap(sets: dict[str, ClipSet]) -> list[str]:
    shared = set(sets["reference"].clips.values()) & set(sets["generated"].clips.values())
    return [f"{len(shared)} generated clips are the same files as reference clips"] if shared else []


def write_result(result: dict[str, Any], path: str | Path) -> None:
    """result.json, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def print_result(result: dict[str, Any], console: Any = None) -> None:
    """The result as tables on the terminal (a rich `Console`)."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    for metric in result["metrics"]:
        title = f"Fréchet distance, {metric['embedder']} ({metric['dim']}-d, {metric['sample_rate']} Hz)"
        table = Table(title=title, caption=metric["note"], title_justify="left", caption_justify="left")
        table.add_column("against the reference")
        for name in ("value", "± se", "95 % interval", "N"):
            table.add_column(name, justify="right")
        rows = {"generated": metric, "floor: half of the reference against the other": metric["floor"]}
        rows |= metric["anchors"]
        for name, row in rows.items():
            if row is not None:
                low, high = row["interval_95"] or (None, None)
                table.add_row(name, f"{row['value']:.4g}", "" if row["se"] is None else f"{row['se']:.2g}",
                              "" if low is None else f"{low:.4g} - {high:.4g}",
                              f"{row['n_reference']}, {row['n_generated']}")
        console.print(table)
    if result.get("health"):
        console.print(health_line(list(result["health"].values())))
    for name, clips in result["sets"].items():
        console.print(f"{name}: {clips['clips']} clips, {clips['hours'] * 60:.1f} min, "
                      f"{len(clips['rejected'])} rejected")
        for reject in clips["rejected"][:5]:
            console.print(f"  {reject['reason']}", markup=False)
    for warning in result["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def health_line(values: list[dict[str, Any]]) -> str:
    """The generated clips' health in one line: medians, and how many are clipped or partly silent."""
    def median(name: str) -> str:
        known = [v[name] for v in values if v[name] is not None]
        return "-" if not known else f"{torch.tensor(known).median().item():.1f}"

    clipped = sum(v["clipped_share"] > 0 for v in values)
    quiet = sum(v["silent_share"] > 0.5 for v in values)
    offset = sum(abs(v["dc"]) > 0.01 for v in values)
    return (f"generated clips: median {median('seconds')} s, {median('loudness_lufs')} LUFS, "
            f"{median('true_peak_dbtp')} dBTP; {clipped} clipped, {quiet} mostly silent, {offset} with DC offset")

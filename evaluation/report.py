"""`evaluate`: two folders -> a result with N, interval, floor, anchors and provenance; as JSON and as tables."""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import audiogen
from audiogen.core.errors import UserError
from audiogen.core.files import whole_file
from evaluation.anchors import ANCHORS
from evaluation.cache import EmbeddingCache, default_cache
from evaluation.clips import OURS, ClipSet, Wanted, compute, embed_clips, read_clip, read_sets
from evaluation.compat import Compat, find_compat, infinity_with_replacement, kernel_distance_kadtk
from evaluation.embedders.base import Embedder, load_embedder
from evaluation.frechet import frechet_per_clip
from evaluation.landmarks import SAMPLE_RATE, LandmarkIndex
from evaluation.listing import Listing
from evaluation.originality import copying, diversity, nearest_training_clips
from evaluation.preprocessing import Preprocessing
from evaluation.prompt_match import prompt_rows, prompts_obeyed, styles_obeyed, text_match
from evaluation.reading import one_thread
from evaluation.score import MANY, METRICS, score
from evaluation.summary import Summary

SCHEMA = 3
METHOD = "float64; intervals by a delete-a-group jackknife over 16 groups of clips"


def evaluate(
    reference: str | Path | Listing, generated: str | Path | Listing, *, embedders: Sequence[str] = ("melstats",),
    metrics: Sequence[str] = tuple(METRICS), weights: Mapping[str, Path] | str | Path | None = None,
    cache: str | Path | None = "default",
    anchors: bool = True, anchor_clips: int = 64, short: str = "reject", max_rejects: float = 0.01,
    health: bool = True, training: str | Path | Listing | None = None, compat: str | None = None, listen: bool = False,
    workers: int | None = None, say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Score the clips of `generated` against those of `reference`; -> the values of result.json. Each is a folder, or a
    manifest that `audiogen scan` wrote (.jsonl).

    For every embedder: distances with a standard error and 95 % interval (jackknife over groups of clips), a floor (one
    half of the reference against the other: what "no difference" looks like at that N), anchors (what known damage to
    at most `anchor_clips` reference clips costs), and each generated clip's own distance to the reference. Health
    (loudness, clipping, ...) of the generated clips.

    Either set may be a summary (.npz) that `audiogen embed` wrote; then there is one embedder, the summary's, and what
    needs the audio itself is left out. short: what becomes of clips of less than one window, "reject" or "pad" (with
    silence). cache: a file, "default", or None (kept in memory, for this run only). training: the folder that the
    generator was trained on; passages of it are looked for in the generated clips, and with the reference as held-out
    clips it is measured whether the generated ones are too near to it. compat: a published tool's preprocessing,
    embedder and statistics in place of ours (evaluation/compat.py). listen: tempo and key of the generated clips that
    carry what was asked for are measured (a second or so a clip). weights: a folder, or by embedder's name. workers:
    processes that read the files (None: a core each). Raises `UserError` where weights are missing or more than
    `max_rejects` of the files cannot be scored.
    """
    if short not in ("reject", "pad"):
        raise UserError(f"short={short!r} must be 'reject' or 'pad'")
    if not embedders:
        raise UserError("name at least one embedder")
    theirs = find_compat(compat) if compat is not None else None
    if theirs is not None:
        embedders, metrics, anchors = (theirs.embedder,), ("frechet",), False
    prepare = OURS if theirs is None else theirs.preprocessing
    places = {"reference": reference, "generated": generated}
    ready = {name: Summary.load(place) for name, place in places.items()
             if not isinstance(place, Listing) and Path(place).suffix == ".npz"}
    names = tuple(dict.fromkeys(s.made_by["embedder"] for s in ready.values())) or tuple(dict.fromkeys(embedders))
    models = [load_embedder(name, weights=weights) for name in names] if len(ready) < 2 else []
    shortest = max((model.window for model in models), default=0.0) if short == "reject" else 0.0
    if training is not None and ready:
        raise UserError("originality needs the clips themselves: name folders, not files of embeddings")
    wanted = {name: Wanted(Listing.of(place), **(dict(health=health, listen=listen) if name == "generated" else {}))
              for name, place in places.items() if name not in ready}
    if training is not None:
        wanted["training"] = Wanted(Listing.of(training))
    pad = short == "pad"
    measured, nearness = [], {}
    with EmbeddingCache(default_cache() if cache == "default" else cache or ":memory:") as store:
        sets = read_sets(wanted, shortest=shortest, max_rejects=max_rejects, store=store, embedders=models, pad=pad,
                         prepare=prepare, weights=weights, workers=workers, say=say)
        trained = sets.pop("training", None)
        warnings = _overlap(sets)
        damaged = _damage(sets, models, store, pad, anchor_clips if anchors else 0)
        for model in models:
            say(f"{model.name}: {' and '.join(f'{len(s.clips)} {name}' for name, s in sets.items())} clips")
            with one_thread() if model.dim <= MANY else nullcontext():
                summaries = ready | {name: summarise(clips, model, store, pad=pad, prepare=prepare)
                                     for name, clips in sets.items()}
                ladder = {name: summarise(sets["reference"], model, store, pad=pad, change=name, only=damaged)
                          for name in (ANCHORS if damaged else ())}
                scores = score(**summaries, metrics=metrics, anchors=ladder, logits=getattr(model, "logits", None),
                               store=store)
                scores["map"] = _map(**summaries)
                if theirs is not None:
                    scores["compat"] = {"preset": compat, **_their_scores(theirs, **summaries)}
                if "generated" in sets:
                    scores["clips"] = _each_clip(summaries["reference"], sets["generated"], model, store, pad, prepare)
                scores |= _adherence(model, sets, summaries)
                measured.append({**summaries["reference"].made_by, "note": model.note, "method": METHOD, **scores})
                if trained is not None and not nearness:  # by the first embedder
                    nearness = _nearness(summarise(trained, model, store, pad=pad, prepare=prepare), **summaries)
    if len(ready) == 2:
        measured.append({**ready["reference"].made_by, "method": METHOD, **score(**ready, metrics=metrics)})
    result = {
        "schema": SCHEMA, "audiogen": audiogen.__version__, "torch": torch.__version__,
        "python": platform.python_version(), "short_clips": short,
        "sets": {name: _describe(sets.get(name), ready.get(name), _place(places[name])) for name in places},
        "embedders": measured, "warnings": warnings,
    }
    if trained is not None:
        say(f"looking for passages of {len(trained.clips)} training clips")
        result["originality"] = {"training": str(_place(training)), "clips": len(sets["generated"].clips),
                                 "copies": _copies(trained, sets["generated"]), **nearness}
    if health and "generated" in sets:
        made = sets["generated"]
        result["health"] = {made.name(path): made.health[digest] for path, digest in made.clips.items()}
    if "generated" in sets and (prompts := prompts_obeyed(sets["generated"])):
        result["prompts"] = prompts
    return result


def _adherence(model: Embedder, sets: Mapping[str, ClipSet], summaries: Mapping[str, Summary]) -> dict[str, Any]:
    """Style and text as this embedder hears them, where the clips say what was asked for."""
    generated = sets.get("generated")
    carried = generated.made_by if generated else {}
    found: dict[str, Any] = {}
    said = [sets[name].styles if name in sets else {} for name in ("reference", "generated")]
    if style := styles_obeyed(**summaries, made_by=carried, reference_styles=said[0], generated_styles=said[1]):
        found["style"] = style
    if carried and hasattr(model, "embed_text") and (
            text := text_match(model.embed_text, summaries["generated"], carried)):
        found["text"] = text
    return found


def _their_scores(compat: Compat, reference: Summary, generated: Summary) -> dict[str, float]:
    """What the published tool prints besides the Fréchet distance, computed as it does."""
    rows = generated.sample.cut().rows
    found = {}
    if compat.infinity:
        found["fad_inf"] = infinity_with_replacement(reference.moments.total(), rows)
    if compat.kernel:
        found["kernel"] = kernel_distance_kadtk(reference.sample.cut().rows, rows)
    return found


def _copies(training: ClipSet, generated: ClipSet) -> list[dict[str, Any]]:
    """Passages of training clips in generated ones, by landmarks; a clip's own file is no news, and is reported too."""
    def sound(path: Path) -> Tensor:
        return OURS(read_clip(path), SAMPLE_RATE)

    index = LandmarkIndex((training.name(path), sound(path)) for path in training.clips)
    return [{"path": generated.name(path), **dataclasses.asdict(match)}
            for path in generated.clips for match in index.find(sound(path))]


def _nearness(training: Summary, reference: Summary, generated: Summary) -> dict[str, Any]:
    means = [torch.stack([clip.mean for clip in s.clips]) for s in (training, reference, generated)]
    try:
        nearest = nearest_training_clips(*means)
    except UserError as reason:
        return {"note": str(reason), **({"diversity": diversity(means[2])} if len(means[2]) > 1 else {})}
    mean, z = copying(nearest)
    lines = [{"path": clip.path, "nearest": training.clips[n.index].path, "similarity": n.similarity,
              "quantile": n.quantile} for clip, n in zip(generated.clips, nearest, strict=True)]
    return {"embedder": training.made_by["embedder"], "nearest": sorted(lines, key=lambda line: line["quantile"]),
            "mean_quantile": mean, "z": z, **({"diversity": diversity(means[2])} if len(means[2]) > 1 else {})}


def _map(reference: Summary, generated: Summary) -> dict[str, list[list[Any]]]:
    """Two principal components of the reference clips' mean features -> [x, y, name] of at most 400 clips a set."""
    def means(summary: Summary) -> Tensor:
        return torch.stack([clip.mean for clip in summary.clips[:400]]).double()

    base = means(reference)
    _, _, axes = torch.linalg.svd(base - base.mean(0), full_matrices=False)
    return {name: [[*(round(v, 4) for v in place), clip.path]
                   for place, clip in zip(((means(s) - base.mean(0)) @ axes[:2].T).tolist(), s.clips, strict=False)]
            for name, s in (("reference", reference), ("generated", generated))}


def summarise(
    clips: ClipSet, model: Embedder, store: EmbeddingCache, *, pad: bool = False, prepare: Preprocessing = OURS,
    **how: Any,
) -> Summary:
    """Embed a set of clips (from the cache where it can) into a `Summary`. `how`: as for `embed_clips`."""
    summary = Summary.none(model.dim, made_by(model, pad=pad, prepare=prepare))
    names = {digest: clips.name(path) for path, digest in clips.clips.items()}
    for digest, features in embed_clips(clips, model, store, pad=pad, prepare=prepare, **how):
        summary.add(digest, features, path=names[digest], seconds=clips.lengths.get(digest, 0.0))
    summary.rejects = [dataclasses.asdict(reject) for reject in clips.rejects]
    return summary


def made_by(model: Embedder, *, pad: bool, prepare: Preprocessing = OURS) -> dict[str, Any]:
    """All that an embedding depends on besides the audio itself."""
    return {
        "embedder": model.name, "embedder_version": model.version, "weights_sha256": model.weights_sha256,
        "sample_rate": model.sample_rate, "dim": model.dim, "window_seconds": model.window, "hop_seconds": model.hop,
        "preprocessing": str(prepare), "short_clips": "pad" if pad else "reject",
    }


def _damage(
    sets: Mapping[str, ClipSet], models: Sequence[Embedder], store: EmbeddingCache, pad: bool, count: int
) -> set[str]:
    """The anchors, known damage to `count` reference clips, into `store`; each file is read once. -> their hashes."""
    if "reference" not in sets or not count:
        return set()
    chosen = set(sorted(sets["reference"].clips.values())[:count])
    compute(sets["reference"], models, store, changes=tuple(ANCHORS), only=chosen, pad=pad)
    return chosen


def _each_clip(
    reference: Summary, clips: ClipSet, model: Embedder, store: EmbeddingCache, pad: bool, prepare: Preprocessing
) -> list[dict[str, Any]]:
    """Every generated clip's own Fréchet distance to the reference, the nearest first."""
    total = reference.moments.total()
    factor = total.factor()
    names = {digest: clips.name(path) for path, digest in clips.clips.items()}
    lines = [{"path": names[digest], "frechet": frechet_per_clip(total, [features], factor=factor)[0]}
             for digest, features in embed_clips(clips, model, store, pad=pad, prepare=prepare)]
    return sorted(lines, key=lambda line: line["frechet"])


def _describe(clips: ClipSet | None, summary: Summary | None, place: Path) -> dict[str, Any]:
    if clips is None:
        counts = summary.counts
        return {"summary": str(place), "clips": int(counts["clips"]), "hours": round(counts["seconds"] / 3600, 4),
                "rejected": summary.rejects}
    return {"folder": str(place), "clips": len(clips.clips), "hours": round(clips.seconds / 3600, 4),
            "rejected": [dataclasses.asdict(reject) for reject in clips.rejects]}


def _place(place: str | Path | Listing) -> Path:
    return place.place if isinstance(place, Listing) else Path(place)


def _overlap(sets: dict[str, ClipSet]) -> list[str]:
    if len(sets) < 2:
        return []
    shared = set(sets["reference"].clips.values()) & set(sets["generated"].clips.values())
    return [f"{len(shared)} generated clips are the same files as reference clips"] if shared else []


def write_result(result: dict[str, Any], path: str | Path) -> None:
    """result.json, whole or not at all; and beside it, where there are any, the generated clips line by line as CSV."""
    path = Path(path)
    with whole_file(path) as part:
        part.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    clips: dict[str, dict[str, Any]] = {name: dict(values) for name, values in result.get("health", {}).items()}
    for measured in result["embedders"]:
        for line in measured.get("clips", ()):
            clips.setdefault(line["path"], {})[f"frechet_{measured['embedder']}"] = line["frechet"]
    if clips:
        columns = list(dict.fromkeys(name for values in clips.values() for name in values))
        with whole_file(path.with_suffix(".clips.csv")) as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["path", *columns])
            writer.writeheader()
            writer.writerows({"path": name, **values} for name, values in clips.items())


def print_result(result: dict[str, Any], console: Any = None) -> None:
    """The result as tables on the terminal (a rich `Console`)."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    for measured in result["embedders"]:
        title = f"{measured['embedder']} ({measured['dim']}-d, {measured['sample_rate']} Hz)"
        table = Table(title=title, caption=measured.get("note"), title_justify="left", caption_justify="left")
        table.add_column("generated against the reference")
        for name in ("value", "± se", "95 % interval", "floor", "N"):
            table.add_column(name, justify="right")
        for name, row in measured["scores"].items():
            floor = measured["floor"].get(name)
            table.add_row(METRICS[name][0], *_cells(row), "" if floor is None else f"{floor['value']:.3g}",
                          f"{row['n_reference']}, {row['n_generated']}")
        console.print(table)
        if measured["anchors"]:
            ladder = Table(title="known damage to the reference", title_justify="left", title_style="dim", style="dim")
            names = list(next(iter(measured["anchors"].values())))
            for name in ("", *(METRICS[name][0] for name in names)):
                ladder.add_column(name, justify="left" if not name else "right")
            for anchor, rows in measured["anchors"].items():
                ladder.add_row(anchor, *(f"{rows[name]['value']:.4g}" if name in rows else "" for name in names))
            console.print(ladder)
        if "compat" in measured:
            others = ", ".join(f"{name} {value:.4g}" for name, value in measured["compat"].items() if name != "preset")
            console.print(f"as {measured['compat']['preset']} computes it ({measured['preprocessing']})"
                          + (f": {others}" if others else ""), markup=False)
        for warning in measured["warnings"]:
            console.print(f"warning: {measured['embedder']}: {warning}", style="yellow", markup=False)
    if "originality" in result:
        console.print(originality_line(result["originality"]), markup=False)
        for copy in result["originality"]["copies"][:5]:
            console.print(f"  {copy['path']} at {copy['at']:.1f} s: {copy['seconds']:.1f} s of {copy['source']} from "
                          f"{copy['source_at']:.1f} s", markup=False)
    for what, found, beside in prompt_rows(result):
        console.print(f"{what}: {found}" + (f"; {beside}" if beside else ""), markup=False)
    if result.get("health"):
        console.print(health_line(list(result["health"].values())))
    for name, clips in result["sets"].items():
        console.print(f"{name}: {clips['clips']} clips, {clips['hours'] * 60:.1f} min, "
                      f"{len(clips['rejected'])} rejected")
        for reject in clips["rejected"][:5]:
            console.print(f"  {reject['reason']}", markup=False)
    for warning in result["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _cells(row: dict[str, Any]) -> tuple[str, str, str]:
    low, high = row["interval_95"] or (None, None)
    return (f"{row['value']:.4g}", "" if row["se"] is None else f"{row['se']:.2g}",
            "" if low is None else f"{low:.4g} - {high:.4g}")


def originality_line(found: dict[str, Any]) -> str:
    """Copies, nearness and variety in one line."""
    text = f"{len(found['copies'])} passages of the training set were found in {found['clips']} generated clips"
    if "nearest" in found:
        text += (f"; they lie at a mean quantile of {found['mean_quantile']:.2f} of the reference's nearness to the "
                 f"training set (0.5: as near as real clips; z = {found['z']:+.1f})")
    if "diversity" in found:
        text += f"; effective number of different clips: {found['diversity']['vendi']:.1f}"
    return text


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

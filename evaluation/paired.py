"""Copies against their originals, clip by clip: vocoders, codecs, resynthesis. Files are matched by name.

The clips are compared as mono at the original's rate. Every score's mean has a 95 % interval, from leaving out groups
of pairs; a score that one pair does not have (no voiced frame, say) is the mean of the others, and says of how many.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import torch

import audiogen
from audiogen.core.errors import UserError
from audiogen.core.parallel import cores, parallel
from audiogen.signal.resample import RESAMPLER, resample
from evaluation.clips import Reject, listed
from evaluation.dnsmos import DNSMOS
from evaluation.estimate import groups_of, interval, jackknife
from evaluation.listing import Listing
from evaluation.reading import one_thread, read_clip
from evaluation.vocoder_scores import NOT_INSTALLED, score_pair

WORTH_A_PROCESS = 8  # pairs for each worker; pitch takes about a second a clip
# score -> (unit, which way is better)
SCORES = {
    "mr_stft": ("", "lower"), "mel_l1": ("ln", "lower"), "log_spectral_distance": ("dB", "lower"),
    "si_sdr": ("dB", "higher"), "mcd": ("dB", "lower"), "f0_rmse": ("cents", "lower"), "voicing_error": ("", "lower"),
    "periodicity_rmse": ("", "lower"), "pesq": ("", "higher"), "stoi": ("", "higher"),
    "dnsmos_sig": ("", "higher"), "dnsmos_bak": ("", "higher"), "dnsmos_ovrl": ("", "higher"),
}


def evaluate_pairs(
    originals: str | Path, copies: str | Path, *, speech: bool = False,
    weights: Mapping[str, Path] | str | Path | None = None, max_rejects: float = 0.01, workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """-> {"pairs", "scores": name -> {value, se, interval_95, n, unit, better}, "clips": line by line, ...}.

    speech: PESQ and STOI where their packages are installed, and DNSMOS of the copies where onnxruntime and its weights
    are; the result says what is not there. Raises `UserError` where a copy has no original, or more than `max_rejects`
    of the pairs cannot be scored.
    """
    sides = [_by_name(Listing.of(place)) for place in (originals, copies)]
    lonely = sorted(sides[1].keys() - sides[0].keys())
    if lonely:
        raise UserError(f"{len(lonely)} clips of {copies} have no original of the same name in {originals}, "
                        f"{lonely[0]} for one")
    names = sorted(sides[1])
    if isinstance(weights, Mapping):
        weights = weights.get("dnsmos", weights.get(""))
    note = ""
    if speech:
        try:
            _dnsmos(weights)
        except UserError as reason:
            note = str(reason)
    tasks = [Pair(name, sides[0][name], sides[1][name], speech, speech and not note, weights) for name in names]
    say(f"{len(tasks)} pairs")
    count = min(workers or cores(), len(tasks) // WORTH_A_PROCESS)
    lines = parallel(score_files, tasks, workers=count, crashed="the decoder died of it",
                     done=lambda index, line: say(f"scored {names[index]}"))
    rejects = [Reject(task.name, line) for task, line in zip(tasks, lines, strict=True) if isinstance(line, str)]
    good = [line for line in lines if not isinstance(line, str)]
    if len(rejects) > max_rejects * len(tasks) or not good:
        raise UserError(f"{len(rejects)} of {len(tasks)} pairs cannot be scored, more than {max_rejects:.0%} "
                        f"(--max-skip allows more): {listed(rejects)}")
    unused = sorted(sides[0].keys() - sides[1].keys())
    return {
        "audiogen": audiogen.__version__, "torch": torch.__version__, "originals": str(originals),
        "copies": str(copies), "pairs": len(good), "originals_without_copy": len(unused), "resampler": RESAMPLER,
        "scores": {name: mean_of(name, good) for name in SCORES if name in good[0]},
        "clips": good, "rejected": [dataclasses.asdict(reject) for reject in rejects],
        "warnings": [note] if note else [],
    }


@dataclasses.dataclass(frozen=True)
class Pair:
    name: str
    original: Path
    copy: Path
    speech: bool
    dnsmos: bool
    weights: str | Path | None


def score_files(pair: Pair) -> dict[str, Any] | str:
    """One pair's scores, or why it has none."""
    try:
        with one_thread():
            real, made = read_clip(pair.original), read_clip(pair.copy)
            rate = real.sample_rate
            copy = resample(made.samples.mean(0), made.sample_rate, rate)
            line = {"name": pair.name, "sample_rate": rate, "seconds": real.seconds,
                    "seconds_difference": made.seconds - real.seconds,
                    **score_pair(real.samples.mean(0), copy, rate, speech=pair.speech)}
            if pair.dnsmos:
                line |= _dnsmos(pair.weights)(copy, rate)
    except (UserError, OSError) as reason:
        return str(reason)
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in line.items()}


def mean_of(name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the pairs that have the score, with a jackknife over groups of pairs."""
    unit, better = SCORES[name]
    known = [(line["name"], line[name]) for line in lines if isinstance(line[name], (int, float))]
    row: dict[str, Any] = {"value": None, "se": None, "interval_95": None, "n": len(known), "unit": unit,
                           "better": better}
    if any(line[name] == NOT_INSTALLED for line in lines):
        return row | {"note": NOT_INSTALLED}
    if not known:
        return row
    values, part = torch.tensor([v for _, v in known], dtype=torch.float64), groups_of([n for n, _ in known])
    there = part.unique().tolist()
    value = float(values.mean())
    left_out = [float(values[part != g].mean()) for g in there] if len(there) > 1 else []
    shares = [float((part == g).double().mean()) for g in there]
    found = interval(value, [jackknife(value, left_out, shares)], used=len(there), n=len(known), m=len(known))
    return row | {"value": value, "se": found.se,
                  "interval_95": None if found.se is None else [found.low, found.high]}


def print_pairs(result: dict[str, Any], console: Any = None) -> None:
    """The result as a table on the terminal (a rich `Console`)."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    table = Table(title=f"{result['copies']} against {result['originals']}, {result['pairs']} pairs",
                  title_justify="left")
    table.add_column("score")
    for name in ("mean", "95 % interval", "pairs", "better"):
        table.add_column(name, justify="right")
    for name, row in result["scores"].items():
        span = "" if row["interval_95"] is None else "{:.4g} - {:.4g}".format(*row["interval_95"])
        value = row.get("note", "-") if row["value"] is None else f"{row['value']:.4g} {row['unit']}".strip()
        table.add_row(name, value, span, str(row["n"]), row["better"])
    console.print(table)
    for reject in result["rejected"][:5]:
        console.print(f"rejected: {reject['reason']}", markup=False)
    for warning in result["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _by_name(listing: Listing) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in listing.files:
        name = str(PurePath(listing.name(path)).with_suffix(""))
        if name in found:
            raise UserError(f"{found[name]} and {path} have the same name: which of them is to be compared?")
        found[name] = path
    return found


@functools.lru_cache(maxsize=1)
def _dnsmos(weights: str | Path | None) -> DNSMOS:
    return DNSMOS(weights)

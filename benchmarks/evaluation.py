"""Are the scores right, do their intervals hold, and how fast are they? Every figure that docs/evaluation.md gives.

    python benchmarks/evaluation.py --json benchmarks/results/evaluation.json
    python benchmarks/evaluation.py --measure ladder --music real_music/ --weights weights/

accuracy    Fréchet distance against the same in 40-digit arithmetic, at condition number 1e12
speed       Fréchet distance at 2048 dimensions, 5000 rows, beside scipy.linalg.sqrtm; and a clip's own distance
infinity    FAD for N -> ∞ of sets drawn from the reference itself: the truth is 0
coverage    how many of --seeds 95 % intervals hold the truth
ladder      more and more damage to --music: Spearman's rank correlation of damage and distance, for each embedder
files       --clips synthetic clips of --clip-seconds, scored from the files, from cached embeddings, and again

Times are wall-clock; "cpu" beside them is the processor time of all processes, for machines that others use as well.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.core.audio import Audio  # noqa: E402  (runs from a checkout too)
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.files import whole_file  # noqa: E402
from audiogen.signal.resample import resample  # noqa: E402
from benchmarks.clip import machine  # noqa: E402
from evaluation.embedders.base import load_embedder, parse_weights  # noqa: E402
from evaluation.estimate import GROUPS  # noqa: E402
from evaluation.frechet import (  # noqa: E402
    estimate_frechet,
    frechet_distance,
    frechet_infinity,
    frechet_of_moments,
    frechet_per_clip,
)
from evaluation.kernel_distance import estimate_kernel_distance  # noqa: E402
from evaluation.moments import GroupedMoments, Moments  # noqa: E402

MEASURES = ("accuracy", "speed", "infinity", "coverage", "ladder", "files")


@dataclass(frozen=True)
class Evaluation:
    """Measure the scores themselves."""

    measure: tuple[str, ...] = MEASURES
    """accuracy speed infinity coverage ladder files."""
    seeds: int = 200
    """Of the coverage."""
    dim: int = 2048
    """Of the speed."""
    rows: int = 5000
    music: Path | None = None
    """Folder of real music, for the ladder."""
    ladder_clips: int = 24
    embedders: tuple[str, ...] = ("melstats", "musicnn", "musicnn_mtt", "yamnet")
    weights: tuple[str, ...] = ()
    """As of `audiogen evaluate`."""
    clips: int = 1000
    """Of the files."""
    clip_seconds: float = 5.0
    """Length of each."""
    json: Path | None = None
    """Also write the figures here, beside those that are there and were not measured anew."""

    def run(self) -> int:
        unknown = set(self.measure) - set(MEASURES)
        if unknown:
            raise UserError(f"--measure {sorted(unknown)[0]!r} is unknown; choose from {', '.join(MEASURES)}")
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "accuracy": accuracy, "speed": lambda: speed(self.dim, self.rows), "infinity": infinity,
            "coverage": lambda: coverage(self.seeds), "files": lambda: files(self.clips, self.clip_seconds),
            "ladder": lambda: ladder(self.music, self.ladder_clips, self.embedders, self.weights)}
        for name in self.measure:
            if name == "ladder" and self.music is None:
                print("ladder: left out, for no --music is given")
                continue
            found = measures[name]() | machine()
            print(name, json.dumps(found, indent=1, ensure_ascii=False), flush=True)
            if self.json:
                self.json.parent.mkdir(parents=True, exist_ok=True)
                known = json.loads(self.json.read_text()) if self.json.exists() else {}
                with whole_file(self.json) as part:
                    part.write_text(json.dumps(known | {name: found}, indent=1, ensure_ascii=False) + "\n")
        return 0


class Clock:
    """Seconds on the wall, and of the processor in this process, its children and those that they have waited for (the
    pool's workers are children of its fork server, which nobody waits for)."""

    def __enter__(self) -> Clock:
        self.start, self.cpu_start = time.perf_counter(), self._cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self.start, self._cpu() - self.cpu_start

    def read(self) -> dict[str, float]:
        return {"s": round(self.wall, 4), "cpu, s": round(self.cpu, 4)}

    @staticmethod
    def _cpu() -> float:
        if not Path("/proc/self/stat").exists():
            return sum(u.ru_utime + u.ru_stime for u in map(
                resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                fields = path.read_text().rpartition(")")[2].split()
                if os.getpid() in (int(path.parent.name), int(fields[1])):
                    ticks += sum(map(int, fields[11:15]))  # user and system, own and of children waited for
        return ticks / os.sysconf("SC_CLK_TCK")


def normal(rows: int, dim: int, seed: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grouped(x: Tensor) -> GroupedMoments:
    """Rows, each a clip of its own, dealt to the groups."""
    sets = GroupedMoments(x.shape[1])
    sets.parts = [Moments.of(x[g::GROUPS]) for g in range(GROUPS)]
    sets.clips = [part.n for part in sets.parts]
    return sets


# ------------------------------------------------------------------ accuracy


def accuracy(dim: int = 12, rows: int = 40) -> dict[str, Any]:
    """Two sets whose covariances have condition number 1e12, turned against each other."""
    import mpmath

    mpmath.mp.dps = 40
    scale = torch.logspace(0, -6, dim, dtype=torch.float64)
    sides = []
    for seed in (1, 2):
        turn = torch.linalg.qr(normal(dim, dim, 10 + seed)).Q
        # orthonormal columns first, so that the condition number is what it is said to be
        base = torch.linalg.qr(normal(rows, dim, seed) - normal(rows, dim, seed).mean(0)).Q
        sides.append((base * scale) @ turn.T)
    x, y = sides
    exact, trace = _exact_frechet(x, y, mpmath)
    found = {"frechet_distance": frechet_distance(x, y),
             "frechet_of_moments": frechet_of_moments(Moments.of(x), Moments.of(y))}
    result = {"dim": dim, "rows": rows, "condition number": float(torch.linalg.cond(Moments.of(x).covariance)),
              "error / trace": {name: abs(float((mpmath.mpf(value) - exact) / trace)) for name, value in found.items()}}
    try:
        from scipy.linalg import sqrtm
    except ImportError:
        return result
    a, b = (Moments.of(side) for side in (x, y))
    root = torch.as_tensor(sqrtm((a.covariance @ b.covariance).numpy()).real)
    theirs = float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * root.trace())
    result["error / trace"]["scipy.linalg.sqrtm"] = abs(float((mpmath.mpf(theirs) - exact) / trace))
    return result


def _exact_frechet(x: Tensor, y: Tensor, mpmath: Any) -> tuple[Any, Any]:
    """Of the very same float64 numbers: tr sqrt(S_x S_y) as the eigenvalues of sqrt(S_x) S_y sqrt(S_x)."""
    def moments(side: Tensor) -> tuple[Any, Any]:
        rows = mpmath.matrix(side.tolist())
        mean = [mpmath.fsum(rows[:, j]) / rows.rows for j in range(rows.cols)]
        for i in range(rows.rows):
            for j in range(rows.cols):
                rows[i, j] -= mean[j]
        return mean, rows.T * rows / (rows.rows - 1)

    (m, s), (n, t) = moments(x), moments(y)
    values, vectors = mpmath.eigsy(s)
    root = vectors * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]) * vectors.T
    inner = root * t * root
    values = mpmath.eigsy((inner + inner.T) / 2, eigvals_only=True)
    trace = mpmath.fsum(s[i, i] + t[i, i] for i in range(s.rows))
    shift = mpmath.fsum((a - b) ** 2 for a, b in zip(m, n, strict=True))
    return shift + trace - 2 * mpmath.fsum(mpmath.sqrt(max(v, 0)) for v in values), trace


# ------------------------------------------------------------------ speed


def speed(dim: int, rows: int) -> dict[str, Any]:
    """From the moments to the distance, as the published tools do it and as we do, in one process after each other."""
    torch.set_num_threads(1)
    fall = torch.arange(1, dim + 1, dtype=torch.float64) ** -0.5
    x, y = (Moments.of(normal(rows, dim, seed) * fall) for seed in (1, 2))
    clip = normal(10, dim, 3) * fall
    result: dict[str, Any] = {"dim": dim, "rows": rows, "threads": 1}
    with Clock() as clock:
        ours = frechet_of_moments(x, y)
    result["both factors and their singular values"] = clock.read()
    with Clock() as clock:
        factor = x.factor()
    result["the reference's factor, once"] = clock.read()
    with Clock() as clock:
        looped = frechet_of_moments(x, y, factor_x=factor)
    result["one more set against that reference"] = looping = clock.read()
    with Clock() as clock:
        frechet_per_clip(x, [clip] * 5, factor=factor)
    result["a clip of 10 windows"] = {name: value / 5 for name, value in clock.read().items()}
    try:
        from scipy.linalg import sqrtm
    except ImportError:
        return result
    with Clock() as clock:
        root = torch.as_tensor(sqrtm((x.covariance @ y.covariance).numpy()).real)
    theirs = float((x.mean - y.mean).square().sum() + x.covariance.trace() + y.covariance.trace() - 2 * root.trace())
    result["scipy.linalg.sqrtm"] = scipy_time = clock.read()
    trace = float(x.covariance.trace() + y.covariance.trace())
    for name, own in (("times faster", result["both factors and their singular values"]),
                      ("times faster, reference known", looping), ("times faster, per clip",
                                                                   result["a clip of 10 windows"])):
        result[name] = round(scipy_time["cpu, s"] / max(own["cpu, s"], 1e-9), 1)
    result["difference / trace"] = {"both factors": abs(ours - theirs) / trace, "known": abs(looped - theirs) / trace}
    return result


# ------------------------------------------------------------------ bias and intervals


def infinity(dim: int = 32) -> dict[str, Any]:
    """Sets of the reference's own distribution: value, standard error, and how many of them apart from 0."""
    reference = grouped(normal(20_000, dim, 1))
    rows = {}
    for n in (1000, 2000, 5000, 10_000, 20_000):
        estimate = frechet_infinity(reference, grouped(normal(n, dim, n)))
        rows[n] = {"plain": estimate_frechet(reference, grouped(normal(n, dim, n))).value, "fad_inf": estimate.value,
                   "se": estimate.se, "se from 0": abs(estimate.value) / estimate.se}
    return {"dim": dim, "truth": 0.0, "N": rows, "worst, se from 0": max(r["se from 0"] for r in rows.values())}


def coverage(seeds: int, dim: int = 4, rows: int = 800) -> dict[str, Any]:
    """N(0, 1) against N(0, 1.5²): Fréchet distance dim · 0.5² and, for a Gaussian kernel, its closed form."""
    truth, wide = dim * 0.25, 1.5
    bandwidth = math.sqrt(2.0 * dim)
    # E k(x, y) for x - y ~ N(0, v) in each dimension: (1 + v / bandwidth²)^(-dim / 2)
    kernel = 100 * sum(sign * (1 + v / bandwidth**2) ** (-dim / 2)
                       for sign, v in ((1, 2.0), (1, 2 * wide**2), (-2, 1 + wide**2)))
    hits = {"fad": 0, "fad_inf": 0, "kernel": 0}
    names = [[f"{side} {i}" for i in range(rows)] for side in "xy"]
    for seed in range(seeds):
        x, y = normal(rows, dim, 2 * seed), wide * normal(rows, dim, 2 * seed + 1)
        a, b = grouped(x), grouped(y)
        for name, estimate, true in (
            ("fad", estimate_frechet(a, b), truth), ("fad_inf", frechet_infinity(a, b), truth),
            ("kernel", estimate_kernel_distance(x, y, *names, bandwidth=bandwidth), kernel),
        ):
            hits[name] += estimate.low <= true <= estimate.high
    return {"seeds": seeds, "dim": dim, "rows": rows, "95 % intervals that hold the truth":
            {name: round(count / seeds, 4) for name, count in hits.items()}}


# ------------------------------------------------------------------ damage


def _noise(x: Tensor, rate: int, snr: float, seed: int) -> Tensor:
    return x + x.std() * 10 ** (-snr / 20) * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def _low_pass(x: Tensor, rate: int, hertz: float, seed: int) -> Tensor:
    spectrum = torch.fft.rfft(x)
    spectrum[torch.fft.rfftfreq(len(x), 1 / rate) > hertz] = 0
    return torch.fft.irfft(spectrum, len(x))


def _clip(x: Tensor, rate: int, share: float, seed: int) -> Tensor:
    """The loudest `share` of the samples is cut off."""
    limit = x.abs().quantile(1 - share) if len(x) < 1 << 24 else x.abs().max()
    return x.clamp(-limit, limit)


def _bits(x: Tensor, rate: int, bits: float, seed: int) -> Tensor:
    step = x.abs().max() / 2 ** (bits - 1)
    return torch.round(x / step) * step


def _shuffle(x: Tensor, rate: int, seconds: float, seed: int) -> Tensor:
    """Pieces of so many seconds in any order."""
    pieces = x.split(max(1, round(seconds * rate)))[:-1]
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(seed))
    return torch.cat([pieces[i] for i in order])


def _pitch(x: Tensor, rate: int, depth: float, seed: int) -> Tensor:
    """Played at a speed that wanders by `depth` octaves (standard deviation), anew 8 times a second."""
    knots = torch.randn(math.ceil(8 * len(x) / rate) + 2, generator=torch.Generator().manual_seed(seed))
    time = torch.linspace(0, len(knots) - 2, len(x))
    low = time.long()
    wander = knots[low] + (time - low) * (knots[low + 1] - knots[low])
    at = (2.0 ** (depth * wander)).double().cumsum(0)
    at = at * (len(x) - 2) / at[-1]
    base = at.long()
    return x[base] + (at - base).float() * (x[base + 1] - x[base])


DAMAGE: dict[str, tuple[Callable[[Tensor, int, float, int], Tensor], tuple[float, ...]]] = {
    "noise, dB": (_noise, (30, 20, 10, 0)), "low-pass, Hz": (_low_pass, (6000, 3000, 1500, 700)),
    "clipped share": (_clip, (0.02, 0.1, 0.3, 0.6)), "bits": (_bits, (9, 7, 5, 3)),
    "shuffled pieces, s": (_shuffle, (0.2, 0.1, 0.05, 0.02)), "pitch jitter, octaves": (_pitch, (0.01, 0.03, 0.1, 0.3)),
}


def ladder(music: Path, count: int, names: tuple[str, ...], weights: tuple[str, ...]) -> dict[str, Any]:
    """Distance of the damaged clips to the same clips undamaged: what the damage itself costs."""
    from evaluation.clips import list_clips

    files = list_clips(music)
    files = files[:: max(1, len(files) // count)][:count]
    sound = [Audio.read(path, seconds=8.0) for path in files]
    result: dict[str, Any] = {"clips": len(files), "seconds each": 8.0, "embedders": {}}
    for name in names:
        try:
            model = load_embedder(name, weights=parse_weights(weights))
        except UserError as reason:
            result["embedders"][name] = str(reason).split(":")[0]
            continue
        clips = [resample(audio.samples.mean(0), audio.sample_rate, model.sample_rate).float() for audio in sound]
        whole = torch.cat([model(clip[None])[0] for clip in clips])
        rungs = {}
        for damage, (change, amounts) in DAMAGE.items():
            distances = []
            for amount in amounts:
                rows = [model(change(clip, model.sample_rate, amount, i)[None])[0]
                        for i, clip in enumerate(clips)]
                distances.append(frechet_distance(whole, torch.cat(rows)))
            rungs[damage] = {"distances": [round(d, 4) for d in distances], "rank correlation": _spearman(distances)}
        result["embedders"][name] = rungs
    return result


def _spearman(values: list[float]) -> float:
    """Of the values with their own places."""
    n = len(values)
    rank = sorted(range(n), key=values.__getitem__)
    places = [rank.index(i) for i in range(n)]
    return 1 - 6 * sum((i - p) ** 2 for i, p in enumerate(places)) / (n * (n * n - 1))


# ------------------------------------------------------------------ files


def files(count: int, seconds: float = 5.0, rate: int = 22050) -> dict[str, Any]:
    """A reference and as many generated clips, half of `count` each: the whole command, from nothing; with the
    embeddings known and every score computed anew; and again with nothing changed."""
    from evaluation.report import evaluate

    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        times = torch.arange(round(seconds * rate)) / rate
        for index in range(count):
            source = torch.Generator().manual_seed(index)
            pitch = 110 * 2 ** (2 * torch.rand(4, generator=source))
            clip = sum(torch.sin(2 * math.pi * p * times) / 8 for p in pitch) * torch.exp(-times)
            clip += 0.01 * torch.randn(len(times), generator=source)
            path = folder / ("real" if index % 2 else "made") / f"{index}.wav"
            Audio(clip[None], rate).save(path)
            os.utime(path, (1e9, 1e9))
        result: dict[str, Any] = {"clips": count, "seconds each": seconds, "load": round(os.getloadavg()[0], 1)}
        for name in ("from the files", "from cached embeddings", "from the cache"):
            if name == "from cached embeddings":
                with contextlib.closing(sqlite3.connect(folder / "cache.sqlite")) as base, base:
                    base.execute("DELETE FROM facts WHERE key LIKE 'estimate %'")
            with Clock() as clock:
                evaluate(folder / "real", folder / "made", cache=folder / "cache.sqlite")
            result[name] = clock.read() | {"x real time": round(count * seconds / clock.wall, 1),
                                           "x real time per core": round(count * seconds / clock.cpu, 1)}
    return result


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(Evaluation).run())
    except UserError as reason:
        sys.exit(f"evaluation: {reason}")

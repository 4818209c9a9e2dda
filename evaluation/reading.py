"""One reading of a file gives all that scores need of it: content hash, length, health, embeddings. On all cores.

What a clip gives depends on the clip alone: torch runs with one thread here, in this process as in the workers, so
that neither the number of cores nor where a run was interrupted changes a bit of it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.core.parallel import cores, parallel, warm
from audiogen.core.whole_audio import missing_of
from evaluation.adherence import listen, measure_health
from evaluation.anchors import ANCHORS
from evaluation.embedders.base import Embedder, load_embedder
from evaluation.preprocessing import Preprocessing

SILENCE_DB = -70.0  # a clip whose loudest sample stays below this is silent
WORTH_A_PROCESS = 48  # files for each worker; a process takes as long to start as this many files take to read
WORTH_MORE = 8  # the same where a template of the workers is loaded already
BATCH = 4096  # files whose results are in memory at a time


@dataclass(frozen=True)
class Task:
    """What is wanted of one file. `wanted`: (embedder, name of the change) pairs."""

    path: Path
    wanted: tuple[tuple[str, str], ...] = ()
    health: bool = False
    listen: bool = False
    weights: Mapping[str, Path] | Path | None = None
    pad: bool = False
    prepare: Preprocessing = field(default_factory=Preprocessing)


@dataclass
class Found:
    """What one reading gave; `reason` where the file cannot be scored, and nothing else then."""

    reason: str = ""
    digest: str = ""
    seconds: float = 0.0
    made_by: dict[str, Any] = field(default_factory=dict)
    health: dict[str, Any] | None = None
    heard: dict[str, Any] | None = None
    features: dict[tuple[str, str], Any] = field(default_factory=dict)  # NumPy (windows, dim): cheap to send


def read_clip(path: Path) -> Audio:
    """One clip with all its channels. Raises `UserError` with the reason why it cannot be scored."""
    audio = Audio.read(path)
    missing = missing_of(path)
    if missing is not None:
        raise UserError(f"{path} is truncated: {missing}")
    if audio.samples.shape[-1] == 0:
        raise UserError(f"{path} is empty")
    peak = audio.samples.mean(0).abs().max().item()
    if peak < 10 ** (SILENCE_DB / 20):
        raise UserError(f"{path} is silent (peak below {SILENCE_DB:.0f} dBFS)")
    return audio


def examine(task: Task, models: Mapping[str, Embedder] | None = None) -> Found:
    """Read the file once. `models`: embedders that are loaded already; a worker process loads its own."""
    try:
        with one_thread():
            audio = read_clip(task.path)
            digest = hashlib.blake2b(task.path.read_bytes(), digest_size=16).hexdigest()
            found = Found(digest=digest, seconds=audio.seconds, made_by=audio.made_by)
            if task.health:
                found.health = dataclasses.asdict(measure_health(audio))
            if task.listen:
                found.heard = dataclasses.asdict(listen(audio))
            prepared: dict[int, Tensor] = {}
            for name, change in task.wanted:
                model = models[name] if models is not None else _loaded(name, _frozen(task.weights))
                if model.sample_rate not in prepared:
                    prepared[model.sample_rate] = task.prepare(audio, model.sample_rate)
                samples = prepared[model.sample_rate]
                found.features[name, change] = embed_one(model, samples, digest, change=change, pad=task.pad).numpy()
            return found
    except (UserError, OSError) as reason:
        return Found(reason=str(reason))


def embed_one(model: Embedder, samples: Tensor, digest: str, *, change: str = "", pad: bool = False) -> Tensor:
    """samples (time,) at the embedder's rate -> features (windows, dim), after the change of that name."""
    if change:
        samples = ANCHORS[change](samples, model.sample_rate, digest)
    short = math.ceil(model.window * model.sample_rate) - len(samples)
    if pad and short > 0:
        samples = F.pad(samples, (0, short))
    return model(samples[None].float())[0]


def examine_all(
    tasks: Sequence[Task], models: Mapping[str, Embedder], done: Callable[[int, Found], None], *,
    workers: int | None = None,
) -> None:
    """Examine every task, on `workers` cores (None: all) where there are enough files; `done` (index, result) as each
    is there."""
    for start in range(0, len(tasks), BATCH):
        batch = tasks[start : start + BATCH]
        count = min(workers or cores(), len(batch) // (WORTH_MORE if warm() else WORTH_A_PROCESS))
        if any(type(model).__module__.split(".")[0] != "evaluation" for model in models.values()):
            count = 1  # a user's own embedder: another process would not know its name
        if count <= 1:
            for index, task in enumerate(batch, start):
                done(index, examine(task, models))
            continue
        # what the first clip would load: pyloudnorm brings scipy, which takes as long as a hundred clips
        parallel(examine, batch, workers=count, crashed=Found(reason="the decoder died of it"),
                 preload=("soundfile", "soxr", *(("pyloudnorm",) if any(task.health for task in batch) else ())),
                 done=lambda index, found, start=start: done(start + index, found))


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.lru_cache(maxsize=8)
def _loaded(name: str, weights: tuple | Path | None) -> Embedder:
    return load_embedder(name, weights=dict(weights) if isinstance(weights, tuple) else weights)


def _frozen(weights: Mapping[str, Path] | Path | None) -> tuple | Path | None:
    return tuple(weights.items()) if isinstance(weights, Mapping) else weights

"""A folder of clips -> embeddings, clip by clip: what cannot be used is listed with its reason and never replaced."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiogen.core.errors import UserError
from evaluation.cache import EmbeddingCache
from evaluation.embedders.base import Embedder
from evaluation.preprocessing import Preprocessing
from evaluation.reading import Found, Task, examine_all, read_clip

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")
OURS = Preprocessing()
FACTS = 1  # version of what is measured of a clip besides its embeddings
SETTLED = 2.0  # seconds; a file changed more recently may change again without a new time stamp

__all__ = ["OURS", "SUFFIXES", "ClipSet", "Reject", "cache_key", "check_clips", "embed_clips", "list_clips",
           "read_clip"]


@dataclass(frozen=True)
class Reject:
    path: str
    reason: str


@dataclass
class ClipSet:
    """The usable clips of a folder, and the others.

    clips    path -> content hash
    lengths  hash -> seconds
    made_by  hash -> how the clip was made, where its file says so
    health, heard  hash -> what was measured, where that was asked for
    """

    folder: Path
    clips: dict[Path, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    seconds: float = 0.0
    lengths: dict[str, float] = field(default_factory=dict)
    made_by: dict[str, dict[str, Any]] = field(default_factory=dict)
    health: dict[str, dict[str, Any]] = field(default_factory=dict)
    heard: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: Mapping[str, Path] | Path | None = None  # where a worker process finds the embedders' weights

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))


def list_clips(folder: str | Path) -> list[Path]:
    """Every audio file below `folder`, in order. Raises `UserError` where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder of clips at {folder}")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
                   and not p.is_dir())
    if not files:
        raise UserError(f"{folder} holds no audio ({' '.join(SUFFIXES)})")
    return files


def check_clips(
    folder: str | Path, *, shortest: float = 0.0, max_rejects: float = 0.01, shard: tuple[int, int] = (0, 1),
    store: EmbeddingCache | None = None, embedders: Sequence[Embedder] = (), health: bool = False,
    listen: bool = False, pad: bool = False, prepare: Preprocessing = OURS,
    weights: Mapping[str, Path] | Path | None = None, workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ClipSet:
    """Read every clip once: unreadable, NaN, empty, silent ones and those under `shortest` seconds become rejects.

    What else is wanted of a clip is computed in the same reading and kept in `store`: features under `embedders`,
    health, tempo and key (`listen`). A file of the same path, size and time stamp as one that `store` knows is not
    read again. shard (i, n): only every n-th file of the folder, from the i-th on. workers: processes (None: a core
    each). Raises `UserError` where more than `max_rejects` (a share of the files) are rejects, or no clip is left.
    """
    files = list_clips(folder)[shard[0] :: shard[1]]
    if not files:
        raise UserError(f"{folder} has fewer files than there are shards: shard {shard[0] + 1} of {shard[1]} is empty")
    store = store or EmbeddingCache(None)
    models = {model.name: model for model in embedders}
    found: dict[Path, Found] = {}
    tasks = []
    for path in files:
        known = _remembered(path, store, health=health, listen=listen)
        missing = tuple((name, "") for name, model in models.items()
                        if known is None or not store.has(_key(known.digest, model, "", pad, prepare)))
        if known is not None and not missing:
            found[path] = known
        else:
            tasks.append(Task(path, missing, health, listen, weights, pad, prepare))

    def done(task: Task, result: Found) -> None:
        if not result.reason:
            _remember(task.path, result, store)
            for (name, change), rows in result.features.items():
                store.put(_key(result.digest, models[name], change, pad, prepare), torch.from_numpy(rows))
            result.features = {}
        found[task.path] = result
        step()

    if tasks:
        say(f"reading {len(tasks)} files of {folder}")
    with _progress(len(tasks), Path(folder).name) as step:
        examine_all(tasks, models, done, workers=workers)
    clips = _sorted_out(Path(folder), files, found, shortest)
    clips.weights = weights
    if not clips.clips:
        raise UserError(f"none of the {len(files)} clips in {folder} can be scored: {clips.rejects[0].reason}")
    if len(clips.rejects) > max_rejects * len(files):
        raise UserError(f"{len(clips.rejects)} of {len(files)} clips in {folder} cannot be scored, more than "
                        f"{max_rejects:.0%}; the first: {clips.rejects[0].reason} (--max-rejects allows more)")
    return clips


@contextmanager
def _progress(total: int, title: str) -> Iterator[Callable[[], None]]:
    """A bar on stderr where that is a terminal and there is enough to wait for; call what it gives once a file."""
    if total < 20 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda: progress.advance(bar)


def _sorted_out(folder: Path, files: Sequence[Path], found: Mapping[Path, Found], shortest: float) -> ClipSet:
    clips = ClipSet(folder)
    for path in files:
        clip = found[path]
        reason = clip.reason
        if not reason and clip.seconds < shortest:
            reason = f"{path} has {clip.seconds:.2f} s, less than one window of {shortest:.2f} s"
        if reason:
            clips.rejects.append(Reject(str(path.relative_to(folder)), reason))
            continue
        clips.clips[path], clips.lengths[clip.digest] = clip.digest, clip.seconds
        clips.seconds += clip.seconds
        for kept, value in ((clips.made_by, clip.made_by), (clips.health, clip.health), (clips.heard, clip.heard)):
            if value:
                kept[clip.digest] = value
    return clips


# ------------------------------------------------------------------ what is known of a file


def _file_key(path: Path) -> str | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    if time.time() - stat.st_mtime < SETTLED:
        return None
    return f"file {FACTS} {path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def _remembered(path: Path, store: EmbeddingCache, *, health: bool, listen: bool) -> Found | None:
    """All that is asked for, or None where a part of it is not known."""
    key = _file_key(path)
    facts = None if key is None else store.get_facts(key)
    if facts is None:
        return None
    found = Found(**facts)
    for name, wanted in (("health", health), ("heard", listen)):
        if wanted:
            value = store.get_facts(f"{name} {FACTS} {found.digest}")
            if value is None:
                return None
            setattr(found, name, value)
    return found


def _remember(path: Path, found: Found, store: EmbeddingCache) -> None:
    for name in ("health", "heard"):
        if getattr(found, name) is not None:
            store.put_facts(f"{name} {FACTS} {found.digest}", getattr(found, name))
    key = _file_key(path)
    if key is not None:
        store.put_facts(key, {"digest": found.digest, "seconds": found.seconds, "made_by": found.made_by})


# ------------------------------------------------------------------ embeddings


def embed_clips(
    clips: ClipSet, embedder: Embedder, store: EmbeddingCache, *, change: str = "", only: set[str] | None = None,
    pad: bool = False, prepare: Preprocessing = OURS,
) -> Iterator[tuple[str, Tensor]]:
    """(content hash, features (windows, dim) float32) of each clip, in the order of the paths.

    change: the name of an anchor, which alters the clip at the embedder's rate first. only: the content hashes that
    are wanted. pad: a clip of less than one window is filled up with silence; without it, such a clip yields nothing.
    prepare: channels, rate, level.
    """
    wanted = [(path, digest) for path, digest in clips.clips.items() if only is None or digest in only]
    keys = {digest: _key(digest, embedder, change, pad, prepare) for _, digest in wanted}
    fresh: dict[Path, Tensor] = {}  # what `store` may not keep
    tasks = [Task(path, ((embedder.name, change),), weights=clips.weights, pad=pad, prepare=prepare)
             for path, digest in wanted if not store.has(keys[digest])]

    def done(task: Task, found: Found) -> None:
        if found.reason or found.digest != clips.clips[task.path]:
            raise UserError(found.reason or f"{task.path} was changed while it was being scored: start again")
        features = torch.from_numpy(found.features[embedder.name, change])
        store.put(keys[found.digest], features)
        if store.base is None:
            fresh[task.path] = features

    examine_all(tasks, {embedder.name: embedder}, done)
    for path, digest in wanted:
        features = fresh[path] if path in fresh else store.get(keys[digest])
        if features is not None and len(features):
            yield digest, features


def _key(digest: str, embedder: Embedder, change: str, pad: bool, prepare: Preprocessing) -> str:
    return cache_key(digest, embedder, f"{change} {'padded' if pad else ''}", prepare=prepare)


def cache_key(digest: str, embedder: Embedder, change: str = "", *, prepare: Preprocessing = OURS) -> str:
    """All that the numbers depend on: the file's bytes, embedder, weights, code version, preprocessing, change."""
    parts = [digest, embedder.name, str(embedder.version), embedder.weights_sha256, str(embedder.sample_rate),
             str(prepare), torch.__version__, change]
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()

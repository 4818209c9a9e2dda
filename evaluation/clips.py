"""Folders of clips -> embeddings, clip by clip: what cannot be used is listed with its reason and never replaced."""

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
from evaluation.listing import Listing, name_of
from evaluation.preprocessing import Preprocessing
from evaluation.reading import Found, Task, examine_all, read_clip

LISTED = 20  # rejects that an error names
OURS = Preprocessing()
FACTS = 1  # version of what is measured of a clip besides its embeddings
SETTLED = 2.0  # seconds; a file changed more recently may change again without a new time stamp

__all__ = ["OURS", "ClipSet", "Reject", "Wanted", "cache_key", "check_clips", "embed_clips", "list_clips", "listed",
           "read_clip", "read_sets", "refuse_many"]


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
    styles   hash -> the clip's style, where a manifest says it
    """

    folder: Path
    clips: dict[Path, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    seconds: float = 0.0
    lengths: dict[str, float] = field(default_factory=dict)
    made_by: dict[str, dict[str, Any]] = field(default_factory=dict)
    health: dict[str, dict[str, Any]] = field(default_factory=dict)
    heard: dict[str, dict[str, Any]] = field(default_factory=dict)
    styles: dict[str, str] = field(default_factory=dict)
    workers: int | None = None
    weights: Mapping[str, Path] | Path | None = None  # where a worker process finds the embedders' weights

    def name(self, path: Path) -> str:
        return name_of(path, self.folder)


def list_clips(place: str | Path | Listing) -> list[Path]:
    """Every audio file of a folder or manifest, in order. Raises `UserError` where there is none."""
    return list(Listing.of(place).files)


@dataclass(frozen=True)
class Wanted:
    """A set of clips, and what is measured of each besides its embeddings."""

    listing: Listing
    health: bool = False
    listen: bool = False


def check_clips(
    place: str | Path | Listing, *, shard: tuple[int, int] = (0, 1), health: bool = False, listen: bool = False,
    **reading: Any,
) -> ClipSet:
    """Read one set; shard (i, n): only every n-th file, from the i-th on. `reading`: as for `read_sets`."""
    listing = Listing.of(place)
    part = listing.part(*shard)
    if not part.files:
        raise UserError(f"{listing.place} has fewer files than there are shards: shard {shard[0] + 1} of {shard[1]} is "
                        "empty")
    return read_sets({"": Wanted(part, health, listen)}, **reading)[""]


def read_sets(
    sets: Mapping[str, Wanted], *, shortest: float = 0.0, max_rejects: float = 0.01,
    store: EmbeddingCache | None = None, embedders: Sequence[Embedder] = (), pad: bool = False,
    prepare: Preprocessing = OURS, weights: Mapping[str, Path] | Path | None = None, workers: int | None = None,
    say: Callable[[str], None] = lambda line: None, allow_none: bool = False,
) -> dict[str, ClipSet]:
    """Read every clip once: unreadable, NaN, empty, silent ones and those under `shortest` seconds become rejects.

    What else is wanted of a clip is computed in the same reading and kept in `store`: features under `embedders`,
    health, tempo and key (`listen`). A file of the same path, size and time stamp as one that `store` knows is not
    read again. workers: processes for all the sets together (None: a core each). Raises `UserError` where more than
    `max_rejects` (a share of a set's files) are rejects, or no clip is left (a part of a set may: `allow_none`).
    """
    store = store or EmbeddingCache(None)
    models = {model.name: model for model in embedders}
    found: dict[str, dict[Path, Found]] = {name: {} for name in sets}
    tasks: list[Task] = []
    owners: list[str] = []
    for name, wanted in sets.items():
        for path in wanted.listing.files:
            known = _remembered(path, store, health=wanted.health, listen=wanted.listen)
            missing = tuple((model.name, "") for model in embedders
                            if known is None or not store.has(_key(known.digest, model, "", pad, prepare)))
            if known is not None and not missing:
                found[name][path] = known
            else:
                tasks.append(Task(path, missing, wanted.health, wanted.listen, weights, pad, prepare))
                owners.append(name)

    def done(index: int, result: Found) -> None:
        if not result.reason:
            _remember(tasks[index].path, result, store)
            for (name, change), rows in result.features.items():
                store.put(_key(result.digest, models[name], change, pad, prepare), torch.from_numpy(rows))
            result.features = {}
        found[owners[index]][tasks[index].path] = result
        step()

    if tasks:
        places = " and ".join(dict.fromkeys(str(sets[name].listing.place) for name in owners))
        say(f"reading {len(tasks)} files of {places}")
    with _progress(len(tasks), "reading") as step:
        examine_all(tasks, models, done, workers=workers)
    return {name: _sorted_out(wanted.listing, found[name], shortest, max_rejects, weights, workers, allow_none)
            for name, wanted in sets.items()}


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


def _sorted_out(
    listing: Listing, found: Mapping[Path, Found], shortest: float, max_rejects: float,
    weights: Mapping[str, Path] | Path | None, workers: int | None, allow_none: bool,
) -> ClipSet:
    clips = ClipSet(listing.folder, weights=weights, workers=workers)
    for path in listing.files:
        clip = found[path]
        reason = clip.reason
        if not reason and clip.seconds < shortest:
            reason = f"{path} has {clip.seconds:.2f} s, less than one window of {shortest:.2f} s"
        if reason:
            clips.rejects.append(Reject(clips.name(path), reason))
            continue
        clips.clips[path], clips.lengths[clip.digest] = clip.digest, clip.seconds
        clips.seconds += clip.seconds
        for kept, value in ((clips.made_by, clip.made_by), (clips.health, clip.health), (clips.heard, clip.heard),
                            (clips.styles, listing.styles.get(path))):
            if value:
                kept[clip.digest] = value
    if clips.clips or not allow_none:
        refuse_many(clips.rejects, len(listing.files), listing.place, max_rejects)
    return clips


def refuse_many(rejects: Sequence[Reject], files: int, place: Path, max_rejects: float) -> None:
    """Raise with the list where no clip is left, or more than the share `max_rejects` of the files are rejects."""
    if len(rejects) == files:
        raise UserError(f"none of the {files} clips in {place} can be scored: {listed(rejects)}")
    if len(rejects) > max_rejects * files:
        raise UserError(f"{len(rejects)} of {files} clips in {place} cannot be scored, more than {max_rejects:.0%} "
                        f"(--max-skip allows more): {listed(rejects)}")


def listed(rejects: Sequence[Reject]) -> str:
    """Their reasons in one line, so many of them as a person reads."""
    more = f"; and {len(rejects) - LISTED} more" if len(rejects) > LISTED else ""
    return "; ".join(reject.reason for reject in rejects[:LISTED]) + more


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
    fresh = compute(clips, (embedder,), store, changes=(change,), only=only, pad=pad, prepare=prepare)
    for digest in (d for d in clips.clips.values() if only is None or d in only):
        key = _key(digest, embedder, change, pad, prepare)
        features = fresh[key] if key in fresh else store.get(key)
        if features is not None and len(features):
            yield digest, features


def compute(
    clips: ClipSet, embedders: Sequence[Embedder], store: EmbeddingCache, *, changes: Sequence[str],
    only: set[str] | None = None, pad: bool = False, prepare: Preprocessing = OURS,
) -> dict[str, Tensor]:
    """See to it that `store` has the features of every clip under every embedder and change; each file is read once.

    -> what `store` cannot keep: key -> features.
    """
    models = {model.name: model for model in embedders}
    tasks = []
    for path, digest in clips.clips.items():
        missing = tuple((model.name, change) for model in embedders for change in changes
                        if (only is None or digest in only)
                        and not store.has(_key(digest, model, change, pad, prepare)))
        if missing:
            tasks.append(Task(path, missing, weights=clips.weights, pad=pad, prepare=prepare))
    fresh: dict[str, Tensor] = {}

    def done(index: int, found: Found) -> None:
        path = tasks[index].path
        if found.reason or found.digest != clips.clips[path]:
            raise UserError(found.reason or f"{path} was changed while it was being scored: start again")
        for (name, change), rows in found.features.items():
            features, key = torch.from_numpy(rows), _key(found.digest, models[name], change, pad, prepare)
            store.put(key, features)
            if store.base is None:
                fresh[key] = features

    examine_all(tasks, models, done, workers=clips.workers)
    return fresh


def _key(digest: str, embedder: Embedder, change: str, pad: bool, prepare: Preprocessing) -> str:
    return cache_key(digest, embedder, f"{change} {'padded' if pad else ''}", prepare=prepare)


def cache_key(digest: str, embedder: Embedder, change: str = "", *, prepare: Preprocessing = OURS) -> str:
    """All that the numbers depend on: the file's bytes, embedder, weights, code version, preprocessing, change."""
    parts = [digest, embedder.name, str(embedder.version), embedder.weights_sha256, str(embedder.sample_rate),
             str(prepare), torch.__version__, change]
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()

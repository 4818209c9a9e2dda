"""A folder of clips -> embeddings, clip by clip: what cannot be used is listed with its reason and never replaced."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from evaluation.cache import EmbeddingCache
from evaluation.embedders.base import Embedder
from evaluation.preprocessing import Preprocessing

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")
SILENCE_DB = -70.0  # a clip whose loudest sample stays below this is silent
OURS = Preprocessing()


@dataclass(frozen=True)
class Reject:
    path: str
    reason: str


@dataclass
class ClipSet:
    """The usable clips of a folder, and the others. `clips`: path -> content hash; `lengths`: hash -> seconds."""

    folder: Path
    clips: dict[Path, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    seconds: float = 0.0
    lengths: dict[str, float] = field(default_factory=dict)


def list_clips(folder: str | Path) -> list[Path]:
    """Every audio file below `folder`, in order. Raises `UserError` where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder of clips at {folder}")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise UserError(f"{folder} holds no audio ({' '.join(SUFFIXES)})")
    return files


def read_clip(path: Path) -> Audio:
    """One clip with all its channels. Raises `UserError` with the reason why it cannot be scored."""
    audio = Audio.read(path)
    if audio.samples.shape[-1] == 0:
        raise UserError(f"{path} is empty")
    peak = audio.samples.mean(0).abs().max().item()
    if peak < 10 ** (SILENCE_DB / 20):
        raise UserError(f"{path} is silent (peak below {SILENCE_DB:.0f} dBFS)")
    return audio


def check_clips(
    folder: str | Path, *, shortest: float = 0.0, max_rejects: float = 0.01, shard: tuple[int, int] = (0, 1)
) -> ClipSet:
    """Read every clip once: unreadable, NaN, empty, silent ones and those under `shortest` seconds become rejects.

    shard (i, n): only every n-th file of the folder, from the i-th on.
    Raises `UserError` where more than `max_rejects` (a share of the files) are, or none is left.
    """
    found = ClipSet(Path(folder))
    files = list_clips(folder)[shard[0] :: shard[1]]
    if not files:
        raise UserError(f"{folder} has fewer files than there are shards: shard {shard[0] + 1} of {shard[1]} is empty")
    for path in files:
        try:
            audio = read_clip(path)
            if audio.seconds < shortest:
                raise UserError(f"{path} has {audio.seconds:.2f} s, less than one window of {shortest:.2f} s")
        except UserError as reason:
            found.rejects.append(Reject(str(path.relative_to(folder)), str(reason)))
            continue
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        found.clips[path], found.lengths[digest] = digest, audio.seconds
        found.seconds += audio.seconds
    if not found.clips:
        raise UserError(f"none of the {len(files)} clips in {folder} can be scored: {found.rejects[0].reason}")
    if len(found.rejects) > max_rejects * len(files):
        raise UserError(f"{len(found.rejects)} of {len(files)} clips in {folder} cannot be scored, more than "
                        f"{max_rejects:.0%}; the first: {found.rejects[0].reason} (--max-rejects allows more)")
    return found


def embed_clips(
    clips: ClipSet, embedder: Embedder, cache: EmbeddingCache, *,
    change: Callable[[Tensor, int, str], Tensor] | None = None, change_name: str = "",
    only: set[str] | None = None, pad: bool = False, prepare: Preprocessing = OURS,
) -> Iterator[tuple[str, Tensor]]:
    """(content hash, features (windows, dim) float32) of each clip.

    `change(audio (time,), sample_rate, content hash)` alters the clip at the embedder's rate first, for the anchors;
    `change_name` names it in the cache's key. `only`: the content hashes that are wanted. `pad`: a clip of less than
    one window is filled up with silence; without it, such a clip yields nothing. `prepare`: channels, rate, level.
    """
    for path, digest in clips.clips.items():
        if only is not None and digest not in only:
            continue
        key = cache_key(digest, embedder, f"{change_name} {'padded' if pad else ''}", prepare=prepare)
        features = cache.get(key)
        if features is None:
            samples = prepare(read_clip(path), embedder.sample_rate)
            if change is not None:
                samples = change(samples, embedder.sample_rate, digest)
            short = math.ceil(embedder.window * embedder.sample_rate) - len(samples)
            if pad and short > 0:
                samples = F.pad(samples, (0, short))
            features = embedder(samples[None].float())[0]
            cache.put(key, features)
        if len(features):
            yield digest, features


def cache_key(digest: str, embedder: Embedder, change: str = "", *, prepare: Preprocessing = OURS) -> str:
    """All that the numbers depend on: the file's bytes, embedder, weights, code version, preprocessing, change."""
    parts = [digest, embedder.name, str(embedder.version), embedder.weights_sha256, str(embedder.sample_rate),
             str(prepare), torch.__version__, change]
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()

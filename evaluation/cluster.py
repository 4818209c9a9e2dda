"""Millions of clips on a Ray cluster: parts of a listing, each embedded by one task into a file of its own.

The parts lie beside the result until it is whole, so that a run that was stopped goes on where it was; the nodes share
the file system that holds the audio. The result depends neither on the nodes nor on the order of their work.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from audiogen.core.errors import UserError
from audiogen.core.parallel import parallel
from evaluation.cache import EmbeddingCache
from evaluation.clips import Reject, check_clips, refuse_many
from evaluation.embedders.base import load_embedder
from evaluation.listing import Listing
from evaluation.report import summarise
from evaluation.summary import Summary

CLIPS = 500  # of a part: minutes of work, a few MB


@dataclass(frozen=True)
class Part:
    """Some files of a listing, and where their summary goes."""

    out: Path
    listing: Listing
    embedder: str
    weights: Mapping[str, Path] | None
    pad: bool


def embed_on_ray(
    place: str | Path | Listing, out: Path, *, address: str, embedder: str = "melstats",
    weights: Mapping[str, Path] | None = None, pad: bool = False, max_rejects: float = 0.01,
    say: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Embed all files on the cluster at `address` (as of core/on_ray.py) -> the summary, which is written to `out` too.

    Raises `UserError` where a part's process died again and again, or too many files are rejects.
    """
    listing = Listing.of(place)
    model = load_embedder(embedder, weights=weights)  # what is wrong with it is an error here, not on every node
    folder = out.absolute().with_name(out.name + ".parts")
    weights = weights and {name: path.absolute() for name, path in weights.items()}
    parts = []
    for start in range(0, len(listing.files), CLIPS):
        files = tuple(path.absolute() for path in listing.files[start : start + CLIPS])
        made_from = [embedder, model.version, model.weights_sha256, pad, *files]
        name = hashlib.blake2b("\x1f".join(map(str, made_from)).encode(), digest_size=12).hexdigest()
        parts.append(Part(folder / f"{name}.npz", Listing(listing.place, listing.folder.absolute(), files,
                                                          listing.styles), embedder, weights, pad))
    folder.mkdir(parents=True, exist_ok=True)
    open_parts = [part for part in parts if not part.out.is_file()]
    say(f"{len(listing.files)} files in {len(parts)} parts, {len(parts) - len(open_parts)} of them done before")
    finished = len(parts) - len(open_parts)

    def done(index: int, result: str) -> None:
        nonlocal finished
        finished += not result
        say(f"{finished} of {len(parts)} parts" + (f"; {open_parts[index].out.name}: {result}" if result else ""))

    failed = [result for result in parallel(embed_part, open_parts, crashed="its process died", ray=address, done=done)
              if result]
    if failed:
        raise UserError(f"{len(failed)} of {len(parts)} parts failed ({failed[0]}); the others are kept in {folder}: "
                        "run it again")
    total = Summary.load(parts[0].out)
    for part in parts[1:]:
        total = total.merge(Summary.load(part.out))
    refuse_many([Reject(**reject) for reject in total.rejects], len(listing.files), listing.place, max_rejects)
    total.save(out)
    shutil.rmtree(folder)
    return total


def embed_part(part: Part) -> str:
    """On a node: embed one part -> "", or what went wrong."""
    try:
        model = load_embedder(part.embedder, weights=part.weights)
        with EmbeddingCache(":memory:") as store:
            clips = check_clips(part.listing, shortest=0.0 if part.pad else model.window, max_rejects=1.0, store=store,
                                embedders=(model,), pad=part.pad, weights=part.weights, workers=1, allow_none=True)
            summarise(clips, model, store, pad=part.pad).save(part.out)
    except (UserError, OSError) as reason:
        return str(reason)
    return ""

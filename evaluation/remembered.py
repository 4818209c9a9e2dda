"""Estimates that were computed before, found again by all that they depend on: both summaries and the code itself."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

import audiogen
from evaluation.cache import EmbeddingCache
from evaluation.estimate import Estimate
from evaluation.summary import Summary

Found = Estimate | dict[str, Estimate]  # of one metric, or of a family that is computed together


@functools.cache
def code() -> str:
    """Hash of every module of this folder: a changed line of any metric makes all its old numbers unknown."""
    versions = f"{audiogen.__version__} {torch.__version__} {np.__version__}"
    digest = hashlib.blake2b(versions.encode(), digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def fingerprint(summary: Summary) -> str:
    """Hash of all that a metric can see of a summary."""
    sample = summary.sample.cut()
    digest = hashlib.blake2b(digest_size=16)
    lines = [(clip.digest, clip.path, clip.seconds, clip.windows) for clip in summary.clips]
    parts = summary.moments.parts
    digest.update(json.dumps([summary.made_by, lines, summary.moments.clips, [part.n for part in parts]],
                             sort_keys=True).encode())
    for array in (sample.keys, sample.rows.numpy(), sample.clips, *(clip.mean.numpy() for clip in summary.clips),
                  *(values.numpy() for part in parts for values in (part.mean, part.scatter))):
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.dtype.kind != "U" else array.tobytes())
    return digest.hexdigest()


def key(metric: str, x: str, y: str) -> str:
    """x, y: fingerprints of reference and generated."""
    return f"estimate {metric} {x} {y} {code()}"


def recall(store: EmbeddingCache, name: str) -> Found | None:
    """What is kept under that key, or None."""
    facts = store.get_facts(name)
    if facts is None:
        return None
    return Estimate(**facts["one"]) if "one" in facts else {m: Estimate(**e) for m, e in facts["many"].items()}


def remember(store: EmbeddingCache, name: str, found: Found) -> None:
    """Exactly: JSON's floats come back bit by bit."""
    if isinstance(found, Estimate):
        store.put_facts(name, {"one": dataclasses.asdict(found)})
    else:
        store.put_facts(name, {"many": {metric: dataclasses.asdict(e) for metric, e in found.items()}})

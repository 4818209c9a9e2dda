"""Embeddings that were computed before: one SQLite file outside the user's folders, found by content."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class EmbeddingCache:
    """key -> float32 features (windows, dim). Exact, so that a cached and a fresh run give the same numbers.

    The key must name all that the features depend on. A cache that cannot be opened or written is left out with a
    warning; it never stops a run. `path` ":memory:": for this run only; None: no cache.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.base = None
        if path is None:
            return
        try:
            if path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(path, timeout=30.0)
            self.base.execute("CREATE TABLE IF NOT EXISTS embeddings (key TEXT PRIMARY KEY, dim INTEGER, data BLOB)")
            self.base.commit()
        except (OSError, sqlite3.Error) as reason:
            self._give_up(reason)

    def get(self, key: str) -> Tensor | None:
        """The features, or None where they are not known yet."""
        if self.base is None:
            return None
        try:
            row = self.base.execute("SELECT dim, data FROM embeddings WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as reason:
            self._give_up(reason)
            return None
        return None if row is None else torch.from_numpy(np.frombuffer(row[1], "<f4").reshape(-1, row[0]).copy())

    def put(self, key: str, features: Tensor) -> None:
        """Remember features (windows, dim). Committed at once: a killed run keeps what it had."""
        if self.base is None:
            return
        data = features.detach().cpu().numpy().astype("<f4").tobytes()
        try:
            with self.base:
                self.base.execute("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", (key, features.shape[1], data))
        except sqlite3.Error as reason:
            self._give_up(reason)

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.base is not None:
            self.base.close()
            self.base = None

    def _give_up(self, reason: Exception) -> None:
        print(f"audiogen: warning: no embedding cache ({reason}); everything is computed again", file=sys.stderr)
        self.close()


def default_cache() -> Path:
    """$AUDIOGEN_CACHE, or audiogen/ in the user's cache folder."""
    folder = os.environ.get("AUDIOGEN_CACHE")
    if folder:
        return Path(folder) / "embeddings.sqlite"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audiogen" / "embeddings.sqlite"

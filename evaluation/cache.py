"""What was computed before: one SQLite file outside the user's folders, found by content."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiogen.core.files import cache_folder

COMMIT_SECONDS = 0.5  # a commit waits for the disk: once for many clips, and a killed run loses half a second


class EmbeddingCache:
    """key -> float32 features (windows, dim), and key -> facts (JSON values). Exact, so that a cached and a fresh run
    give the same numbers.

    The key must name all that the value depends on. A cache that cannot be opened or written is left out with a
    warning; it never stops a run. `path` ":memory:": for this run only; None: no cache.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.base = None
        self.committed = time.monotonic()
        if path is None:
            return
        try:
            if path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(path, timeout=30.0)
            self.base.execute("CREATE TABLE IF NOT EXISTS embeddings (key TEXT PRIMARY KEY, dim INTEGER, data BLOB)")
            self.base.execute("CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, data TEXT)")
            self.base.commit()
        except (OSError, sqlite3.Error) as reason:
            self._give_up(reason)

    def get(self, key: str) -> Tensor | None:
        """The features, or None where they are not known yet."""
        row = self._row("SELECT dim, data FROM embeddings WHERE key = ?", key)
        return None if row is None else torch.from_numpy(np.frombuffer(row[1], "<f4").reshape(-1, row[0]).copy())

    def has(self, key: str) -> bool:
        """Whether features are known, without reading them."""
        return self._row("SELECT 1 FROM embeddings WHERE key = ?", key) is not None

    def put(self, key: str, features: Tensor) -> None:
        """Remember features (windows, dim)."""
        data = features.detach().cpu().numpy().astype("<f4").tobytes()
        self._write("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", (key, features.shape[1], data))

    def get_facts(self, key: str) -> dict[str, Any] | None:
        """What is known of a file or of its content, or None."""
        row = self._row("SELECT data FROM facts WHERE key = ?", key)
        return None if row is None else json.loads(row[0])

    def put_facts(self, key: str, facts: dict[str, Any]) -> None:
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, json.dumps(facts, ensure_ascii=False)))

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Also where a run is interrupted: what it had is kept."""
        if self.base is not None:
            try:
                self.base.commit()
            except sqlite3.Error as reason:
                print(f"audiogen: warning: the embedding cache was not written ({reason})", file=sys.stderr)
            self.base.close()
            self.base = None

    def _row(self, query: str, key: str) -> tuple | None:
        if self.base is None:
            return None
        try:
            return self.base.execute(query, (key,)).fetchone()
        except sqlite3.Error as reason:
            self._give_up(reason)
            return None

    def _write(self, statement: str, values: tuple) -> None:
        if self.base is None:
            return
        try:
            self.base.execute(statement, values)
            if time.monotonic() - self.committed > COMMIT_SECONDS:
                self.base.commit()
                self.committed = time.monotonic()
        except sqlite3.Error as reason:
            self._give_up(reason)

    def _give_up(self, reason: Exception) -> None:
        print(f"audiogen: warning: no embedding cache ({reason}); everything is computed again", file=sys.stderr)
        if self.base is not None:
            self.base.close()
            self.base = None


def default_cache() -> Path:
    return cache_folder() / "embeddings.sqlite"

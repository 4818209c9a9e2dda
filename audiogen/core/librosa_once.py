"""librosa, whose compiled functions are made by one process at a time.

librosa has numba compile some functions when it is first used and keeps them in a cache that all processes share. Two
that fill it at once can leave halves of two compilations there, after which every process crashes that loads them
(numba issue 10128, "Race condition in GUFunc caching can lead to segmentation faults"): the ranks of a training, the
workers of an evaluation and of a test suite do start together. So nobody here imports librosa but through this file.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from audiogen.core.files import cache_folder, first_writable

PATIENCE = 600.0  # seconds; to compile takes 20 to 60. After that the lock is taken for one that nobody will give back


@cache
def load_librosa() -> ModuleType:
    """-> librosa, compiled. The first call on a machine takes up to a minute and others wait for it; later ones a few
    seconds, as it is a large library."""
    from filelock import FileLock

    lock = FileLock(_folder() / "audiogen_librosa.lock")
    notice = threading.Timer(10.0, _say)
    notice.daemon = True
    notice.start()
    try:
        try:
            lock.acquire(timeout=PATIENCE)
        except (RuntimeError, OSError):  # waited long enough (a Timeout is an OSError), or a file system without locks
            return _compiled()
        try:
            return _compiled()
        finally:
            lock.release()
    finally:
        notice.cancel()


def _say() -> None:
    """To a person who waits; not into logs."""
    if sys.stderr.isatty():
        print("librosa compiles its functions for this machine (once; up to a minute) ...", file=sys.stderr)


def _compiled() -> ModuleType:
    """These names lie in the modules that compile when they are imported; librosa imports its modules when asked."""
    import librosa

    for name in ("estimate_tuning", "pyin", "stft", "zero_crossings"):
        getattr(librosa, name)
    return librosa


def _folder() -> Path:
    """Where the lock lies: beside the cache that it guards, which numba looks for in the same order."""
    package = PathFinder.find_spec("librosa")
    places = [Path(os.environ["NUMBA_CACHE_DIR"])] if os.environ.get("NUMBA_CACHE_DIR") else []
    places += [Path(place) / "__pycache__" for place in (package and package.submodule_search_locations) or ()]
    return first_writable((*places, cache_folder())) or Path(tempfile.gettempdir())

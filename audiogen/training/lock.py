"""One training a folder: two that write the same states and log would leave neither run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audiogen.core.errors import UserError


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Hold RUN/.lock; `UserError` where another process holds it. The system lets go of it when a process dies, however
    it dies. A file system without locks is trained on all the same."""
    from filelock import FileLock, Timeout

    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{run} is being trained by another process: wait for it, stop it, or choose another "
                        "--train.run") from None
    except (RuntimeError, OSError):  # what filelock says of such a file system
        yield
        return
    try:
        yield
    finally:
        lock.release()

"""Files appear whole or not at all: written beside their place under a temporary name, then renamed. And where the
user's cache is."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success rename it to `path`, on any error remove it.

    The suffix is kept, so writers that look at it (soundfile, safetensors, matplotlib) choose the right format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=".", suffix=f".part{path.suffix}", dir=path.parent)
    except OSError as reason:
        raise _naming(path, reason) from None
    os.close(handle)
    part = Path(name)
    try:
        yield part
        _sync(part)
        os.chmod(part, 0o666 & ~_umask())  # mkstemp makes private files; give it the permissions of an ordinary one
        os.replace(part, path)
    except OSError as reason:
        if reason.filename in (None, name, str(path)) and reason.errno is not None:
            raise _naming(path, reason) from reason
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, on any error it is removed.

    An older `path` is moved aside first and removed last, so that one complete folder exists at every moment.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                _sync(file)
                os.chmod(file, 0o666 & ~_umask())  # safetensors makes private files
        os.chmod(part, 0o777 & ~_umask())
        old = None
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, old / path.name)
        os.replace(part, path)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _naming(path: Path, reason: OSError) -> OSError:
    """The same error with the name that a person knows, in place of the part file's (or of none: "disk full")."""
    return OSError(reason.errno, reason.strerror, str(path))


def _sync(file: Path) -> None:
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cache_folder() -> Path:
    """What can be made anew: $AUDIOGEN_CACHE, or audiogen/ in the user's cache folder. Not made here."""
    named = os.environ.get("AUDIOGEN_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audiogen"


def first_writable(folders: Iterable[Path]) -> Path | None:
    """The first folder that exists, or can be made, and can be written into."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def sha256_of(path: Path) -> str:
    """In hex, without the whole file in memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

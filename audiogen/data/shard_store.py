"""Shards by name, wherever they lie: mapped into memory from a disk, or first copied whole from HTTP or object storage.

Copies lie in a cache of bounded size under the name of their SHA-256, which is checked as they come. Workers and
processes of one machine share it: a shard is fetched once.
"""

from __future__ import annotations

import http.client
import json
import mmap
import os
import threading
import time
import urllib.request
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from audiogen.core.errors import UserError
from audiogen.core.files import cache_folder, sha256_of, whole_file
from audiogen.data.shards import Shard, ShardIndex, array_of, members, parse_index

TIMEOUT = 60.0  # seconds without an answer from a server
ATTEMPTS = 3  # at fetching a shard; a connection that breaks once in a day must not end a training
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one


class Sample:
    """One sample of an open shard. What is wrong with its content is a `UserError`."""

    def __init__(self, data: Any, where: str, places: dict[str, tuple[int, int]]) -> None:
        self.data, self.where, self.places = data, where, places

    def content(self, extension: str) -> memoryview:
        if extension not in self.places:
            raise UserError(f"{self.where} lacks its .{extension}: pack it again")
        offset, size = self.places[extension]
        return memoryview(self.data)[offset : offset + size]

    def array(self, extension: str) -> np.ndarray:
        """(rows, frames) float16, not copied."""
        return array_of(self.content(extension), where=self.where)

    def about(self) -> dict[str, Any]:
        """The .json, with what is used of it checked: "text", "styles" (a tuple) and "notes" ((notes, 4) or None)."""
        try:
            values = json.loads(bytes(self.content("json")))
            values["text"], values["styles"] = str(values.get("text", "")), tuple(values.get("styles", ()))
            if not all(isinstance(style, str) for style in values["styles"]):
                raise ValueError("a style is no word")
            notes = values.get("notes")
            if notes is not None:
                notes = np.array(notes, np.float64).reshape(len(notes), 4)
                if not (np.abs(notes) < 1e7).all():  # NaN is not either
                    raise ValueError("a note is out of range")
            return values | {"notes": notes}
        except (ValueError, TypeError, AttributeError, RecursionError) as reason:
            raise UserError(f"{self.where}: its .json is damaged ({str(reason)[:120]})") from None


class ShardStore:
    """The shards of a folder or of an address. `open_limit`: shards that are kept open; `cache_gb`: of copies, besides
    those that are on their way."""

    def __init__(self, where: str, *, cache: Path | None, cache_gb: float, open_limit: int) -> None:
        self.where, self.remote = where, is_remote(where)
        self.folder = (cache or cache_folder() / "shards") if self.remote else local_folder(where)
        self.limit, self.open_limit = cache_gb * 1e9, open_limit
        self._open: OrderedDict[str, list[Sample]] = OrderedDict()
        self._asked: set[str] = set()

    def __getstate__(self) -> dict:  # a loader's worker opens files of its own
        return self.__dict__ | {"_open": OrderedDict(), "_asked": set()}

    def open(self, shard: Shard) -> list[Sample]:
        """Its samples, in order."""
        if shard.name in self._open:
            self._open.move_to_end(shard.name)
            return self._open[shard.name]
        path, file = self._local(shard)
        with file:
            size = os.fstat(file.fileno()).st_size
            if size != shard.bytes:
                raise UserError(f"{path} has {size} bytes where the index says {shard.bytes}: copy it again")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = members(data, where=str(path))
        if len(found) != shard.samples:
            raise UserError(f"{path} holds {len(found)} samples where the index says {shard.samples}: pack it again "
                            "(audiogen pack --verify tells which are damaged)")
        self._open[shard.name] = [Sample(data, f"{shard.name}, {key}", places) for key, places in found]
        while len(self._open) > self.open_limit:
            self._open.popitem(last=False)
        return self._open[shard.name]

    def prefetch(self, shards: list[Shard]) -> None:
        """Begin to fetch what is far away and will be needed. What goes wrong is said when it is needed."""
        for shard in shards:
            if self.remote and shard.name not in self._asked and not self._copy(shard).is_file():
                self._asked.add(shard.name)
                threading.Thread(target=self._quietly, args=(shard,), daemon=True).start()

    def _quietly(self, shard: Shard) -> None:
        try:
            self._fetch(shard)
        except (UserError, OSError):
            pass
        self._asked.discard(shard.name)

    def _local(self, shard: Shard) -> tuple[Path, BinaryIO]:
        if not self.remote:
            path = self.folder / shard.name
            if not path.is_file():
                raise UserError(f"no shard at {path}: the index names it; pack again, or copy it")
            return path, open(path, "rb")
        path = self._copy(shard)
        for _ in range(ATTEMPTS):
            self._fetch(shard)
            try:
                return path, open(path, "rb")
            except FileNotFoundError:  # another process made room in this moment
                continue
        raise UserError(f"{self.folder}: shards are forgotten as fast as they come; allow the cache more than "
                        f"{self.limit / 1e9:g} GB")

    def _copy(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.tar"

    def _fetch(self, shard: Shard) -> None:
        """Have a copy in the cache: once for all processes, whole and right or not at all."""
        from filelock import FileLock

        copy = self._copy(shard)
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{shard.sha256}.lock"):
            if copy.is_file():
                os.utime(copy)  # the cache forgets what was used longest ago
                return
            for attempt in range(ATTEMPTS):
                try:
                    return self._download(shard, copy)
                except UserError:
                    if attempt + 1 == ATTEMPTS:
                        raise
                    time.sleep(PAUSE * 2**attempt)

    def _download(self, shard: Shard, copy: Path) -> None:
        from filelock import FileLock

        url = f"{self.where}/{shard.name}"
        with ExitStack() as stack, whole_file(copy) as part:
            with open(part, "wb") as target:
                for block in _blocks(url):
                    target.write(block)
                    if target.tell() > shard.bytes:
                        break
            if part.stat().st_size != shard.bytes or sha256_of(part) != shard.sha256:
                raise UserError(f"{url} is not the shard that the index names ({part.stat().st_size} bytes of "
                                f"{shard.bytes}, or its checksum differs): try again, or pack again")
            stack.enter_context(FileLock(self.folder / ".room.lock"))  # until the copy has its name and counts
            self._make_room(shard.bytes)

    def _make_room(self, needed: int) -> None:
        there = []
        for path in self.folder.glob("[!.]*.tar"):  # with a dot begin those that are on their way
            try:
                there.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:  # another process made room too
                continue
        total = needed + sum(size for _, size, _ in there)
        for _, size, path in sorted(there):
            if total <= self.limit:
                break
            total -= size
            path.unlink(missing_ok=True)  # who has it open keeps it


def read_index(where: str) -> ShardIndex:
    """index.json of a folder or of the address of one."""
    if is_remote(where):
        text = b"".join(_blocks(f"{where}/index.json"))
    else:
        path = local_folder(where) / "index.json"
        if not path.is_file():
            raise UserError(f"no shards in {where}: there is no index.json; make them with: audiogen pack "
                            f"manifest.jsonl -o {where}")
        text = path.read_bytes()
    return parse_index(text, where=f"{where}/index.json")


def is_remote(where: str) -> bool:
    return "://" in where and not where.startswith("file://")


def local_folder(where: str) -> Path:
    return Path(where.removeprefix("file://"))


def _blocks(url: str) -> Any:
    """The content behind an address, a MiB at a time: http(s) by Python itself, all others by fsspec."""
    try:
        with _open_far(url) as source:
            while block := source.read(1 << 20):
                yield block
    except ImportError as reason:
        raise UserError(f"{url} needs a package that is not installed ({reason})") from None
    except (OSError, ValueError, http.client.HTTPException) as reason:
        raise UserError(f"{url} cannot be read ({str(reason) or type(reason).__name__})") from None


def _open_far(url: str) -> Any:
    if url.startswith(("http://", "https://")):
        return urllib.request.urlopen(url, timeout=TIMEOUT)
    import fsspec

    return fsspec.open(url, "rb").open()

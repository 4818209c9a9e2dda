"""Shards: a data set as a few large tar files in WebDataset's layout, with an index that can be trusted.

    shards/index.json                       what is in it, the mel format, the shards' sizes and SHA-256
    shards/train-000000.tar                 samples, one after the other; those of a split are together
        000000017-0003.json                 what is known of a piece: styles, text, tags, notes, where it was cut
        000000017-0003.flac                 audio; or .mel.npy, .latent.npy: (rows, frames) float16

The members of a sample share their name up to the first dot, which is how WebDataset and its loaders find them. Nothing
here is a pickle, and nothing is ever unpacked into a folder: members are read in memory, by the names above.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from audiogen.core.config import from_dict, to_dict
from audiogen.core.errors import UserError
from audiogen.core.files import sha256_of, whole_file
from audiogen.core.mel_format import MelFormat
from audiogen.data.manifest import SPLITS

FORMAT = 1
EXTENSIONS = {"audio": "flac", "mel": "mel.npy", "latent": "latent.npy"}  # of what a sample holds
MOST_SAMPLES = 10_000_000  # of a shard: an index that says more would cost memory before it is found out
TAR_ERRORS = (tarfile.TarError, OSError, ValueError, EOFError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Shard:
    """One tar file of an index. Its fields come out of a file, and name files: they are what they look like."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        good = (isinstance(self.name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*\.tar", self.name)
                and self.split in SPLITS and isinstance(self.sha256, str)
                and re.fullmatch(r"[0-9a-f]{64}", self.sha256) and type(self.samples) is type(self.bytes) is int
                and 0 < self.samples <= min(MOST_SAMPLES, self.bytes // 512))
        if not good:
            raise UserError(f"the index names a shard {self.name!r} (split {self.split!r}, {self.samples!r} samples, "
                            f"{self.bytes!r} bytes) that audiogen pack did not write: pack again")


@dataclass(frozen=True)
class ShardIndex:
    """index.json: everything about a packed data set but the samples themselves."""

    what: str  # "audio", "mel" or "latent"
    mel: MelFormat
    mel_hash: str
    shards: tuple[Shard, ...]
    seconds: float
    styles: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> {style: pieces}
    played: tuple[str, ...] = ()  # styles of pieces with notes
    rows: int = 0  # of a mel or latent
    frames_per_step: int = 1  # mel frames of one column of a latent
    checkpoint: str = ""  # hash of the autoencoder that made the latents
    source: str = ""  # digest of the manifest's entries and the settings
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.what not in EXTENSIONS:
            raise UserError(f"shards of {self.what!r} are unknown to this version")
        if self.mel.hash() != self.mel_hash:
            raise UserError(f"the mel format has the hash {self.mel.hash()} where the index says {self.mel_hash}")
        styles = [style for counts in self.styles.values() for style in counts]
        if not all(isinstance(style, str) for style in (*styles, *self.played)):
            raise UserError("the index names styles that are no words")
        if not (type(self.rows) is type(self.frames_per_step) is int and self.frames_per_step >= 1
                and isinstance(self.seconds, (int, float))):
            raise UserError(f"rows={self.rows!r}, frames_per_step={self.frames_per_step!r}, seconds={self.seconds!r} "
                            "must be numbers")

    def of(self, split: str) -> tuple[Shard, ...]:
        """The shards of a split; `UserError` where there are none."""
        found = tuple(shard for shard in self.shards if shard.split == split)
        if not found:
            there = ", ".join(sorted({shard.split for shard in self.shards}))
            raise UserError(f"the shards hold no split {split!r}; they hold {there}")
        return found


def write_index(folder: Path, index: ShardIndex) -> None:
    with whole_file(folder / "index.json") as part:
        part.write_text(json.dumps(to_dict(index), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_index(text: str | bytes, *, where: str) -> ShardIndex:
    """`UserError` for what is no index, or one that contradicts itself."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or not isinstance(values.get("shards"), list):
            raise ValueError("it lists no shards")
        if values.get("format", 0) > FORMAT:
            raise UserError("it was written by a newer audiogen: upgrade audiogen")
        shards = tuple(from_dict(Shard, shard) for shard in values.pop("shards"))
        return replace(from_dict(ShardIndex, {**values, "shards": ()}), shards=shards)
    except (UserError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as reason:
        raise UserError(f"{where} is no index of shards ({reason}): make one with audiogen pack") from None


# ------------------------------------------------------------------------- writing and reading one shard


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> tuple[int, str]:
    """Write (key, {extension: content}) samples as one tar, whole or not at all. -> (samples, SHA-256).

    The same samples give the same bytes: no times, owners or modes of this machine are written.
    """
    count = 0
    with whole_file(path) as part:
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, contents in samples:
                for extension in sorted(contents, key=lambda name: (name != "json", name)):
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size, info.mode = len(contents[extension]), 0o644
                    tar.addfile(info, io.BytesIO(contents[extension]))
                count += 1
        digest = sha256_of(part)
    return count, digest


def members(data: Any, *, where: str) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """(key, {extension: (offset, size)}) of every sample of a shard (bytes or a map of it), in order.

    Links, folders and devices are passed over, and folders in front of a name. `UserError` for what is no whole tar.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(fileobj=_Reader(data), mode="r:") as tar:
            for member in tar:
                key, _, extension = member.name.rpartition("/")[2].partition(".")
                if not (member.isreg() and not member.issparse()):
                    continue
                if not 0 <= member.size <= len(data) - member.offset_data:
                    raise ValueError(f"{member.name} claims {member.size} bytes, beyond its end")
                found.setdefault(key, {})[extension] = (member.offset_data, member.size)
    except TAR_ERRORS as reason:
        raise UserError(f"{where} is no whole shard ({reason}): copy or pack it again") from None
    return list(found.items())


class _Reader(io.RawIOBase):
    """A file over bytes or a map, without a copy: tarfile reads headers and seeks over the rest."""

    def __init__(self, data: Any) -> None:
        self.data, self.position = data, 0

    def read(self, size: int = -1) -> bytes:
        end = len(self.data) if size < 0 else min(self.position + size, len(self.data))
        block = bytes(self.data[self.position : end])
        self.position += len(block)
        return block

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = max(0, offset + (0, self.position, len(self.data))[whence])
        return self.position

    def tell(self) -> int:
        return self.position


def encode_array(array: np.ndarray) -> bytes:
    """(rows, frames) -> .npy in float16. Of a log-mel above -16 the rounding is at most 0.004 (0.03 dB)."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, np.float16), allow_pickle=False)
    return buffer.getvalue()


def array_of(content: memoryview | bytes, *, where: str) -> np.ndarray:
    """The other way: (rows, frames) float16 over the content, not copied. `UserError` for all that `encode_array` does
    not write, so nothing of a file's own is run or believed."""
    try:
        header = 10 + int.from_bytes(content[8:10], "little")  # NEP 1: magic, version, length, a Python literal
        rows, frames, begin = _shape_of(bytes(content[: min(header, 512)]))
        return np.frombuffer(content, np.float16, count=rows * frames, offset=begin).reshape(rows, frames)
    except (ValueError, TypeError, EOFError, OverflowError, SyntaxError, MemoryError, RecursionError) as reason:
        raise UserError(f"{where} is no mel or latent ({str(reason)[:120]})") from None


@lru_cache(maxsize=1024)
def _shape_of(head: bytes) -> tuple[int, int, int]:
    """-> (rows, frames, where the numbers begin). Pieces of one length have one header: it is mostly remembered."""
    file = io.BytesIO(head)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of .npy")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype != np.float16 or by_columns or len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"an array {shape} of {dtype}")
    return *shape, file.tell()


def verify(folder: Path, index: ShardIndex) -> Iterator[str]:
    """One line for every shard that is missing, damaged, or has another size or number of samples than it should."""
    for shard in index.shards:
        path = folder / shard.name
        if not path.is_file():
            yield f"{shard.name} is missing"
        elif path.stat().st_size != shard.bytes:
            yield f"{shard.name} has {path.stat().st_size} bytes where the index says {shard.bytes}"
        elif sha256_of(path) != shard.sha256:
            yield f"{shard.name} is damaged: its checksum is not the index's"

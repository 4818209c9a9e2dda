"""Is an audio file whole? Where its container announces more than there is, libsndfile reads what there is."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any


def missing_of(path: str | Path) -> str | None:
    """What a WAV, AIFF or Ogg file promises and lacks; None where it is whole, or of another kind."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            return _missing_of_chunk(file, size, b"data", "<I")
        if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            return _missing_of_chunk(file, size, b"SSND", ">I")
        if head[:4] == b"OggS":
            file.seek(max(0, size - 66000))  # the longest page has 65307 bytes
            tail = file.read()
            page = tail.rfind(b"OggS")
            if page < 0 or len(tail) < page + 27:
                return "its last Ogg page is cut"
            segments = tail[page + 27 : page + 27 + tail[page + 26]]
            if len(tail) < page + 27 + tail[page + 26] + sum(segments):
                return "its last Ogg page is cut"
    return None


def _missing_of_chunk(file: Any, size: int, wanted: bytes, endian: str) -> str | None:
    while len(chunk := file.read(8)) == 8:
        length = struct.unpack(endian, chunk[4:])[0]
        if chunk[:4] == wanted:
            missing = file.tell() + length - size
            if missing > 0 and length < 0xFFFFFF00:  # larger: written to a pipe, the length was not known
                return f"{missing} of its {length} bytes of samples are missing"
            return None
        file.seek(length + length % 2, 1)
    return None

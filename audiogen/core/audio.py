"""Audio at the edges of the engine: files in and out, with what made them written inside."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.core.files import whole_file


@dataclass(frozen=True)
class Audio:
    """samples (channels, time), float32 in [-1, 1]; `made_by` is how a generated clip was made (prompt, seed, ...)."""

    samples: Tensor
    sample_rate: int
    made_by: dict = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.samples.shape[-1] / self.sample_rate

    @classmethod
    def read(cls, path: str | Path, *, start: float = 0.0, seconds: float | None = None) -> Audio:
        """Read a file, or `seconds` of it from `start` on (by seeking). Raises `UserError` with the reason."""
        import soundfile

        path = Path(path)
        if not path.is_file():
            raise UserError(f"no audio file at {path}")
        try:
            with soundfile.SoundFile(path) as file:
                if start:
                    file.seek(min(round(start * file.samplerate), file.frames))
                frames = -1 if seconds is None else round(seconds * file.samplerate)
                samples = file.read(frames, dtype="float32", always_2d=True)
                rate = file.samplerate
        except (soundfile.LibsndfileError, RuntimeError, MemoryError) as reason:
            raise UserError(f"{path} cannot be read as audio ({str(reason).rstrip('.')})") from None
        if not np.isfinite(samples).all():
            raise UserError(f"{path} holds NaN or infinite samples")
        return cls(torch.from_numpy(samples.T.copy()), rate, read_made_by(path))

    def save(self, path: str | Path, *, subtype: str | None = None) -> None:
        """Write the file whole or not at all; the suffix chooses the format.

        WAV is written as 16-bit PCM unless `subtype` says otherwise, and carries `made_by` as JSON in a LIST/INFO
        comment, so that `audiogen again clip.wav` can make the clip again; FLAC and OGG carry it in their comment.
        """
        import soundfile

        path = Path(path)
        samples = self.samples.detach().to(torch.float32).cpu().numpy().T
        if not np.isfinite(samples).all():
            raise UserError(f"{path}: refusing to write NaN or infinite samples")
        if path.suffix[1:].upper() not in soundfile.available_formats():
            raise UserError(f"{path}: unknown audio format {path.suffix!r}; use .wav, .flac or .ogg")
        # Encoded in memory and written by Python, since libsndfile says "System error" for a full disk.
        encoded = io.BytesIO()
        with soundfile.SoundFile(
            encoded, "w", self.sample_rate, samples.shape[1], subtype=subtype, format=path.suffix[1:].upper()
        ) as file:
            if self.made_by and path.suffix.lower() != ".wav":
                file.comment = json.dumps(self.made_by, ensure_ascii=True)
            for start in range(0, len(samples), 65536):  # libvorbis puts what it is given at once on its stack
                file.write(samples[start : start + 65536])
        if self.made_by and path.suffix.lower() == ".wav":
            _append_info(encoded, json.dumps(self.made_by, ensure_ascii=True))
        with whole_file(path) as part:
            part.write_bytes(encoded.getbuffer())


def read_made_by(path: str | Path) -> dict:
    """What `Audio.save` wrote beside the samples; {} for a file that carries nothing of ours."""
    import soundfile

    path = Path(path)
    text = _read_info(path)
    if text is None:
        try:
            with soundfile.SoundFile(path) as file:
                text = file.comment
        except (soundfile.LibsndfileError, RuntimeError):
            return {}
    try:
        values = json.loads(text or "")
    except ValueError:
        return {}
    return values if isinstance(values, dict) and "audiogen" in values else {}


# libsndfile cuts WAV comments to 255 characters when it writes and reads them, so the LIST/INFO chunk is ours:
#   RIFF <size> WAVE ... LIST <size> INFO ICMT <size> <json>\0 [pad]
def _append_info(file: io.BytesIO, text: str) -> None:
    data = text.encode() + b"\0"
    data += b"\0" * (len(data) % 2)
    info = b"INFO" + b"ICMT" + struct.pack("<I", len(data)) + data
    file.seek(0, 2)
    if file.tell() % 2:
        file.write(b"\0")
    file.write(b"LIST" + struct.pack("<I", len(info)) + info)
    size = file.tell() - 8
    file.seek(4)
    file.write(struct.pack("<I", size))


def _read_info(path: Path) -> str | None:
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        while len(chunk := file.read(8)) == 8:
            name, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if name == b"LIST":
                body = file.read(size)
                at = 4 if body[:4] == b"INFO" else len(body)
                while at + 8 <= len(body):
                    item, length = body[at : at + 4], struct.unpack("<I", body[at + 4 : at + 8])[0]
                    if item == b"ICMT":
                        return body[at + 8 : at + 8 + length].rstrip(b"\0").decode("utf-8", "replace")
                    at += 8 + length + length % 2
                file.seek(size % 2, 1)
            else:
                file.seek(size + size % 2, 1)
    return None

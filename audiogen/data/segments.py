"""Random segments of the files of a manifest, numbered: sample k is a pure function of (seed, k).

A loader may have any number of workers and a run any number of processes; sample k is the same file, the same start,
the same gain. Only the segment is read from the disk, by seeking, with a margin for the resampling filter:

    source samples   ... |<- margin ->|<-------- segment -------->|<- margin ->| ...
                         begin, on a grid where whole source samples meet whole target samples
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng, generator
from audiogen.data.manifest import Entry, Manifest, read_manifest

log = logging.getLogger("audiogen.data")

LAST_PAGE = 1 << 18  # samples: an Ogg page holds at most 255 packets, of at most 1024 samples in what encoders write

Encode = Callable[[Entry, float, int, SampleRng], Condition]


class Example(NamedTuple):
    """One segment; `condition` holds parts without the batch dimension: vector (dim,), aligned (dim, frames)."""

    audio: Tensor  # (1, time) float32; (1, 0) where only its mel is known, or its latents
    length: int  # mel frames that are sound and not padding; 0: the file could not be read
    condition: Condition
    id: int
    prompt: str
    mel: Tensor | None = None  # (n_mels, frames), where it is known already
    latents: Tensor | None = None  # (latent_dim, steps), where those are what was packed


class Place(NamedTuple):
    """Where sample k comes from: everything that is drawn for it."""

    index: int  # of the entry
    start: int  # samples at the mel format's rate
    gain_db: float


class SegmentDataset(Dataset):
    """Segments of `frames` mel frames (frames * hop_length samples, mono) at the mel format's rate.

    manifest: a `Manifest`, the path of one, or entries with absolute paths.
    split, styles: which entries; None for all.
    gain_db: (low, high), a random gain in decibels, held below full scale; None for none.
    encode: (entry, start in seconds, frames, rng) -> the `Condition` of the segment, without a batch dimension.
    weights: how a file is drawn. "seconds": every second of sound is as likely; "files": every file once an epoch, in
        shuffled order; "styles": every style is as likely, then every second within it.
    cache: decode everything once, now, and keep it as 16-bit samples at the mel format's rate (`cache_bytes`, 159 MB
        an hour at 22.05 kHz; forked loader workers share it). Without it, each segment is decoded when it is asked for.
    bad_share: the share of files that may turn out unreadable before a `UserError` stops the run. Such a file is
        reported once, with its reason; its segments are silence of length 0.
    """

    def __init__(
        self, manifest: Manifest | str | Path | Sequence[Entry], mel: MelFormat, *, frames: int, seed: int = 0,
        split: str | None = "train", styles: Sequence[str] | None = None,
        gain_db: tuple[float, float] | None = None, encode: Encode | None = None,
        weights: str = "seconds", cache: bool = False, bad_share: float = 0.01,
    ) -> None:
        if isinstance(manifest, (str, Path)):
            manifest = read_manifest(manifest)
        elif not isinstance(manifest, Manifest):
            manifest = Manifest(tuple(manifest))
        if frames < 1:
            raise UserError(f"frames={frames} must be at least 1")
        if weights not in ("seconds", "files", "styles"):
            raise UserError(f"weights={weights!r} must be 'seconds', 'files' or 'styles'")
        self.manifest = manifest.select(split=split, styles=styles)
        self.entries = self.manifest.entries
        if not self.entries:
            side = f"in the split {split!r}" if split else "at all"
            raise UserError(f"the manifest ({len(manifest)} files) has none {side}: scan more files, or choose another")
        self.mel, self.frames, self.seed = mel, frames, seed
        self.time = frames * mel.hop_length
        self.gain_db, self.encode, self.weights, self.bad_share = gain_db, encode, weights, bad_share
        self._groups = _groups(self.entries, styles, weights)
        self._bad = torch.zeros(len(self.entries), dtype=torch.uint8).share_memory_()  # seen by all loader workers
        self._cache: list[np.ndarray] | None = None
        if cache:
            with ThreadPoolExecutor(4) as pool:  # soundfile and soxr release the interpreter lock
                self._cache = list(pool.map(self._decode, range(len(self.entries))))

    def __len__(self) -> int:
        """Samples in a nominal epoch: one for every file, or as many segments as the sound would fill."""
        if self.weights == "files":
            return len(self.entries)
        return max(1, round(self.manifest.seconds * self.mel.sample_rate / self.time))

    @property
    def cache_bytes(self) -> int:
        """Memory that the decoded samples take; 0 without a cache."""
        return sum(samples.nbytes for samples in self._cache or ())

    @property
    def bad_files(self) -> list[str]:
        """Paths of the files that could not be read so far, in any of the loader's workers."""
        return [entry.path for entry, bad in zip(self.entries, self._bad.tolist(), strict=True) if bad]

    def place(self, k: int) -> Place:
        """Which file, from where on, and how loud sample k is."""
        pick, within, where, gain = SampleRng(self.seed, ids=[k], stream="segment").rand(4).double()[0].tolist()
        if self.weights == "files":
            epoch, position = divmod(k, len(self.entries))
            index = _shuffled(self.seed, epoch, len(self.entries))[position]
        else:
            indices, ends = self._groups[int(pick * len(self._groups))]
            index = indices[min(bisect_right(ends, within * ends[-1]), len(indices) - 1)]
        entry = self.entries[index]
        room = max(0, int(entry.time * self.mel.sample_rate / entry.sample_rate) - self.time)
        low, high = self.gain_db or (0.0, 0.0)
        return Place(index, int(where * (room + 1)), low + gain * (high - low))

    def __getitem__(self, k: int) -> Example:
        index, start, gain_db = self.place(k)
        entry = self.entries[index]
        sound = self._read(index, start)  # (time,) or shorter, where the file is; empty, where it is bad
        peak = float(np.abs(sound).max(initial=0.0))
        gain = 10 ** (gain_db / 20)
        if gain > 1:
            gain = max(1.0, min(gain, 0.99 / max(peak, 1e-9)))
        audio = np.zeros(self.time, np.float32)
        audio[: len(sound)] = sound * np.float32(gain)
        condition = Condition()
        if self.encode is not None:
            rng = SampleRng(self.seed, ids=[k], stream="encode")
            condition = self.encode(entry, start / self.mel.sample_rate, self.frames, rng)
        length = min(self.frames, math.ceil(len(sound) / self.mel.hop_length))
        return Example(torch.from_numpy(audio)[None], length, condition, k, entry.text)

    def _read(self, index: int, start: int) -> np.ndarray:
        if self._cache is not None:
            return self._cache[index][start : start + self.time].astype(np.float32) / 32768
        entry = self.entries[index]
        try:
            return read_segment(self.manifest.audio(entry), start, self.time, self.mel.sample_rate, expected=entry)
        except UserError as reason:
            self._report(index, reason)
            return np.zeros(0, np.float32)

    def _decode(self, index: int) -> np.ndarray:
        entry = self.entries[index]
        time = math.ceil(entry.time * self.mel.sample_rate / entry.sample_rate)
        try:
            sound = read_segment(self.manifest.audio(entry), 0, time, self.mel.sample_rate, expected=entry)
        except UserError as reason:
            self._report(index, reason)
            return np.zeros(0, np.int16)
        return np.round(sound * 32768).clip(-32768, 32767).astype(np.int16)

    def _report(self, index: int, reason: UserError) -> None:
        if not self._bad[index]:
            self._bad[index] = 1
            log.warning("bad file, its segments are silence: %s", reason)
        count = int(self._bad.sum())
        if count > self.bad_share * len(self.entries):
            raise UserError(
                f"{count} of {len(self.entries)} files cannot be read any more, more than {self.bad_share:.0%} "
                f"(the last: {reason}): scan the folder again"
            )


def read_segment(
    path: str | Path, start: int, time: int, sample_rate: int, *, expected: Entry | None = None
) -> np.ndarray:
    """Samples [start, start + time) of the file, counted at `sample_rate`: mono, (time,) or up to the file's end.

    The same as resampling the whole file (soxr, HQ) and cutting, but only the segment and a margin are read. Raises
    `UserError` where the file is unreadable, not finite, or no longer what `expected` says.
    """
    import soundfile
    import soxr

    path = Path(path)
    try:
        with soundfile.SoundFile(path) as file:
            rate, total = file.samplerate, file.frames
            if expected is not None and (rate, total) != (expected.sample_rate, expected.time):
                raise UserError(f"{path} has {total} samples at {rate} Hz where the manifest says {expected.time} "
                                f"at {expected.sample_rate} Hz: scan the folder again")
            # `unit` source samples last exactly as long as `unit * sample_rate / rate` target samples.
            unit = rate // math.gcd(rate, sample_rate)
            margin = 0 if rate == sample_rate else 128 * max(1, math.ceil(rate / sample_rate))
            begin = max(0, (start * rate // sample_rate - margin) // unit * unit)
            end = min(total, math.ceil((start + time) * rate / sample_rate) + margin)
            # libsndfile seeks wrongly into the last page of Ogg Vorbis (its issue 885): read up to there instead.
            seek = min(begin, max(0, total - LAST_PAGE)) if file.subtype == "VORBIS" else begin
            if seek:
                file.seek(seek)
            samples = file.read(max(0, end - seek), dtype="float32", always_2d=True)[begin - seek :]
    except (soundfile.LibsndfileError, RuntimeError, OSError) as reason:
        raise UserError(f"{path} cannot be read as audio ({str(reason).rstrip('.')})") from None
    if len(samples) < end - begin:
        raise UserError(f"{path} ends after {begin + len(samples)} of {total} samples: it is truncated")
    if not np.isfinite(samples).all():
        raise UserError(f"{path} holds NaN or infinite samples")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    offset = start - begin * sample_rate // rate
    return mono[offset : offset + time]


def collate(examples: Sequence[Example]) -> Batch:
    """Examples -> a `Batch` (mel None, where they have none: the training loop computes it on the device)."""
    return Batch(
        audio=torch.stack([example.audio for example in examples]),
        mel=_stack([example.mel for example in examples]),
        lengths=torch.tensor([example.length for example in examples], dtype=torch.int64),
        condition=Condition(*(_stack(parts) for parts in zip(*(e.condition for e in examples), strict=True))),
        ids=torch.tensor([example.id for example in examples], dtype=torch.int64),
        prompts=tuple(example.prompt for example in examples),
        latents=_stack([example.latents for example in examples]),
    )


def _groups(
    entries: Sequence[Entry], styles: Sequence[str] | None, weights: str
) -> list[tuple[list[int], list[float]]]:
    """Groups that are equally likely: each its entries' indices and the running sum of their seconds."""
    if weights == "styles":
        members: dict[str, list[int]] = {}
        for index, entry in enumerate(entries):
            for style in entry.styles:
                if styles is None or style in styles:
                    members.setdefault(style, []).append(index)
        if not members:
            raise UserError("weights='styles' needs files with styles, and no file has one: use weights='seconds'")
        groups = [members[style] for style in sorted(members)]
    else:
        groups = [list(range(len(entries)))]
    return [(group, list(accumulate(max(entries[i].seconds, 1e-6) for i in group))) for group in groups]


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, count: int) -> list[int]:
    return torch.randperm(count, generator=generator(seed, "epoch", epoch)).tolist()


def _stack(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    if not present:
        return None
    if len(present) < len(parts):
        raise ValueError("some examples of the batch have this part and others have not; a dataset (and its `encode`) "
                         "must give every example the same parts")
    return torch.stack(present)

"""One pass over one audio file: loudness, peak, clipping, silence, content hash and a fingerprint, in bounded memory.

The file is read in blocks of two seconds, each cut into units of 0.1 s. At 44.1 kHz stereo, decoding FLAC costs 0.9 ms
a second of sound, the two K-weighting filters 0.7, the hash 0.3, the fingerprint 0.4 (so: no second pass, no copies).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from audiogen.core.whole_audio import missing_of

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc")
UNIT = 0.1  # seconds: a quarter of BS.1770's gating block
UNITS_A_BLOCK = 20
FULL_SCALE = 0.99996  # the largest 16-bit sample is 32767 / 32768 = 0.99997
SILENCE_DB = -60.0  # dBFS
BANDS = 32  # of the fingerprint, logarithmic between 60 and 3800 Hz: what every sample rate and codec keeps


@dataclass(frozen=True)
class Limits:
    """What a file must be, to be taken."""

    min_seconds: float = 0.05
    min_rate: int = 4000  # Hz
    min_peak_db: float = SILENCE_DB  # dBFS: below it, the whole file counts as silent


@dataclass(frozen=True)
class Measured:
    seconds: float
    sample_rate: int
    channels: int
    loudness: float | None
    peak_db: float
    clipped: float
    silent: float
    hash: str
    fingerprint: np.ndarray = field(repr=False)  # (2 * BANDS,) float32, see `_fingerprint`
    embedded: dict[str, str] = field(default_factory=dict)  # title, artist, genre, comment, ... as the file has them


class BadFile(Exception):
    """Why a file is not taken, in a few words."""


def measure(path: str | Path, limits: Limits | None = None) -> Measured:
    """Read the file once, from its beginning to its end. Raises `BadFile` with the reason."""
    import soundfile

    limits = limits or Limits()
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise BadFile("empty file (0 bytes)")
        missing = missing_of(path)
        if missing is not None:
            raise BadFile(f"truncated: {missing}")
        with soundfile.SoundFile(path) as file:
            if file.frames == 0:
                raise BadFile("zero-length: no samples")
            if file.samplerate < limits.min_rate:
                raise BadFile(f"sample rate {file.samplerate} Hz is below {limits.min_rate} Hz")
            return _measure(file, limits)
    except (soundfile.LibsndfileError, RuntimeError) as reason:
        said = str(reason).rpartition(": ")[2].rstrip(".")
        raise BadFile(f"unreadable: {said or 'not an audio file'}") from None
    except OSError as reason:
        raise BadFile(f"unreadable: {reason.strerror or reason}") from None


def _measure(file, limits: Limits) -> Measured:
    rate, channels = file.samplerate, file.channels
    size = math.ceil(UNITS_A_BLOCK * UNIT * rate)
    buffer = np.empty((size, channels), np.float32)
    digest = hashlib.blake2b(f"{rate} {channels}".encode(), digest_size=16)
    weighting = _Weighting(rate, channels)
    energies, peaks, bands = [], [], []
    time = clipped = done = 0
    while True:
        end = round((done + UNITS_A_BLOCK) * UNIT * rate)
        block = file.read(end - time, dtype="float32", always_2d=True, out=buffer[: end - time])
        if not len(block):
            break
        starts = [round((done + unit) * UNIT * rate) - time for unit in range(UNITS_A_BLOCK)]
        starts = np.array([start for start in starts if start < len(block)])
        level = np.maximum.reduceat(np.abs(block).reshape(-1), starts * channels)
        if not np.isfinite(level).all():  # maximum hands NaN on
            raise BadFile("holds NaN or infinite samples")
        digest.update(block)
        peaks.append(level)
        if level.max() >= FULL_SCALE:
            clipped += _clipped(block)
        energies.append(weighting(block, starts))
        bands.append(_bands(block, starts, rate))
        time += len(block)
        done += UNITS_A_BLOCK
        if time < end:
            break
    if time < file.frames:
        raise BadFile(f"truncated: {time} of {file.frames} samples can be read")
    if time < limits.min_seconds * rate:
        raise BadFile(f"too short: {time / rate:.3f} s, less than {limits.min_seconds:g} s")
    level = np.concatenate(peaks)
    peak_db = _db(float(level.max()))
    if peak_db < limits.min_peak_db:
        raise BadFile("silent: every sample is zero" if level.max() == 0 else f"silent: its peak is {peak_db:.0f} dBFS")
    return Measured(
        seconds=time / rate, sample_rate=rate, channels=channels,
        loudness=_gated_loudness(np.concatenate(energies, axis=1), time / rate, rate),
        peak_db=peak_db, clipped=clipped / (time * channels),
        silent=float(np.mean(level < 10 ** (SILENCE_DB / 20))),
        hash=digest.hexdigest(), fingerprint=_fingerprint(np.concatenate(bands)),
        embedded={name: text.strip() for name, text in file.copy_metadata().items() if text.strip()},
    )


class _Weighting:
    """BS.1770 K-weighting of a stream of blocks: a high shelf, then a high pass, with pyloudnorm's coefficients."""

    def __init__(self, rate: int, channels: int) -> None:
        self.sos = _k_weighting(rate)
        self.state = np.zeros((2, channels, 2))

    def __call__(self, block: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """block (time, channels) -> the energy of each unit, (channels, units)."""
        from scipy.signal import sosfilt

        weighted, self.state = sosfilt(self.sos, np.ascontiguousarray(block.T), axis=1, zi=self.state)
        ends = [*starts[1:], len(block)]
        parts = [weighted[:, start:end] for start, end in zip(starts, ends, strict=True)]
        return np.stack([np.einsum("ct,ct->c", part, part) for part in parts], axis=1)


@lru_cache
def _k_weighting(rate: int) -> np.ndarray:
    from pyloudnorm import IIRfilter

    shelf = IIRfilter(4.0, 1 / math.sqrt(2), 1500.0, rate, "high_shelf")
    high_pass = IIRfilter(0.0, 0.5, 38.0, rate, "high_pass")
    return np.array([[*stage.b, *stage.a] for stage in (shelf, high_pass)])


def _gated_loudness(energies: np.ndarray, seconds: float, rate: int) -> float | None:
    """energies (channels, units) -> LUFS (BS.1770-4: blocks of 0.4 s every 0.1 s, gates at -70 and -10 LU).

    A file shorter than a block is measured as one block of its own length.
    """
    length = min(4 * UNIT, seconds)
    count = round((seconds - length) / UNIT) + 1
    gains = np.array([1.0, 1.0, 1.0, 1.41, 1.41] + [1.0] * len(energies))[: len(energies)]
    sums = np.concatenate([[0.0], np.cumsum(gains @ energies)])
    first = np.arange(count)
    power = (sums[np.minimum(first + 4, len(sums) - 1)] - sums[first]) / (length * rate)
    power = power[power > 10 ** ((-70 + 0.691) / 10)]
    if len(power):
        power = power[power > power.mean() / 10]
    return round(-0.691 + 10 * math.log10(power.mean()), 2) if len(power) else None


def _clipped(block: np.ndarray) -> int:
    """Samples of block (time, channels) in runs of three or more at full scale."""
    full = np.abs(block) >= FULL_SCALE
    run = full[:-2] & full[1:-1] & full[2:]
    member = np.zeros_like(full)
    for shift in range(3):
        member[shift : len(full) - 2 + shift] |= run
    return int(member.sum())


def _bands(block: np.ndarray, starts: np.ndarray, rate: int) -> np.ndarray:
    """block (time, channels) -> power in each band of each whole unit, (units, BANDS)."""
    from scipy.fft import rfft

    mono = block[:, 0] if block.shape[1] == 1 else block @ np.full(block.shape[1], 1 / block.shape[1], np.float32)
    size = math.floor(UNIT * rate)
    units = [mono[start : start + size] for start in starts]
    if len(units[-1]) < size:
        units[-1] = np.pad(units[-1], (0, size - len(units[-1])))
    window, matrix = _band_matrix(rate, size)
    spectrum = rfft(np.stack(units) * window, axis=1)[:, : len(matrix)]
    return (spectrum.real**2 + spectrum.imag**2) @ matrix


@lru_cache
def _band_matrix(rate: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.geomspace(60, 3800, BANDS + 1)
    hertz = np.arange(size // 2 + 1) * rate / size
    band = np.searchsorted(edges, hertz, side="right") - 1
    matrix = (band[:, None] == np.arange(BANDS)).astype(np.float32)
    return np.hanning(size).astype(np.float32), matrix[: int(3800 * size / rate) + 1]


def _fingerprint(power: np.ndarray) -> np.ndarray:
    """Band powers (units, BANDS) -> (2 * BANDS,): mean and deviation of each band's level in dB, while it sounds.

    The same after a change of gain; nearly the same after another codec, another rate, or a trim of the ends.
    """
    total = power.sum(axis=1)
    power = power[total >= total.max() * 1e-4]
    level = 10 * np.log10(np.maximum(power, power.max() * 1e-6) + 1e-20)
    mean = level.mean(axis=0)
    return np.concatenate([mean - mean.mean(), level.std(axis=0)]).astype(np.float32)


def _db(level: float) -> float:
    return round(20 * math.log10(max(level, 1e-10)), 2)

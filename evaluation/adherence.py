"""Was the prompt obeyed? Length, level and health of a clip; its tempo and key against those asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.signal.features import estimate_key, estimate_tempo, key_number
from audiogen.signal.loudness import integrated_loudness, true_peak

CLIPPED_RUN = 3  # this many equal samples in a row at full scale are clipping; one alone is a loud peak
WINDOW = 0.05  # seconds; silence is judged window by window
SILENT_DB = -60.0  # RMS of a window


@dataclass(frozen=True)
class Health:
    """What needs no model to be heard. Levels in dB full scale; shares in 0..1."""

    seconds: float
    loudness_lufs: float | None  # None: silent
    true_peak_dbtp: float | None  # None: digital silence
    clipped_share: float  # samples in runs at full scale
    dc: float  # mean of the samples, the worst channel
    silent_share: float  # 50 ms windows below -60 dB RMS


def measure_health(clip: Audio | str | Path) -> Health:
    """Length, loudness, true peak, clipping, DC offset and silence of one clip."""
    audio = clip if isinstance(clip, Audio) else Audio.read(clip)
    samples = audio.samples.double()  # (channels, time)
    if samples.shape[-1] == 0:
        raise UserError("the clip is empty")
    peak = true_peak(audio)
    full = samples.abs() >= min(0.999, max(samples.abs().max().item(), 1e-9))
    full &= samples.abs() >= 0.99  # the largest sample of a quiet clip is no clipping
    window = min(max(round(WINDOW * audio.sample_rate), 1), samples.shape[-1])
    level = samples.mean(0).unfold(0, window, window).square().mean(1)
    return Health(
        seconds=audio.seconds, loudness_lufs=integrated_loudness(audio),
        true_peak_dbtp=peak if math.isfinite(peak) else None, clipped_share=_in_runs(full) / full.numel(),
        dc=samples.mean(-1)[samples.mean(-1).abs().argmax()].item(),
        silent_share=(level < 10 ** (SILENT_DB / 10)).double().mean().item(),
    )


def _in_runs(full) -> int:
    """full (channels, time) bool -> how many True lie in runs of at least CLIPPED_RUN."""
    count = 0
    for channel in full.int():
        padded = [0, *channel.tolist(), 0] if channel.any() else []
        run = 0
        for value in padded:
            if value:
                run += 1
            else:
                count += run if run >= CLIPPED_RUN else 0
                run = 0
    return count


def tempo_obeyed(asked: float, heard: float | None, *, tolerance: float = 0.04, octaves: bool = False) -> bool:
    """Whether the tempo heard is within `tolerance` of the one asked for (beats per minute).

    `octaves`: half, double, a third and three times it count too: which pulse is the beat is
    a matter of taste.
    """
    if heard is None or not heard > 0:
        return False
    return any(abs(heard - asked * ratio) <= tolerance * asked * ratio
               for ratio in ((1.0, 0.5, 2.0, 1 / 3, 3.0) if octaves else (1.0,)))


def key_obeyed(asked: str, heard: str | None, *, relative: bool = False) -> bool:
    """Whether both name the same key ("C# minor" is "Db minor"). `relative`: its relative major or minor counts too."""
    try:
        wanted = key_number(asked)  # the tonic's pitch class, plus 12 for minor
    except ValueError as reason:
        raise UserError(str(reason)) from None
    if not heard:
        return False
    found = key_number(heard)
    if relative and found // 12 != wanted // 12:  # C major and A minor share their notes
        found = _relative(found)
    return found == wanted


def _relative(key: int) -> int:
    """A major key's relative minor, a minor key's relative major: 0..23 -> 0..23."""
    return (key + 9) % 12 + 12 if key < 12 else (key + 3) % 12


@dataclass(frozen=True)
class Heard:
    """Tempo (beats per minute) and key of a clip as librosa hears them; None where it hears none."""

    bpm: float | None
    key: str | None


def listen(audio: Audio) -> Heard:
    """Estimate tempo and key of a clip."""
    bpm, _ = estimate_tempo(audio.samples, audio.sample_rate)
    key, _ = estimate_key(audio.samples, audio.sample_rate)
    return Heard(bpm or None, key or None)

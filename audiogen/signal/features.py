"""What can be measured of music: onset strength, tempo, chroma, key. All on librosa, imported where it is needed.

`audio` is (time,) or (channels, time), numpy or torch, at any rate; channels are mixed to one.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from audiogen.core.librosa_once import load_librosa
from audiogen.signal.resample import resample

RATE = 22050  # Hz; everything is analysed at this rate
TEMPO_HOP = 128  # samples: 172 envelope values a second, so that neighbouring lags differ by 1 % at 120 bpm
CHROMA_HOP = 512

# Shares of the twelve degrees in pieces in major and minor: Albrecht and Shanahan 2013, "The use of large corpora to
# train a new type of key-finding algorithm", table 1. They tell relative keys apart better than Krumhansl's ratings.
MAJOR = (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081)
MINOR = (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052)
MAJOR_NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")


def mono(audio: np.ndarray | Tensor, sample_rate: int) -> np.ndarray:
    """-> (time,) float32 at `RATE`."""
    samples = audio.detach().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio)
    if samples.ndim not in (1, 2):
        raise ValueError(f"audio of shape {samples.shape}: (time,) or (channels, time) is needed")
    samples = samples.astype(np.float32, copy=False)
    return resample(samples.mean(axis=0) if samples.ndim == 2 else samples, sample_rate, RATE)


def onset_strength(audio: np.ndarray | Tensor, sample_rate: int, *, hop_length: int = TEMPO_HOP) -> np.ndarray:
    """-> (1 + time // hop_length,) at `RATE`: how much louder the mel bands become (Böck and Widmer 2013), in dB."""
    samples = mono(audio, sample_rate)
    length = 1 + len(samples) // hop_length
    if len(samples) < 2048:
        samples = np.pad(samples, (0, 2048 - len(samples)))
    return load_librosa().onset.onset_strength(
        y=samples, sr=RATE, hop_length=hop_length, n_fft=1024, n_mels=64, lag=3, aggregate=np.median
    )[:length]


def estimate_tempo(
    audio: np.ndarray | Tensor, sample_rate: int, *, lowest: float = 40.0, highest: float = 220.0
) -> tuple[float, float]:
    """-> (beats per minute, confidence from 0 to 1); (0.0, 0.0) where nothing begins (silence, one steady tone).

    The onset strength is compared with itself one to four beats later. A tempo and its double fit the same music
    equally well; a weight centred at 120 bpm, one octave wide, chooses (Ellis 2007). Confidence is that correlation.
    """
    envelope = onset_strength(audio, sample_rate)
    frame_rate = RATE / TEMPO_HOP
    bpm = np.geomspace(lowest, highest, 1 + round(np.log(highest / lowest) / 0.002))  # steps of 0.2 %
    lags = 60.0 * frame_rate / bpm
    if len(envelope) < 2 * lags.min() or envelope.max() < 0.1:
        return 0.0, 0.0
    envelope = envelope - envelope.mean()
    size = 1 << (2 * len(envelope) - 1).bit_length()
    correlation = np.fft.irfft(np.abs(np.fft.rfft(envelope, size)) ** 2, size)[: len(envelope)]
    correlation = correlation / correlation[0] * len(envelope) / np.arange(len(envelope), 0, -1)  # unbiased
    longest = 0.75 * len(envelope)  # later, too little of the clip is left to compare
    total, weights = np.zeros(len(bpm)), np.zeros(len(bpm))
    for beats in (1, 2, 3, 4):
        inside = beats * lags < longest
        found = np.interp(beats * lags, np.arange(len(correlation)), correlation)
        total += np.where(inside, found / beats**0.5, 0.0)
        weights += np.where(inside, 1.0 / beats**0.5, 0.0)
    fit = total / np.maximum(weights, 1e-9)
    best = int(np.argmax(np.maximum(fit, 0.0) * np.exp(-0.5 * np.log2(bpm / 120.0) ** 2)))
    return float(bpm[best]), float(np.clip(fit[best], 0.0, 1.0))


def beat_offset(audio: np.ndarray | Tensor, sample_rate: int, bpm: float) -> float:
    """Seconds from the start to the first beat of an even pulse of `bpm`, 0 <= offset < 60 / bpm: where notes begin.

    The pulse is laid over the onset strength at every place within a beat; the best fit counts. 0.0 for silence.
    """
    envelope = onset_strength(audio, sample_rate)
    beat = 60.0 / bpm * RATE / TEMPO_HOP  # in envelope values
    offsets = np.arange(0.0, beat)
    places = np.arange(len(envelope))
    fits = [float(np.interp(np.arange(offset, len(envelope), beat), places, envelope).mean()) for offset in offsets]
    if not fits or max(fits) <= 0.0:
        return 0.0
    return float(offsets[int(np.argmax(fits))] * TEMPO_HOP / RATE)


def chroma(audio: np.ndarray | Tensor, sample_rate: int) -> np.ndarray:
    """-> (12, frames): energy of the pitch classes C, C#, ... B, by a constant-Q transform tuned to the clip.

    The unit is arbitrary but the same in all frames of a clip. A clip under two seconds is filled up with silence.
    """
    librosa = load_librosa()
    samples = mono(audio, sample_rate)
    if len(samples) == 0 or not np.abs(samples).max() > 1e-6:
        return np.zeros((12, 1 + len(samples) // CHROMA_HOP), np.float32)
    if len(samples) < 2 * RATE:  # the lowest octave is analysed at 1 / 32 of the rate, in windows of 1024
        samples = np.pad(samples, (0, 2 * RATE - len(samples)))
    # Up to C7: higher up there are mostly overtones, which count for wrong pitch classes.
    return librosa.feature.chroma_cqt(
        y=samples, sr=RATE, hop_length=CHROMA_HOP, fmin=librosa.note_to_hz("C2"), n_octaves=5, norm=None,
        tuning=librosa.estimate_tuning(y=samples, sr=RATE, n_fft=4096),
    )


def estimate_key(audio: np.ndarray | Tensor, sample_rate: int) -> tuple[str, float]:
    """-> ("A minor", confidence from 0 to 1); ("", 0.0) for silence.

    Krumhansl and Schmuckler's method: the clip's mean chroma is correlated with the profile of every key. Confidence is
    the softmax of the correlations at a temperature of 0.05: it orders clips, but is not a calibrated probability.
    """
    energy = chroma(audio, sample_rate)
    loudest = energy.max()
    if loudest <= 0.0:
        return "", 0.0
    share = np.sqrt(energy / loudest).mean(axis=1)  # the root, so that soft notes count too
    names, correlations = [], []
    for mode, profile, tonics in (("major", MAJOR, MAJOR_NAMES), ("minor", MINOR, MINOR_NAMES)):
        for tonic in range(12):
            names.append(f"{tonics[tonic]} {mode}")
            correlations.append(np.corrcoef(share, np.roll(profile, tonic))[0, 1] if share.std() > 0 else 0.0)
    odds = np.exp((np.array(correlations) - max(correlations)) / 0.05)
    best = int(np.argmax(odds))
    return names[best], float(odds[best] / odds.sum())


def key_number(key: str) -> int:
    """"A minor" -> 0..23: the tonic's pitch class, plus 12 for minor. Equal for "C# major" and "Db major"."""
    tonic, _, mode = key.strip().partition(" ")
    steps = dict(zip("CDEFGAB", (0, 2, 4, 5, 7, 9, 11), strict=True))
    if not tonic or tonic[0].upper() not in steps or set(tonic[1:]) - set("#b") or mode not in ("major", "minor"):
        raise ValueError(f"key {key!r} is not one like 'A minor', 'F# minor' or 'Eb major'")
    return (steps[tonic[0].upper()] + tonic.count("#") - tonic[1:].count("b")) % 12 + 12 * (mode == "minor")

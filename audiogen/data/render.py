"""Scores played with recorded notes, or with a soundfont: audio whose notes are known exactly.

A `Sampler` is one recorded instrument. For every note it takes the recording nearest in pitch and loudness, resamples
it by what is left of the pitch difference, and holds it as long as the note lasts: a steady part is repeated with
crossfades, at its level (bowed, blown, sung, organ) or dying away as it did (struck, plucked).
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from audiogen.conditioning.instruments import DRUM_HITS, DRUM_STAND_INS, Instrument, instrument
from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.core.files import whole_file
from audiogen.core.score import Note, Score
from audiogen.data.notes import RecordedNote, read_notes, voices

LOUDNESS = -20.0  # LUFS of an ordinary piece
LAYER_WIDTH = 25.0  # a velocity layer this far off is as bad as a recording one semitone off
FULL_SCALE = 0.98
KNEE = 0.7  # the limiter leaves samples below this alone
# Mixing desk of the drums: decibels against kick and snare. Their recordings come at unrelated levels.
DRUM_DB = {
    36: 1,
    38: 0,
    39: -3,
    42: -10,
    46: -9,
    49: -6,
    51: -9,
    52: -8,
    53: -9,
    54: -9,
    56: -8,
    62: -4,
    63: -4,
    64: -4,
    70: -10,
    75: -6,
}


@dataclass
class _Sample:
    """One recording, ready to be played: silence before it cut off, levelled, at the file's own sample rate."""

    audio: np.ndarray  # (time,)
    sample_rate: int
    pitch: float
    velocity: int
    level: float = 0.0  # RMS of its loudest 0.3 s in the file


class Sampler:
    """An instrument made of recorded notes.

    >>> sampler = Sampler.from_folder("notes/", "cello")          # doctest: +SKIP
    >>> audio = sampler.render(Score.read("tune.mid"))            # (time,) float32, doctest: +SKIP
    """

    def __init__(
        self,
        instrument: Instrument,
        notes: Sequence[RecordedNote],
        *,
        sample_rate: int = 22050,
        label: str = "",
        seed: int = 0,
    ) -> None:
        """`seed` chooses among the equal recordings of one drum (a drum machine's many settings of one drum)."""
        self.instrument, self.sample_rate, self.label, self.seed = instrument, sample_rate, label, seed
        self.notes = tuple(notes)
        if not self.notes:
            raise UserError(f"no recorded notes of {instrument.name!r}")
        self._samples = [_prepare(note, instrument) for note in self.notes]
        self._hits = _hits(self.notes, self._samples) if instrument.drum else {}
        self._cache: dict[tuple[int, int, int], np.ndarray] = {}
        self.gain = 1.0
        self.gain = 10 ** ((LOUDNESS - _loudness(self._mix(_reference(instrument)), sample_rate)) / 20)

    @classmethod
    def from_folder(
        cls,
        notes: str | Path | Sequence[RecordedNote],
        name: str,
        *,
        sample_rate: int = 22050,
        voice: int | str = 0,
        seed: int = 0,
    ) -> Sampler:
        """The `voice`-th recorded instrument (or the one of that label) that plays `name` in a folder of notes."""
        row = instrument(name)
        recorded = read_notes(notes) if isinstance(notes, (str, Path)) else list(notes)
        found = voices(recorded, row)
        if not found:
            where = f" in {notes}" if isinstance(notes, (str, Path)) else ""
            raise UserError(
                f"no recorded notes of {row.name!r}{where}; known there: "
                + ", ".join(sorted({note.name for note in recorded})[:12])
            )
        label = voice if isinstance(voice, str) else list(found)[voice % len(found)]
        if label not in found:
            raise UserError(f"{row.name!r} has no voice {label!r}; its voices: {', '.join(found)}")
        return cls(row, found[label], sample_rate=sample_rate, label=label, seed=seed)

    def render(self, score: Score, *, seconds: float | None = None) -> np.ndarray:
        """-> (time,) float32 in (-1, 1). `seconds`: the exact length; None: until the last note has died away."""
        audio = limit(self._mix(score) * self.gain)
        if seconds is not None:
            time = round(seconds * self.sample_rate)
            audio = np.pad(audio, (0, max(0, time - len(audio))))[:time]
            fade = min(round(0.01 * self.sample_rate), time)
            audio[time - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
        return audio

    def _mix(self, score: Score) -> np.ndarray:
        tail = 1.5 if self.instrument.drum else self.instrument.release
        mix = np.zeros(math.ceil((score.seconds + tail) * self.sample_rate) + 1, dtype=np.float32)
        for index, note in enumerate(score.notes):
            sound = self._hit(score, index) if self.instrument.drum else self._note(note)
            at = round(note.onset * self.sample_rate)
            sound = sound[: len(mix) - at]
            mix[at : at + len(sound)] += sound
        return mix

    def _note(self, note: Note) -> np.ndarray:
        best = min(
            range(len(self._samples)),
            key=lambda i: (
                abs(self._samples[i].pitch - note.pitch) + abs(self._samples[i].velocity - note.velocity) / LAYER_WIDTH
            ),
        )
        release = round(self.instrument.release * self.sample_rate)
        held = round(note.duration * self.sample_rate)
        long = math.ceil((held + release) / self.sample_rate)  # cached in whole seconds
        key = (best, note.pitch, long)
        if key not in self._cache:
            self._cache[key] = self._hold(self._samples[best], note.pitch, long * self.sample_rate)
        sound = self._cache[key][: held + release] * np.float32((note.velocity / 90.0) ** 1.5)
        fade = 0.5 + 0.5 * np.cos(np.linspace(0.0, np.pi, release, dtype=np.float32))
        sound[held:] *= fade[: max(0, len(sound) - held)]
        return sound

    def _hold(self, sample: _Sample, pitch: int, time: int) -> np.ndarray:
        """`sample` at `pitch`, at least `time` samples long where its instrument holds notes or still rings."""
        audio = resample(sample.audio, sample.sample_rate * 2 ** ((pitch - sample.pitch) / 12), self.sample_rate)
        return extend(audio, time, self.sample_rate, sustained=self.instrument.sustained)

    def _hit(self, score: Score, index: int) -> np.ndarray:
        note = score.notes[index]
        hit = note.pitch
        while hit not in self._hits:
            hit = DRUM_STAND_INS.get(hit, next(iter(self._hits)))
        choices = self._hits[hit]  # from soft to loud
        if "808" in self.instrument.name:
            chosen = choices[(self.seed * 7 + hit) % len(choices)]
        else:
            place = min(max(note.velocity / 127.0, 0.0), 0.999) * len(choices)
            chosen = choices[int(place)] if len(choices) > 1 else choices[0]
        key = (chosen, hit, 0)
        if key not in self._cache:
            sample = self._samples[chosen]
            self._cache[key] = resample(sample.audio, sample.sample_rate, self.sample_rate)
        sound = self._cache[key] * np.float32((note.velocity / 90.0) ** 1.5 * 10 ** (DRUM_DB.get(hit, -3) / 20))
        if hit == 46:  # a closed or trodden hi-hat stops the open one
            stop = next((later.onset for later in score.notes[index + 1 :] if later.pitch in (42, 44)), None)
            if stop is not None and stop > note.onset:
                held, fade = round((stop - note.onset) * self.sample_rate), round(0.03 * self.sample_rate)
                sound = sound[: held + fade].copy()
                sound[held:] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)[: max(0, len(sound) - held)]
        return sound


def resample(audio: np.ndarray, from_rate: float, to_rate: float) -> np.ndarray:
    """(time,) at `from_rate` -> (time,) at `to_rate`, band-limited; any real ratio."""
    import soxr

    if abs(from_rate / to_rate - 1) < 1e-6:
        return audio.astype(np.float32)
    return soxr.resample(audio.astype(np.float32), from_rate, to_rate)


def extend(audio: np.ndarray, time: int, sample_rate: int, *, sustained: bool) -> np.ndarray:
    """Hold a recorded note for `time` samples: its steady part again and again, joined where the wave fits best.

    A note that dies away goes on dying at the rate of its second half. Returned as it is where it is long enough, or
    too short or too quiet at its end to go on.
    """
    fade = round(0.06 * sample_rate)
    end = len(audio) - round(0.05 * sample_rate)  # the recordings end with a short fade
    if len(audio) >= time:
        return audio
    begin = round(min(0.3 * sample_rate, 0.35 * end))
    if end - begin < 3 * fade:
        return audio
    envelope = _envelope(audio, round(0.05 * sample_rate))
    if not sustained and envelope[end - 1] < 0.004 * envelope.max():
        return audio
    slope = 0.0
    if not sustained:
        x = np.arange(end // 2, end)
        slope = min(float(np.polyfit(x, np.log(envelope[end // 2 : end] + 1e-9), 1)[0]), -0.35 / sample_rate)
    decay = np.exp(slope * np.arange(max(time, len(audio)) + fade)).astype(np.float32)
    flat = audio[:end] / decay[:end]
    # Loop from `end` back to the place near `begin` whose wave looks most like the one that leads to `end`.
    pattern = flat[end - fade : end]
    span = flat[begin : begin + max(fade + 1, (end - begin) // 3)]
    likeness = np.correlate(span, pattern, "valid")
    energy = np.sqrt(np.convolve(span**2, np.ones(fade, dtype=np.float32), "valid") + 1e-12)
    back = begin + int(np.argmax(likeness / energy))
    loop = flat[back:end].copy()  # `loop` begins with the `fade` samples that its own end is mixed into
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    out = np.zeros(max(time, end) + len(loop), dtype=np.float32)
    out[:end] = flat
    filled = end
    while filled < time:
        out[filled - fade : filled] = out[filled - fade : filled] * (1 - ramp) + loop[:fade] * ramp
        out[filled : filled + len(loop) - fade] = loop[fade:]
        filled += len(loop) - fade
    return out[:time] * decay[:time]


def limit(audio: np.ndarray) -> np.ndarray:
    """A soft limiter: samples up to the knee pass unchanged, louder ones are bent below full scale."""
    size = np.abs(audio)
    bent = KNEE + (FULL_SCALE - KNEE) * np.tanh((size - KNEE) / (FULL_SCALE - KNEE))
    return np.where(size > KNEE, np.sign(audio) * bent, audio).astype(np.float32)


def render_soundfont(
    score: Score, soundfont: str | Path, program: int | None = None, *, sample_rate: int = 22050
) -> np.ndarray:
    """Play a score with FluidSynth -> (time,) float32. `program`: General MIDI, for all that are not drums."""
    if shutil.which("fluidsynth") is None:
        raise UserError(
            "fluidsynth is not installed: install it (Debian: apt install fluidsynth), or use --notes FOLDER"
        )
    if not Path(soundfont).is_file():
        raise UserError(f"no soundfont at {soundfont}; Debian's fluid-soundfont-gm puts one into /usr/share/sounds/sf2")
    if program is not None:
        score = replace(score, notes=tuple(n if n.drum else replace(n, program=program) for n in score.notes))
    with tempfile.TemporaryDirectory() as folder:
        midi, wav = Path(folder) / "score.mid", Path(folder) / "score.wav"
        score.save(midi)
        command = [
            "fluidsynth",
            "-n",
            "-i",
            "-q",
            "-g",
            "0.5",
            "-r",
            str(sample_rate),
            "-F",
            str(wav),
            "-T",
            "wav",
            "-O",
            "float",
            str(soundfont),
            str(midi),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode or not wav.is_file():
            lines = (result.stderr or result.stdout).strip().splitlines() or ["no reason given"]
            raise UserError(f"fluidsynth could not play the score with {soundfont}: {lines[-1]}")
        audio = Audio.read(wav).samples.mean(0).numpy()
    audio = audio[: round((score.seconds + 1.5) * sample_rate)]
    loudness = _loudness(audio, sample_rate)
    return limit(audio * 10 ** ((LOUDNESS - loudness) / 20)) if np.isfinite(loudness) else audio


def _prepare(note: RecordedNote, instrument: Instrument) -> _Sample:
    """Read a recording; cut what comes before its attack; bring it to a common level."""
    read = Audio.read(note.path)
    audio, rate = read.samples.mean(0).numpy(), read.sample_rate
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < 1e-5:
        raise UserError(f"{note.path} is silent")
    level = _loudest(audio, rate)
    if instrument.drum or not instrument.sustained:
        start = max(0, int(np.argmax(np.abs(audio) > 0.1 * peak)) - round(0.003 * rate))
        audio = audio[start:]
        ramp = min(round(0.001 * rate), len(audio))
    else:
        # Slow swells would blur the beat: begin where the tone is 10 dB below its level, and even its level out.
        envelope = _envelope(audio, round(0.008 * rate))
        steady = float(np.quantile(envelope, 0.8))
        start = int(np.argmax(envelope > 0.32 * steady))
        stop = len(audio) - int(np.argmax(envelope[::-1] > 0.4 * steady))
        slow = _envelope(audio, round(0.15 * rate))
        audio = (audio * np.clip(steady / np.maximum(slow, 1e-6), 0.6, 2.5))[start:stop]
        ramp = min(round(0.005 * rate), len(audio))
    audio = audio.astype(np.float32)
    audio[:ramp] *= np.linspace(0.0, 1.0, ramp, dtype=np.float32)
    audio /= float(np.abs(audio).max()) if instrument.drum else max(_loudest(audio, rate), 1e-6) * 8
    return _Sample(audio, rate, _true_pitch(note, audio, rate), note.velocity, level)


def _true_pitch(note: RecordedNote, audio: np.ndarray, rate: int) -> float:
    """What the recording is said to be or what was measured, whichever has more of its sound in its first six partials.

    Labels are at times a semitone off, and estimators fail on bells; a measurement further off than 1.3 semitones is
    not believed.
    """
    said = note.pitch if note.pitch is not None else note.measured
    if said is None or note.measured is None or abs(note.measured - said) > 1.3:
        return said or 0.0
    size = 1 << 16
    part = audio[round(0.05 * rate) : round(0.05 * rate) + size]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), size))

    def fit(pitch: float) -> float:  # within a quarter tone, for vibrato
        near = 440.0 * 2 ** ((pitch - 69 + np.linspace(-0.25, 0.25, 21)[:, None]) / 12) * np.arange(1, 7) * size / rate
        return float(spectrum[np.minimum(np.round(near).astype(int), size // 2)].sum())

    return said if fit(said) > 1.15 * fit(note.measured) else note.measured


def _hits(notes: Sequence[RecordedNote], samples: Sequence[_Sample]) -> dict[int, list[int]]:
    """General MIDI hit -> its recordings' places in `notes`, from soft to loud."""
    names = [note.name.lower().replace("tr-808 ", "") for note in notes]
    found = {}
    for hit, words in DRUM_HITS.items():
        for word in words[:2] if hit in (41, 45, 47, 50) else words:
            places = [i for i, name in enumerate(names) if name == word]
            if places:
                found[hit] = sorted(places, key=lambda i: samples[i].level)
                break
    if not found:
        raise UserError(
            "no recording is named after a drum (kick drum, snare drum, closed hi-hat, ...): "
            + ", ".join(sorted(set(names))[:8])
        )
    return found


def _reference(instrument: Instrument) -> Score:
    """What an instrument's loudness is measured on: an ordinary bar or two of it."""
    notes = []
    if instrument.drum:
        for beat in range(16):
            notes += [
                Note(0, 0, 36 if beat % 2 == 0 else 38, 96, beat, 0.5, drum=True),
                Note(0, 0, 42, 80, beat, 0.5, drum=True),
                Note(0, 0, 42, 60, beat + 0.5, 0.5, drum=True),
            ]
    else:
        middle = (instrument.low + instrument.high) // 2
        for beat in range(16):
            step = (0, 2, 4, 5, 7, 5, 4, 2)[beat % 8]
            notes.append(Note(0, 0, min(middle + step, instrument.high), 90, beat, 1.0))
            if instrument.polyphonic:
                notes += [Note(0, 0, max(middle + k, instrument.low), 75, beat, 1.0) for k in (-12, -5)]
    return Score.from_beats(notes, bpm=120.0)


def _loudness(audio: np.ndarray, sample_rate: int) -> float:
    import pyloudnorm

    return pyloudnorm.Meter(sample_rate).integrated_loudness(audio.astype(np.float64))


def _loudest(audio: np.ndarray, sample_rate: int) -> float:
    """RMS of the loudest 0.3 s."""
    width = min(round(0.3 * sample_rate), len(audio))
    power = np.cumsum(np.concatenate([[0.0], audio.astype(np.float64) ** 2]))
    return math.sqrt(max((power[width:] - power[:-width]).max() / width, 0.0))


def _envelope(audio: np.ndarray, width: int) -> np.ndarray:
    """RMS over `width` samples around each sample, (time,)."""
    power = np.cumsum(np.concatenate([[0.0], audio.astype(np.float64) ** 2]))
    at = np.arange(len(audio))
    low, high = np.maximum(at - width // 2, 0), np.minimum(at + width - width // 2, len(audio))
    return np.sqrt(np.maximum(power[high] - power[low], 0.0) / (high - low)).astype(np.float32)


def write_clip(
    path: str | Path, audio: np.ndarray, sample_rate: int, *, sidecar: dict, score: Score | None = None
) -> None:
    """Write `path` (FLAC) with its sidecar .json and, where it has a score, the .mid of the notes played."""
    path = Path(path)
    Audio(torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))[None], sample_rate).save(
        path, subtype="PCM_16"
    )
    if score is not None:
        score.save(path.with_suffix(".mid"))
    values = {name: value for name, value in sidecar.items() if value not in (None, "", [])}
    with whole_file(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

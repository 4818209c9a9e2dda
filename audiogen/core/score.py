"""A score: notes with tempo, metre and key; from and to MIDI files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from audiogen.core.errors import UserError
from audiogen.core.files import whole_file
from audiogen.core.midi import (
    KEY,
    MAX_BYTES,
    META,
    METRE,
    NAME,
    NOTE_ON,
    PROGRAM,
    TEMPO,
    MidiEvents,
    read_events,
)

TICKS_PER_BEAT = 480
DRUM_CHANNEL = 9  # General MIDI channel 10, counted from 0
MIN_BPM, MAX_BPM = 3.6, 1000.0  # what a file can hold, and what is music
MAX_SECONDS = 24 * 3600.0


@dataclass(frozen=True, order=True)
class Note:
    """One note. `onset` and `duration` in seconds; `beat` and `beats` the same in quarter notes."""

    onset: float
    duration: float
    pitch: int  # MIDI number, 60 = C4; for drums the General MIDI hit (36 kick, 38 snare, 42 closed hi-hat)
    velocity: int = 80  # 1..127
    beat: float = 0.0
    beats: float = 0.0
    instrument: str = ""  # a style's name ("cello"), or "" for the prompt's own
    program: int = 0  # General MIDI program, 0..127
    drum: bool = False


_ORDER = attrgetter(*Note.__dataclass_fields__)  # the order of `Note`, many times faster than its comparisons


@dataclass(frozen=True)
class Score:
    notes: tuple[Note, ...]
    bpm: float = 120.0  # quarter notes per minute, at the start
    metre: str = "4/4"
    key: str | None = None  # "A minor"
    title: str = ""

    @property
    def seconds(self) -> float:
        """Where the last note ends."""
        return max((note.onset + note.duration for note in self.notes), default=0.0)

    @property
    def instruments(self) -> tuple[str, ...]:
        """The instruments that play, in order of first appearance."""
        return tuple(dict.fromkeys(note.instrument for note in self.notes))

    @classmethod
    def from_beats(cls, notes: Iterable[Note], *, bpm: float, **fields) -> Score:
        """A score at constant tempo from notes whose `beat` and `beats` are set; onset and duration follow."""
        beat_seconds = 60.0 / bpm
        timed = (replace(n, onset=n.beat * beat_seconds, duration=n.beats * beat_seconds) for n in notes)
        return cls(tuple(sorted(timed)), bpm=bpm, **fields)

    def between(self, start: float, end: float) -> Score:
        """The notes that sound in [start, end) seconds, cut to it and moved so that `start` becomes 0."""
        kept = []
        for note in self.notes:
            onset, stop = max(note.onset, start), min(note.onset + note.duration, end)
            if stop > onset:
                kept.append(replace(note, onset=onset - start, duration=stop - onset))
        return replace(self, notes=tuple(kept))

    def only(self, instrument: str) -> Score:
        """The part of one instrument."""
        return replace(self, notes=tuple(note for note in self.notes if note.instrument == instrument))

    def save(self, path: str | Path) -> None:
        """Write a MIDI file of type 1: one track an instrument, 480 ticks a quarter note.

        Where the notes' beats and seconds agree on a tempo, or on tempo changes, both are written and `read` gives them
        back; where they do not (a passage cut out by `between`), the seconds are kept at the constant tempo `bpm`.
        Times are kept to half a tick, about 0.5 ms. From the 16th part on channels are shared; `read` goes by tracks.
        """
        import mido

        midi = mido.MidiFile(ticks_per_beat=TICKS_PER_BEAT, charset="utf-8")
        numerator, _, denominator = self.metre.partition("/")
        changes = _tempo_map(self.notes, self.bpm)
        head = mido.MidiTrack([
            mido.MetaMessage("time_signature", numerator=int(numerator), denominator=int(denominator or 4))
        ])
        if self.key:
            head.append(mido.MetaMessage("key_signature", key=_midi_key(self.key)))
        now = 0
        for beat, bpm in changes or [(0.0, self.bpm)]:
            tick = round(beat * TICKS_PER_BEAT)
            head.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm), time=tick - now))
            now = tick
        midi.tracks.append(head)
        parts: dict[tuple[str, int, bool], list[Note]] = {}
        for note in self.notes:
            parts.setdefault((note.instrument, note.program, note.drum), []).append(note)
        channels = [channel for channel in range(16) if channel != DRUM_CHANNEL]
        for index, ((instrument, program, drum), notes) in enumerate(parts.items()):
            channel = DRUM_CHANNEL if drum else channels[index % len(channels)]
            track = mido.MidiTrack([
                mido.MetaMessage("track_name", name=instrument),
                mido.Message("program_change", channel=channel, program=program),
            ])
            events = []
            for note in notes:
                start, end = _ticks(note, self.bpm if changes is None else None)
                events.append((start, 1, "note_on", note.pitch, note.velocity))
                events.append((max(end, start + 1), 0, "note_off", note.pitch, 0))
            now = 0
            for tick, _, kind, pitch, velocity in sorted(events):
                track.append(mido.Message(kind, channel=channel, note=pitch, velocity=velocity, time=tick - now))
                now = tick
            midi.tracks.append(track)
        with whole_file(path) as part_path:
            midi.save(part_path)

    @classmethod
    def read(cls, path: str | Path) -> Score:
        """Read a MIDI file with all its tempo changes. Raises `UserError` where it is none, or a broken or huge one.

        How odd files are read: notes that overlap on one pitch end in the order they began; a note without an end lasts
        to the end of the file; tempi above 1000 and impossible metres and keys are passed over; in SMPTE time a quarter
        note is half a second. A file without notes is an error.
        """
        path = Path(path)
        try:
            with open(path, "rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise UserError(f"no score at {path}") from None
        except OSError as reason:
            raise UserError(f"{path} is not a readable MIDI file ({reason})") from None
        try:
            return _from_events(read_events(data), title=path.stem)
        except UserError as reason:
            raise UserError(f"{path} is not a readable MIDI file: {reason}") from None


def _from_events(midi: MidiEvents, *, title: str) -> Score:
    tempo, seconds, tick = 500_000, 0.0, 0
    bpm, metre, key = None, None, None
    by_channel: dict[int, int] = {}
    by_track: dict[tuple[int, int], int] = {}
    names: dict[int, str] = {}
    sounding: dict[tuple[int, int, int], deque[tuple[float, int, int]]] = {}
    found: list[tuple] = []  # (onset, duration, pitch, velocity, start tick, end tick, track, channel, program)

    def end_of(track: int, channel: int, pitch: int, started: tuple[float, int, int]) -> None:
        onset, start_tick, velocity = started
        program = by_track.get((track, channel), by_channel.get(channel, 0))
        found.append((onset, max(seconds - onset, 1e-3), pitch, velocity, start_tick, tick, track, channel, program))

    for at, track, status, first, second in midi.events:
        if at != tick:
            seconds += (at - tick) * _tick_seconds(midi, tempo)
            tick = at
        kind, channel = status & 0xF0, status & 0x0F
        if status == META:
            if first == TEMPO and len(second) == 3 and int.from_bytes(second, "big") >= 60e6 / MAX_BPM:
                tempo = int.from_bytes(second, "big")
                bpm = bpm or _exact_bpm(tempo)
            elif first == METRE and len(second) >= 2 and second[0] and second[1] <= 6:
                metre = metre or f"{second[0]}/{2 ** second[1]}"
            elif first == KEY and len(second) == 2:
                key = key or _key_named(*second)
            elif first == NAME:
                names[track] = _decoded(second)
        elif kind == PROGRAM:
            by_track[track, channel] = by_channel[channel] = first
        elif kind == NOTE_ON and second > 0:
            sounding.setdefault((track, channel, first), deque()).append((seconds, tick, second))
        elif started := sounding.get((track, channel, first)):
            end_of(track, channel, first, started.popleft())
    seconds += (midi.last_tick - tick) * _tick_seconds(midi, tempo)
    tick = midi.last_tick
    for (track, channel, pitch), left in sounding.items():
        for started in left:
            end_of(track, channel, pitch, started)
    if not found:
        raise UserError("it has no notes")
    if seconds > MAX_SECONDS:
        raise UserError(f"it lasts {seconds / 3600:.0f} hours: its times are damaged")
    beat = 1 / midi.ticks_per_beat if midi.ticks_per_beat else (bpm or 120.0) / 60 / midi.ticks_per_second
    notes = (
        Note(onset, duration, pitch, velocity, start * beat, (end - start) * beat, names.get(track, ""), program,
             channel == DRUM_CHANNEL)
        for onset, duration, pitch, velocity, start, end, track, channel, program in found
    )
    return Score(tuple(sorted(notes, key=_ORDER)), bpm=bpm or 120.0, metre=metre or "4/4", key=key, title=title)


def _tick_seconds(midi: MidiEvents, tempo: int) -> float:
    return tempo * 1e-6 / midi.ticks_per_beat if midi.ticks_per_beat else 1 / midi.ticks_per_second


def _ticks(note: Note, bpm: float | None) -> tuple[int, int]:
    """Where a note starts and ends: by its beats, or at a constant tempo by its seconds."""
    if bpm is None:
        start, end = note.beat, note.beat + note.beats
    else:
        start, end = note.onset * bpm / 60, (note.onset + note.duration) * bpm / 60
    return max(round(start * TICKS_PER_BEAT), 0), max(round(end * TICKS_PER_BEAT), 0)


def _tempo_map(notes: Iterable[Note], bpm: float) -> list[tuple[float, float]] | None:
    """[(beat, bpm from there on)] of notes whose beats and seconds follow one time line from (0, 0), else None."""
    points = {0.0: 0.0}
    for note in notes:
        for beat, second in ((note.beat, note.onset), (note.beat + note.beats, note.onset + note.duration)):
            beat = round(beat, 6)
            if abs(points.setdefault(beat, second) - second) > 2e-3:
                return None
    changes: list[tuple[float, float]] = []
    line = sorted(points.items())
    for (beat, second), (next_beat, next_second) in zip(line, line[1:], strict=False):
        expected = (next_beat - beat) * 60 / (changes[-1][1] if changes else bpm)
        if abs(next_second - second - expected) <= 1e-6 + 1e-5 * expected:
            now = changes[-1][1] if changes else bpm
        elif next_second - second > 0 and MIN_BPM <= (next_beat - beat) * 60 / (next_second - second) <= MAX_BPM:
            now = (next_beat - beat) * 60 / (next_second - second)
        else:
            return None
        if not changes or now != changes[-1][1]:
            changes.append((beat, now))
    return changes or None


def _exact_bpm(tempo: int) -> float:
    """The shortest number of beats per minute that a file would hold as `tempo` microseconds a beat."""
    bpm = 60e6 / tempo
    return next((short for digits in range(7) if round(60e6 / (short := round(bpm, digits))) == tempo), bpm)


def _decoded(name: bytes) -> str:
    try:
        return name.decode("utf-8").strip().strip("\0")
    except UnicodeDecodeError:
        return name.decode("latin-1").strip().strip("\0")


_MAJORS = ("Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#")  # 7 flats .. 7 sharps
_MINORS = ("Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#", "G#", "D#", "A#")


def _key_named(sharps: int, minor: int) -> str | None:
    """A key signature's two bytes; None where they are no key."""
    sharps = sharps - 256 if sharps > 127 else sharps
    if abs(sharps) > 7 or minor > 1:
        return None
    return f"{_MINORS[sharps + 7]} minor" if minor else f"{_MAJORS[sharps + 7]} major"


def _midi_key(key: str) -> str:
    """ "A minor" -> "Am"; a key without a signature of its own is written as the one that sounds the same."""
    tonic, _, mode = key.partition(" ")
    minor = mode.strip().lower().startswith("min")
    names = _MINORS if minor else _MAJORS
    if tonic not in names:
        tonic = next(name for name in names if _pitch_class(name) == _pitch_class(tonic))
    return tonic + ("m" if minor else "")


def _pitch_class(name: str) -> int:
    natural = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[name[0]]
    return (natural + name.count("#") - name[1:].count("b")) % 12

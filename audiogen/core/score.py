"""A score: notes with tempo, metre and key; from and to MIDI files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from audiogen.core.errors import UserError
from audiogen.core.files import whole_file

TICKS_PER_BEAT = 480
DRUM_CHANNEL = 9  # General MIDI channel 10, counted from 0


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
        """Write a MIDI file: one track an instrument, at the score's tempo (note times are kept to about 1 ms)."""
        import mido

        midi = mido.MidiFile(ticks_per_beat=TICKS_PER_BEAT)
        tempo = mido.bpm2tempo(self.bpm)
        numerator, _, denominator = self.metre.partition("/")
        head = mido.MidiTrack([
            mido.MetaMessage("set_tempo", tempo=tempo),
            mido.MetaMessage("time_signature", numerator=int(numerator), denominator=int(denominator or 4)),
        ])
        if self.key:
            head.append(mido.MetaMessage("key_signature", key=_midi_key(self.key)))
        midi.tracks.append(head)
        channels = [channel for channel in range(16) if channel != DRUM_CHANNEL]
        for index, part in enumerate(dict.fromkeys((n.instrument, n.program, n.drum) for n in self.notes)):
            instrument, program, drum = part
            channel = DRUM_CHANNEL if drum else channels[index % len(channels)]
            track = mido.MidiTrack([
                mido.MetaMessage("track_name", name=instrument.encode("latin-1", "replace").decode("latin-1")),
                mido.Message("program_change", channel=channel, program=program),
            ])
            events = []
            for note in self.notes:
                if (note.instrument, note.program, note.drum) == part:
                    start = round(mido.second2tick(note.onset, TICKS_PER_BEAT, tempo))
                    end = round(mido.second2tick(note.onset + note.duration, TICKS_PER_BEAT, tempo))
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
        """Read a MIDI file with all its tempo changes. Raises `UserError` where it is none."""
        import mido

        path = Path(path)
        try:
            midi = mido.MidiFile(path, clip=True)
        except FileNotFoundError:
            raise UserError(f"no score at {path}") from None
        except (OSError, ValueError, EOFError, IndexError, KeyError) as reason:
            raise UserError(f"{path} is not a readable MIDI file ({reason})") from None
        return _from_midi(midi, title=path.stem)


def _from_midi(midi, *, title: str) -> Score:
    import mido

    if midi.type == 2:
        raise UserError(f"{title}: MIDI files of type 2 (independent patterns) have no one time line; save as type 1")
    tempo, seconds, tick = 500_000, 0.0, 0
    bpm, metre, key = None, None, None
    programs, names = {}, {}
    sounding: dict[tuple[int, int], list[tuple[float, int, int]]] = {}
    notes = []
    events = []  # (tick, order, track, message), merged over the tracks
    for index, track in enumerate(midi.tracks):
        at = 0
        for order, message in enumerate(track):
            at += message.time
            events.append((at, index, order, message))
    events.sort(key=lambda event: event[:3])
    for at, index, _, message in events:
        seconds += mido.tick2second(at - tick, midi.ticks_per_beat, tempo)
        tick = at
        if message.type == "set_tempo":
            tempo = message.tempo
            bpm = bpm or mido.tempo2bpm(tempo)
        elif message.type == "time_signature":
            metre = metre or f"{message.numerator}/{message.denominator}"
        elif message.type == "key_signature":
            key = key or _word_key(message.key)
        elif message.type == "track_name":
            names[index] = message.name.strip()
        elif message.type == "program_change":
            programs[message.channel] = message.program
        elif message.type == "note_on" and message.velocity > 0:
            sounding.setdefault((message.channel, message.note), []).append((seconds, tick, message.velocity))
        elif message.type in ("note_off", "note_on"):
            started = sounding.get((message.channel, message.note))
            if started:
                onset, start_tick, velocity = started.pop(0)
                notes.append(Note(
                    onset=onset, duration=max(seconds - onset, 1e-3), pitch=message.note, velocity=velocity,
                    beat=start_tick / midi.ticks_per_beat, beats=(tick - start_tick) / midi.ticks_per_beat,
                    instrument=names.get(index, ""), program=programs.get(message.channel, 0),
                    drum=message.channel == DRUM_CHANNEL,
                ))
    return Score(tuple(sorted(notes)), bpm=bpm or 120.0, metre=metre or "4/4", key=key, title=title)


def _midi_key(key: str) -> str:
    tonic, _, mode = key.partition(" ")
    return tonic + ("m" if mode.strip().lower().startswith("min") else "")


def _word_key(key: str) -> str:
    return f"{key[:-1]} minor" if key.endswith("m") else f"{key} major"

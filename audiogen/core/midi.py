"""Standard MIDI files as events: a reader for files that people have, which are often odd and sometimes broken.

Written after the Standard MIDI Files 1.0 specification (MIDI Manufacturers Association, 1996). mido, which writes our
files and checks this reader in the tests, refuses a whole file for one bad key signature, takes SMPTE divisions for
ticks a beat, and builds an object for each of the millions of events that a file may hold.

    file  = ["RIFF" size "RMID" ... "data" size] chunk*
    chunk = name(4) size(4) bytes;  "MThd" holds type(2) tracks(2) division(2), "MTrk" events, others are passed over
    event = delta(varint) [status] data: without a status byte the one before it counts (running status)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

from audiogen.core.errors import UserError

MAX_BYTES = 16_000_000
MAX_NOTES = 250_000  # about ten symphonies
MAX_EVENTS = 4 * MAX_NOTES
NOTE_OFF, NOTE_ON, PROGRAM, META = 0x80, 0x90, 0xC0, 0xFF
NAME, END, TEMPO, METRE, KEY = 0x03, 0x2F, 0x51, 0x58, 0x59
_TOO_MANY = f"it has more than {MAX_NOTES} notes; cut out the passage that is meant"
_KEPT = (NAME, TEMPO, METRE, KEY)
# Data bytes of a channel message by its upper four bits, 8x .. Ex, and of the system messages F1 .. FE.
_CHANNEL_BYTES = {0x80: 2, 0x90: 2, 0xA0: 2, 0xB0: 2, 0xC0: 1, 0xD0: 1, 0xE0: 2}
_SYSTEM_BYTES = {0xF1: 1, 0xF2: 2, 0xF3: 1}

# (tick, track, status, first, second): for notes channel | status, pitch, velocity; for META its type and bytes
Event = tuple[int, int, int, int, "int | bytes"]


@dataclass(frozen=True)
class MidiEvents:
    """The events of a file that say something about notes, in order of time; of one time, in order of the tracks."""

    events: list[Event]
    last_tick: int  # where the longest track ends
    ticks_per_beat: int  # 0 in SMPTE files, whose ticks are parts of a second
    ticks_per_second: float  # 0 in the others


def read_events(data: bytes) -> MidiEvents:
    """Raises `UserError` (without the file's name) where this is no MIDI file, a broken one, or far too large a one.

    Read all the same: fewer tracks than the header names, chunks of other kinds, bytes after the last chunk, data bytes
    above 127 (taken as 127), a track without its end, events after it (passed over).
    """
    if len(data) > MAX_BYTES:
        raise UserError(f"it has {len(data) / 1e6:.1f} MB, the limit is {MAX_BYTES // 1_000_000}; cut out a passage")
    chunks = _chunks(_unwrapped(data))
    kind, header = next(chunks, (b"", b""))
    if kind != b"MThd" or len(header) < 6:
        raise UserError("it does not begin with a MIDI header")
    midi_type, division = int.from_bytes(header[:2], "big"), int.from_bytes(header[4:6], "big")
    ticks_per_beat, ticks_per_second = division, 0.0
    if division & 0x8000:  # negative frames a second, and ticks a frame
        frames = {24: 24.0, 25: 25.0, 29: 30 / 1.001, 30: 30.0}.get(256 - (division >> 8))
        if not frames or not division & 0xFF:
            raise UserError(f"its time division {division:#06x} is no SMPTE rate")
        ticks_per_beat, ticks_per_second = 0, frames * (division & 0xFF)
    elif division == 0:
        raise UserError("its time division is 0: it has no time line")
    tracks = [body for name, body in chunks if name == b"MTrk"]
    if midi_type == 2 and len(tracks) > 1:
        raise UserError("it is of type 2 (independent patterns), which has no one time line; save it as type 1")
    events: list[Event] = []
    last = max((_read_track(body, number, events) for number, body in enumerate(tracks)), default=0)
    if sum(status & 0xF0 == NOTE_ON and bool(velocity) for _, _, status, _, velocity in events) > MAX_NOTES:
        raise UserError(_TOO_MANY)
    events.sort(key=itemgetter(0))  # stable: the order of tracks, and within a track, stays
    return MidiEvents(events, last, ticks_per_beat, ticks_per_second)


def _unwrapped(data: bytes) -> bytes:
    """The MIDI file inside a RIFF file of the kind RMID; other data as it is."""
    if data[:4] != b"RIFF" or data[8:12] != b"RMID":
        return data
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"data":
            return data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    raise UserError("it is a RIFF file without MIDI data in it")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "big")
        if at + 8 + size > len(data):
            if name in (b"MThd", b"MTrk"):
                raise UserError(f"it is cut off: a chunk of {size} bytes has {len(data) - at - 8}")
            return
        yield name, data[at + 8 : at + 8 + size]
        at += 8 + size


def _read_track(data: bytes, track: int, events: list[Event]) -> int:
    """Append one track's events that matter; returns its last tick. The plain loop is the speed of the whole reader."""
    at, tick, status, end = 0, 0, 0, len(data)
    try:
        while at < end:
            byte = data[at]
            at += 1
            if byte < 0x80:
                tick += byte
            else:
                delta, at = _varint(data, at - 1)
                tick += delta
            byte = data[at]
            if byte >= 0xF0:
                at += 1
                if byte == META:
                    kind = data[at]
                    size, at = _varint(data, at + 1)
                    if kind == END:
                        break
                    if at + size > end:
                        raise IndexError
                    if kind in _KEPT:
                        events.append((tick, track, META, kind, data[at : at + size]))
                    at += size
                elif byte in (0xF0, 0xF7):  # system exclusive, whole or in parts
                    size, at = _varint(data, at)
                    if at + size > end:
                        raise IndexError
                    at += size
                else:
                    at += _SYSTEM_BYTES.get(byte, 0)
                continue
            if byte >= 0x80:
                status = byte
                at += 1
            elif not status:
                raise UserError(f"track {track + 1} has data without a status byte: it is damaged")
            kind = status & 0xF0
            if kind <= NOTE_ON:
                events.append((tick, track, status, min(data[at], 127), min(data[at + 1], 127)))
                at += 2
            elif kind == PROGRAM:
                events.append((tick, track, status, min(data[at], 127), 0))
                at += 1
            else:
                at += _CHANNEL_BYTES[kind]
            if len(events) > MAX_EVENTS:
                raise UserError(_TOO_MANY)
    except IndexError:
        raise UserError(f"track {track + 1} ends in the middle of an event: it is damaged") from None
    return tick


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to four groups of seven bits, and the place after it."""
    value = 0
    for _ in range(4):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    raise UserError("it holds a length of more than four bytes: it is damaged")

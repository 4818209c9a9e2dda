"""Pieces for an ensemble: melody, harmony, bass and drums in one style, one key, one form, around what the user fixed.

Order of work, each step bound by the ones before it: what was asked for -> metre, tempo, key -> form and chords ->
melody (or four voices) -> accompaniment. `Piece.readings` says in words what was decided where wishes contradict.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from audiogen.composers.chords import Bar, Symbol, degree, key_of, outside, progression, written
from audiogen.composers.constraints import MAX_BARS, Constraints, Rhythm, in_beats, read_rhythm, roles
from audiogen.composers.harmonise import harmonise
from audiogen.composers.harmony import Key, best_key, nearest, random_key
from audiogen.composers.melody import Onset, line
from audiogen.composers.parts import GATE, Part, bass_part, drum_part, harmony_part, without_overlaps
from audiogen.composers.patterns import events
from audiogen.composers.rhythms import Metre
from audiogen.composers.styles import PARTS, STYLES, Style, find_form, instruments_named, style_of_form, without_form
from audiogen.composers.voice_leading import four_voices
from audiogen.conditioning.instruments import INSTRUMENTS, Instrument, find_instrument
from audiogen.conditioning.prompts import FORMS, MusicalPlan, parse_prompt, plan_prompt
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.score import Note, Score

MAX_GIVEN = 20_000  # notes
# What an instrument plays when it plays alone, by its family.
SOLO = {"drums": ("drums",), "bass": ("bass",), "lead": ("melody",), "drone": ("melody",)}
SOLO_CHORDS = ("melody", "harmony", "bass")
STAND_INS = {"melody": "flute", "harmony": "grand piano", "bass": "double bass", "drums": "drum kit"}
_MOTIFS = (0, 1, 0, 1, 0, 1, 2, 2)  # which of a section's rhythms each of its bars has
FREE_CHOICE = ("folk", "pop", "ballad", "march", "etude")  # where nothing names a form


@dataclass(frozen=True)
class Piece:
    """A score, and what the composer can say about it."""

    score: Score
    form: str  # a key of FORMS
    chords: str  # bar by bar, as chords.progression reads them
    sections: str  # the letter of each section: "AABA"
    parts: dict[str, str]  # part -> instrument
    readings: tuple[str, ...] = ()  # what was made of wishes that contradict, a sentence each


def asks_for_ensemble(prompt: Prompt, constraints: Constraints) -> bool:
    """A form and no instrument, several instruments in the text, or any constraint ask for it."""
    if constraints:
        return True
    if prompt.styles:
        names = [name for name, _ in prompt.styles]
        return not any(find_instrument(n) or instruments_named(n) for n in names) and any(find_form(n) for n in names)
    named = instruments_named(prompt.text)
    return len(named) > 1 or not named and parse_prompt(prompt.text).form is not None


def compose_piece(prompt: Prompt, constraints: Constraints, *, seconds: float, rng: random.Random) -> Piece:
    """Raises `UserError` where what was asked for cannot be."""
    return _Writer(prompt, constraints, seconds, rng).piece()


@dataclass
class _Given:
    """The user's notes: their parts, and the bar from which the composer goes on in each."""

    parts: dict[str, list[Note]] = field(default_factory=dict)
    until: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, score: Score | None, metre: Metre) -> _Given:
        if score is None:
            return cls()
        parts = roles(score.notes)
        ends = {part: max(note.beat + note.beats for note in notes) for part, notes in parts.items()}
        return cls(parts, {part: max(1, math.ceil(end / metre.length - 1e-3)) for part, end in ends.items()})


class _Writer:
    """One piece: everything chosen in order, from one random source."""

    def __init__(self, prompt: Prompt, fixed: Constraints, seconds: float, rng: random.Random) -> None:
        self.rng, self.fixed, self.readings = rng, fixed, []
        notes = in_beats(fixed.notes) if fixed.notes is not None else None
        if notes is not None and not 0 < len(notes.notes) <= MAX_GIVEN:
            raise UserError(f"the given score has {len(notes.notes)} notes; give one with 1 to {MAX_GIVEN}")
        self._own_onsets: dict[int, set[float]] = {}  # bar -> where in it the given melody's notes start
        self.form, plan = self._form(prompt)
        self.style: Style = style_of_form(self.form)
        self.metre = Metre.named(self._metre(prompt, plan, notes))
        self.given = _Given.of(notes, self.metre)
        self.players = self._players(prompt)
        self.bpm = self._tempo(plan, notes)
        bars = progression(fixed.chords, self.metre) if fixed.chords else []
        self.key_name = self._key(prompt, plan, bars, notes)
        self.key = Key.named(self.key_name)
        self.bars = self._length(seconds, bars)
        self.rhythm: Rhythm | None = read_rhythm(fixed.rhythm, self.metre) if fixed.rhythm else None
        self.sections = self._sections(len(bars))
        self.harmony = self._harmony(bars)
        energy = 0.5 if plan.energy is None else plan.energy
        self.loud = 82 + 16 * (energy - 0.5)  # MIDI velocity of an accented melody note
        if self.rhythm and "melody" in self.given.parts:
            self.readings.append("the given notes keep their own rhythm; the rhythm asked for begins after them")

    # ------------------------------------------------------------------ what was asked for

    def _form(self, prompt: Prompt) -> tuple[str, MusicalPlan]:
        named = [form for name, _ in sorted(prompt.styles, key=lambda style: -style[1]) if (form := find_form(name))]
        text = prompt.text
        said = parse_prompt(text).form
        if named and said and said != named[0]:
            self.readings.append(f"the style asked for is {named[0]}; the text's {said} is passed over")
        while named and (other := parse_prompt(text).form) and other != named[0]:
            text = without_form(text, other)
        if named:
            form = named[0]
        elif said:
            form = said
        else:
            metre = prompt.metre or parse_prompt(text).metre
            fitting = [form for form in FREE_CHOICE if metre in (None, FORMS[form].metre)]
            fitting = fitting or [form for form in STYLES if FORMS[form].metre == metre] or list(FREE_CHOICE)
            form = self.rng.choice(fitting)
        return form, plan_prompt(replace(prompt, text=f"{text} {form}"))

    def _metre(self, prompt: Prompt, plan: MusicalPlan, notes: Score | None) -> str:
        asked = prompt.metre is not None or parse_prompt(prompt.text).metre not in (None, FORMS[self.form].metre)
        metre = plan.metre if asked or notes is None else notes.metre
        own = FORMS[self.form].metre
        if metre != own and prompt.styles:
            whose = "as asked" if asked else "the metre of the given notes"
            self.readings.append(f"{self.form} is {own} by custom; written in {metre}, {whose}")
        if asked and notes is not None and notes.metre != metre:
            self.readings.append(f"the given notes are in {notes.metre}; their beats are kept, barred in {metre}")
        return metre

    def _tempo(self, plan: MusicalPlan, notes: Score | None) -> float:
        if plan.bpm is not None:
            return plan.bpm
        if notes is not None:
            return notes.bpm
        return float(round(self.rng.uniform(*(plan.bpm_range or FORMS[self.form].bpm_range))))

    def _key(self, prompt: Prompt, plan: MusicalPlan, bars: Sequence[Bar], notes: Score | None) -> str:
        found = key_of(bars) if any(slot.chord for bar in bars for slot in bar) else None
        if notes is not None and found is None:
            weights = [0.0] * 12
            for note in notes.notes:
                if not note.drum:
                    weights[note.pitch % 12] += note.beats
            found = notes.key or (best_key(weights) if max(weights) > min(weights) else None)
        if plan.key is None:
            if found:
                return found
            return random_key(plan.mode or self.rng.choice(("major", "major", "minor")), self.rng)
        strange = outside(bars, Key.named(plan.key))
        if strange:
            self.readings.append(f"{', '.join(strange)} lie outside {plan.key}; the chords are kept as written")
        elif notes is not None and not bars and found and Key.named(found) != Key.named(plan.key):
            self.readings.append(f"the given notes sound like {found}; they are kept, the rest is in {plan.key}")
        return plan.key

    def _players(self, prompt: Prompt) -> dict[str, Instrument]:
        """part -> who plays it: the parts asked for, else those of the instruments named, else the style's."""
        names = [name for name, _ in sorted(prompt.styles, key=lambda style: -style[1])]
        named = [row for name in names if (row := find_instrument(name) or next(iter(instruments_named(name)), None))]
        named = named or instruments_named(prompt.text)
        wanted = self.fixed.parts
        if not wanted and len(named) == 1:
            wanted = SOLO.get(named[0].family, SOLO_CHORDS)
            return dict.fromkeys((part for part in PARTS if part in wanted), named[0])
        players: dict[str, Instrument] = {}
        for row in named:
            own = {"drums": "drums", "bass": "bass"}.get(row.family)
            places = [own] if own else ["melody", "harmony", "bass"] if row.polyphonic else ["melody", "harmony"]
            place = next((part for part in places if part not in players), None)
            if place is None:
                self.readings.append(f"{row.name} has no part of its own here and is left out")
            else:
                players[place] = row
        wanted = wanted or (tuple(players) if players else tuple(self.style.instruments))
        if self.fixed.parts and set(players) - set(wanted):
            left = ", ".join(players[part].name for part in players if part not in wanted)
            self.readings.append(f"{left} would play a part that was not asked for")
        return {
            part: players.get(part) or INSTRUMENTS[self.style.instruments.get(part, STAND_INS[part])]
            for part in PARTS
            if part in wanted
        }

    def _length(self, seconds: float, chords: Sequence[Bar]) -> int:
        """The number of bars: those asked for, or as many as last `seconds`; chords are played whole."""
        longest = max(self.given.until.values(), default=0)
        if self.fixed.bars is not None:
            if longest > self.fixed.bars:
                raise UserError(f"the given notes last {longest} bars, and bars={self.fixed.bars} is less; cut them")
            if len(chords) > self.fixed.bars:
                self.readings.append(
                    f"of {len(chords)} bars of chords the first {self.fixed.bars} are played, as bars={self.fixed.bars}"
                )
            return self.fixed.bars
        bars = max(1, math.ceil(seconds * self.bpm / 60 / self.metre.length - 1e-6))
        if longest > bars:
            self.readings.append(f"the given notes last {longest} bars, longer than {seconds:g} s; all are kept")
        bars = max(bars, longest)
        if chords:
            bars = math.ceil(bars / len(chords)) * len(chords)
        if bars > MAX_BARS:
            raise UserError(f"{bars} bars are too many; ask for at most {MAX_BARS}")
        return bars

    # ------------------------------------------------------------------ form and chords

    def _sections(self, cycle: int) -> list[tuple[str, int, int]]:
        """[(letter, first bar, bar after the last)]."""
        table = self._table()
        found, start, index = [], 0, 0
        while start < self.bars:
            letter = self.style.order[index % len(self.style.order)]
            length = cycle or len(table[letter])
            found.append((letter, start, min(start + length, self.bars)))
            start, index = start + length, index + 1
        return found

    def _table(self) -> dict[str, list[Bar]]:
        texts = self.style.minor if self.key.mode == "minor" else self.style.major
        return {name: progression(text, self.metre, self._degree) for name, text in texts.items()}

    def _degree(self, text: str) -> Symbol:
        return degree(text, self.key)

    def _harmony(self, chords: list[Bar]) -> list[Bar]:
        if chords:
            return [chords[number % len(chords)] for number in range(self.bars)]
        table = self._table()
        bars = [table[letter][number] for letter, start, end in self.sections for number in range(end - start)]
        melody = self.given.parts.get("melody")
        free = 0
        if melody:
            free = self.given.until["melody"]
            changes = 2 if self.style.four_part and len(self.metre.beats) % 2 == 0 else 1
            bars[:free] = harmonise(melody, free, self.metre, self.key, changes=changes)
        if not self.style.loop:
            small = self.key.mode == "minor"
            last = [f"{'iv' if small else 'IV'} . V ." if self.style.four_part else "V7", "i" if small else "I"]
            for number, text in zip((self.bars - 2, self.bars - 1), last, strict=True):
                if number >= max(free, 0 if text in "iI" else 1):
                    bars[number] = progression(f"{text} |", self.metre, self._degree)[0]
        return bars

    # ------------------------------------------------------------------ melody

    def _melody(self, low: int, high: int) -> Part:
        """A rhythm for each letter of the form, repeated with its contour; the same section sounds the same again."""
        first = self.given.until.get("melody", 0)
        own = self.given.parts.get("melody", [])
        before = [note.pitch for note in own][-2:]
        memory: dict[str, tuple[list[Onset], list[int]]] = {}
        rhythms = {letter: self._rhythms() for letter in dict.fromkeys(self.style.order)}
        part: Part = []
        for letter, start, end in self.sections:
            onsets: list[Onset] = []
            for number in range(max(start, first), end):
                onsets += self._onsets(number, number - start, end - start, rhythms[letter], own)
            shifted = [onset._replace(at=onset.at - start * self.metre.length) for onset in onsets]
            known, pitches = memory.get(letter, ([], []))
            same = 0
            for mine, theirs in zip(shifted, known, strict=False):
                if mine != theirs:
                    break
                same += 1
            if same and before and abs(pitches[0] - before[-1]) > 12:
                same = 0  # the repeat would begin with a leap
            sung = list(pitches[:same])
            sung += self._continue(onsets[same:], low, high, start, sung or before)
            if letter not in memory:
                memory[letter] = (shifted, sung)
            before = sung[-2:] or before
            part += [
                (onset.at, onset.beats * GATE, pitch, (0.84, 0.93, 1.0)[onset.strong])
                for onset, pitch in zip(onsets, sung, strict=True)
            ]
        return part

    def _continue(self, onsets: list[Onset], low: int, high: int, start: int, before: Sequence[int]) -> list[int]:
        """Pitches two bars at a time, so that later bars of the same rhythm can follow the contour of the first."""
        sung: list[int] = []
        contour: dict[float, int] = {}  # place in the two bars -> semitones from the note before, as first sung
        double = 2 * self.metre.length
        places = [round((onset.at - start * self.metre.length) % double, 6) for onset in onsets]
        index = 0
        while index < len(onsets):
            turn = int((onsets[index].at - start * self.metre.length + 1e-6) // double)
            stop = index
            while stop < len(onsets) and int((onsets[stop].at - start * self.metre.length + 1e-6) // double) == turn:
                stop += 1
            chunk = [
                onset._replace(motif=contour.get(place))
                for onset, place in zip(onsets[index:stop], places[index:stop], strict=True)
            ]
            came = [*before, *sung][-2:]
            new = line(chunk, self.key, low, high, self.rng, before=came, colour=self.style.colour)
            if not contour:
                contour = {
                    place: b - a for place, a, b in zip(places[index + 1 : stop], new, new[1:], strict=False)
                }
            sung += new
            index = stop
        return sung

    def _rhythms(self) -> tuple[str, str, str]:
        """The first bar, the one that answers it, and another."""
        chosen = self.rng.sample(self.style.rhythms, min(3, len(self.style.rhythms)))
        return tuple((chosen * 3)[:3])

    def _onsets(
        self, number: int, place: int, length: int, rhythms: tuple[str, str, str], own: Sequence[Note]
    ) -> list[Onset]:
        """One bar of melody without pitches. `place`: which bar of its section of `length` bars it is."""
        start, style = number * self.metre.length, self.style
        final = number == self.bars - 1 and not style.loop and self.bars > 1
        closes = place % style.phrase == style.phrase - 1 or final
        if self.rhythm:
            times = [(at - start, beats) for at, beats in self.rhythm.between(start, start + self.metre.length)]
        elif final:
            times = [(0.0, self.metre.length)]
        else:
            name = style.close if closes else rhythms[_MOTIFS[place % 8]]
            times = [(at, beats) for at, beats, _ in events(name, self.metre, style.swing, style.swung)]
            mine = self._own_rhythm(number, own)
            if mine and not closes:
                times = mine
        beats_here = {round(at, 6) for at, _ in self.metre.beats}
        onsets = []
        for index, (at, beats) in enumerate(times):
            slot = self._slot(number, at, beats)
            strong = 2 if at < 1e-6 or abs(at - slot.at) < 1e-6 else 1 if round(at, 6) in beats_here else 0
            goal: tuple[int, ...] = ()
            if closes and index == len(times) - 1 and slot.chord is not None:
                home = place == length - 1 or final
                goal = (self.key.tonic,) if home and self.key.tonic in slot.chord.tones else slot.chord.tones[:3]
            onsets.append(Onset(start + at, beats, strong, slot.chord, goal))
        return onsets

    def _own_rhythm(self, number: int, own: Sequence[Note]) -> list[tuple[float, float]]:
        """The rhythm of the given notes, bar by bar, for the bars that go on from them."""
        if not own:
            return []
        if not self._own_onsets:
            for note in own:
                bar, at = divmod(note.beat + 1e-6, self.metre.length)
                self._own_onsets.setdefault(int(bar), set()).add(round(max(at - 1e-6, 0.0), 6))
        here = sorted(self._own_onsets.get(number % self.given.until["melody"], ()))
        ends = [*here, self.metre.length][1:]
        return [(at, end - at) for at, end in zip(here, ends, strict=True) if end - at > 1e-3]

    def _slot(self, number: int, at: float, beats: float):
        """The chord that a note belongs to: of the chords it sounds over the one that lasts longest under it, but the
        one it starts on where it starts on a beat."""
        bar = self.harmony[number]
        on_beat = any(abs(at - beat) < 1e-6 for beat, _ in self.metre.beats)

        def under(slot):
            if on_beat:
                return slot.at <= at + 1e-6 < slot.at + slot.beats
            return min(at + beats, slot.at + slot.beats) - max(at, slot.at)

        return max(bar, key=under)

    # ------------------------------------------------------------------ four voices

    def _four_parts(self) -> dict[str, Part]:
        moments = []  # (at, beats, chord)
        for number, bar in enumerate(self.harmony):
            start = number * self.metre.length
            final = number == self.bars - 1 and self.bars > 1
            pattern = self.style.harmony[number % len(self.style.harmony)]
            shape = [(0.0, self.metre.length)] if final else [e[:2] for e in events(pattern, self.metre)]
            cuts = sorted({round(at, 6) for at, _ in shape} | {round(slot.at, 6) for slot in bar})
            for at, end in zip(cuts, [*cuts[1:], self.metre.length], strict=True):
                slot = next(slot for slot in reversed(bar) if slot.at <= at + 1e-6)
                if slot.chord is not None:
                    moments.append((start + at, end - at, slot.chord))
        melody = self.given.parts.get("melody", [])
        starts = [note.beat for note in melody]
        sung: list[int | None] = []
        for at, _, _ in moments:  # the given note that sounds there
            last = bisect_right(starts, at + 1e-6) - 1
            sung.append(melody[last].pitch if last >= 0 and sum((melody[last].beat, melody[last].beats)) > at else None)
        ranges = {
            voice: (max(low, self.players[part].low), min(high, self.players[part].high))
            for voice, part, low, high in (("bass", "bass", 40, 60), ("tenor", "harmony", 48, 67),
                                           ("alto", "harmony", 55, 74), ("soprano", "melody", 60, 79))
            if part in self.players and min(high, self.players[part].high) - max(low, self.players[part].low) >= 12
        }
        voices = four_voices([chord for _, _, chord in moments], self.key, self.rng, soprano=sung, ranges=ranges)
        parts: dict[str, Part] = {"melody": [], "harmony": [], "bass": []}
        for (at, beats, _), (bass, tenor, alto, soprano) in zip(moments, voices, strict=True):
            parts["bass"].append((at, beats * GATE, bass, 0.8))
            parts["harmony"] += [(at, beats * GATE, tenor, 0.68), (at, beats * GATE, alto, 0.7)]
            parts["melody"].append((at, beats * GATE, soprano, 0.95))
        if self.rhythm:
            tune = parts["melody"]
            parts["melody"] = [
                (at, beats * GATE, next((n[2] for n in reversed(tune) if n[0] <= at + 1e-6), tune[0][2]), 0.95)
                for at, beats in self.rhythm.between(0, self.bars * self.metre.length) if tune
            ]
        after = {part: self.given.until.get(part, 0) * self.metre.length for part in parts}
        return {part: [n for n in notes if n[0] >= after[part] - 1e-6] for part, notes in parts.items()}

    # ------------------------------------------------------------------ all together

    def piece(self) -> Piece:
        written_parts = self._parts()
        end = self.bars * self.metre.length
        notes: list[Note] = []
        for part, row in self.players.items():
            for note in self.given.parts.get(part, ()):
                notes.append(note if note.instrument else
                             replace(note, instrument=row.name, program=note.program or row.program))
            own = _to_the_end(without_overlaps([n for n in written_parts.get(part, ()) if n[0] < end - 1e-6]), end,
                              last_bar=end - self.metre.length)
            notes += [
                Note(0.0, 0.0, pitch, min(max(round(self.loud * loud + self.rng.uniform(-3, 3)), 1), 127), beat,
                     beats, row.name, row.program, row.drum)
                for beat, beats, pitch, loud in own
            ]
        for part, given in self.given.parts.items():
            if part not in self.players:
                notes += given
        key = self.key_name if any(not note.drum for note in notes) else None
        score = Score.from_beats(notes, bpm=self.bpm, metre=self.metre.name, key=key, title=self.form)
        return Piece(
            score, self.form, written(self.harmony, self.metre), "".join(letter for letter, _, _ in self.sections),
            {part: row.name for part, row in self.players.items()}, tuple(self.readings),
        )

    def _parts(self) -> dict[str, Part]:
        """What the composer writes in each part, which begins where the user's notes of that part have ended."""
        parts: dict[str, Part] = {}
        shared = len({row.name for row in self.players.values()}) == 1 < len(self.players)
        until = self.given.until
        if self.style.four_part and "melody" in self.players:
            parts = self._four_parts()
        for part, row in self.players.items():
            low, high = _register(part, row, shared=shared)
            if part == "drums":
                ends = [end - 1 for _, start, end in self.sections if end - start >= 4]
                parts[part] = drum_part(self.bars, self.metre, self.style, ends, first=until.get(part, 0))
            elif part in parts:
                continue
            elif part == "melody":
                parts[part] = self._melody(low, high)
            elif part == "harmony":
                parts[part] = harmony_part(self.harmony, self.metre, self.style, low, high, polyphonic=row.polyphonic,
                                           first=until.get(part, 0))
            else:
                parts[part] = bass_part(self.harmony, self.metre, self.style, self.key, low, high, self.rng,
                                        first=until.get(part, 0))
        return parts


def _register(part: str, row: Instrument, *, shared: bool) -> tuple[int, int]:
    """Where a part lies in an instrument's range; one that plays several parts has a place for each."""
    low, high = row.low, row.high
    if part == "bass":
        return low, min(low + 18, high)
    if shared and part == "melody":
        middle = low + round(0.55 * (high - low))
        return middle, min(middle + 17, high)
    if shared:
        middle = low + round(0.25 * (high - low))
        return middle, min(middle + 16, high)
    if part == "melody":
        start = low + max(0, round((high - low - 17) * 0.6))
        return start, min(start + 17, high)
    start = nearest(tuple(range(12)), 50, low, max(low, high - 20)) if high - low > 20 else low
    return start, min(start + 22, high)


def _to_the_end(part: Part, end: float, *, last_bar: float) -> Part:
    """The notes of the last bar that end last are held to the end of the piece, so that the whole time is filled."""
    stop = max((at + beats for at, beats, _, _ in part if at >= last_bar - 1e-6), default=None)
    if stop is None:
        return part
    return [
        (at, end - at if at >= last_bar - 1e-6 and at + beats >= stop - 1e-6 else min(beats, end - at), pitch, loud)
        for at, beats, pitch, loud in part
    ]

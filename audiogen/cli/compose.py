"""audiogen compose: the score of a prompt, as a MIDI file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from audiogen.core.errors import UserError

SECONDS = 16.0


@dataclass(frozen=True)
class Compose:
    """Write the score of a prompt as MIDI.

    An instrument gets a piece of its own; a style such as waltz, jig, chorale, blues, ragtime, lo-fi, techno, rock or
    bossa nova one for its ensemble: melody, harmony, bass and drums. Tempo, key, metre, chords, rhythm and notes are
    kept to exactly where they are given. The tempo counts quarter notes.

    examples:
      audiogen compose --style waltz --key Am --bpm 90 -o waltz.mid
      audiogen compose "slow waltz for cello" --key Am --seconds 16 -o cello.mid
      audiogen compose --style rock --chords "Am | F . C G" --parts melody,bass,drums -o song.mid
      audiogen compose --style "bossa nova" --notes motif.mid --bars 16 -o around.mid
      audiogen compose --composer seq2seq --chords "Am F C G" --attention map.png -o melody.mid
      audiogen compose --composer seq2seq --melody tune.mid -o with_accompaniment.mid
      audiogen compose --composer music_transformer --continue tune.mid --seconds 30 -o longer.mid
    """

    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE")]
    """Where the MIDI file goes."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """What it should be: an instrument, a form, a mood."""
    seconds: Annotated[float | None, arg(metavar="SECONDS", help_behavior_hint="(default: 16)")] = None
    """At least this long, in whole bars; chords that are given are played to their end."""
    bars: Annotated[int | None, arg(metavar="BARS", help_behavior_hint="(default: by --seconds)")] = None
    """Exactly so many bars."""
    style: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: from the prompt)")] = None
    """A style (waltz, techno, ...) or the instrument that is written for."""
    bpm: Annotated[float | None, arg(metavar="BPM", help_behavior_hint="(default: from the prompt)")] = None
    """Quarter notes per minute."""
    key: Annotated[str | None, arg(metavar="KEY", help_behavior_hint="(default: from the prompt)")] = None
    """Such as "A minor", Am, F# or "Bb major"."""
    metre: Annotated[str | None, arg(metavar="METRE", help_behavior_hint="(default: from the prompt)")] = None
    """Such as 4/4, 3/4 or 6/8."""
    chords: Annotated[str, arg(metavar="CHORDS", help_behavior_hint="(default: the composer's)")] = ""
    """A bar each, "Am F C G", or with bar lines "Am | F . C G | Dm7": those of a bar share its beats, "." holds, "%"
    is the bar before. They are played again and again."""
    rhythm: Annotated[str, arg(metavar="RHYTHM", help_behavior_hint="(default: the composer's)")] = ""
    """Of the melody: a bar as cells, "x..x ..x." ("-" holds, "|" parts bars), or quarter notes, "1 1/2 1/2 r1"."""
    notes: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """A MIDI file whose notes are kept as they are: other parts are written around them, and they are continued."""
    melody: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """A MIDI file, all of it melody, to which --composer seq2seq writes the other parts."""
    beginning: Annotated[Path | None, arg(name="continue", metavar="FILE", help_behavior_hint="(default: none)")] = None
    """A MIDI file that a learned composer goes on from, up to --seconds, or for 16 seconds more."""
    attention: Annotated[Path | None, arg(metavar="PNG", help_behavior_hint="(default: none)")] = None
    """Where a picture goes of what --composer seq2seq looked at while it wrote."""
    parts: Annotated[str, arg(metavar="PARTS", help_behavior_hint="(default: the style's)")] = ""
    """Some of melody,harmony,bass,drums."""
    seed: Annotated[int, arg(metavar="INT")] = 0
    """Another seed, another tune."""
    composer: Annotated[str, arg(metavar="NAME")] = "rules"
    """Who writes it: rules, a learned composer's name, or its checkpoint folder. seq2seq: the one that takes what is
    given: chords, a melody, or a beginning."""

    def run(self) -> int:
        from audiogen.composers import load_composer
        from audiogen.composers.constraints import Constraints
        from audiogen.composers.ensemble import asks_for_ensemble
        from audiogen.composers.given import Given
        from audiogen.composers.rules import RuleComposer
        from audiogen.core.interfaces import Prompt
        from audiogen.core.rng import SampleRng
        from audiogen.core.score import Score

        if self.out.suffix.lower() not in (".mid", ".midi"):
            raise UserError(f"{self.out} must end in .mid: compose writes MIDI files")
        if self.bars is not None and self.seconds is not None:
            raise UserError(f"--bars {self.bars} and --seconds {self.seconds:g} say the length twice; give one of them")
        constraints = Constraints(
            chords=self.chords,
            rhythm=self.rhythm,
            notes=None if self.notes is None else Score.read(self.notes),
            parts=tuple(part.strip() for part in self.parts.split(",")) if self.parts else (),
            bars=self.bars,
        )
        learned = self.composer != "rules"
        given = Given(self.chords if learned else "", self.melody, self.beginning)
        if not (self.prompt or self.style or constraints or given.task):
            raise UserError('nothing says what to compose: write a prompt such as "slow waltz", or --style waltz')
        prompt = Prompt(
            text=self.prompt,
            styles=((self.style, 1.0),) if self.style else (),
            bpm=self.bpm,
            key=self.key,
            metre=self.metre,
            seconds=SECONDS if self.seconds is None else self.seconds,
        )
        name, rng = given.composer(self.composer), SampleRng(self.seed)
        composer = load_composer(name)
        said: list[str] = []
        if isinstance(composer, RuleComposer):
            if given.task or self.attention:
                raise UserError("--melody, --continue and --attention are for learned composers; the rules keep notes "
                                "that are given by --notes, write around them and go on from them")
            composer = RuleComposer(constraints)
            _check_style(self.style)
        else:
            if replace(constraints, chords=""):
                raise UserError(f"--rhythm, --notes, --parts and --bars are for the rules, not {name!r}")
            given.check(composer.config.task, name)
            prompt = given.to(prompt, beyond=self.seconds is None)
        if isinstance(composer, RuleComposer) and asks_for_ensemble(prompt, constraints):
            piece = composer.piece(prompt, seconds=prompt.seconds, rng=rng)
            score, said = piece.score, [f"read as: {reading}" for reading in piece.readings]
            said.append(f"{piece.form}, {piece.sections}: {piece.chords}")
        elif self.attention is not None:
            if not hasattr(composer, "compose_and_show"):
                raise UserError(f"--attention shows what --composer seq2seq looks at; {name!r} is given nothing")
            score = composer.compose_and_show(prompt, self.attention, seconds=prompt.seconds, rng=rng)
        else:
            score = composer.compose(prompt, seconds=prompt.seconds, rng=rng)
        score.save(self.out)
        print(
            f"{self.out}: {', '.join(score.instruments)}, {len(score.notes)} notes, {score.seconds:.1f} s, "
            f"{score.bpm:g} bpm, {score.metre}" + (f", {score.key}" if score.key else "")
        )
        for line in said:
            print(f"  {line}")
        return 0


def _check_style(name: str | None) -> None:
    """Raise `UserError` with the nearest names where a style is neither a form nor an instrument."""
    from audiogen.composers.styles import find_form, unknown_style
    from audiogen.conditioning.instruments import find_instrument, instruments_in

    if name is not None and not (find_form(name) or find_instrument(name) or instruments_in(name)):
        raise unknown_style(name)

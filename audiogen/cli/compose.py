"""audiogen compose: the score of a prompt, as a MIDI file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Compose:
    """Write the score of a prompt as MIDI.

    Tempo, key and metre are kept to exactly where they are given, here or in the words. The tempo counts quarter notes.

    examples:
      audiogen compose "slow waltz for cello" --key Am --seconds 16 -o waltz.mid
      audiogen compose "rock drums" --bpm 120 -o beat.mid
    """

    prompt: Annotated[Positional[str], arg(metavar="PROMPT")]
    """What it should be: an instrument, a form, a mood."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE")]
    """Where the MIDI file goes."""
    seconds: Annotated[float, arg(metavar="SECONDS")] = 16.0
    """At least this long, in whole bars."""
    style: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: from the prompt)")] = None
    """The instrument that is written for."""
    bpm: Annotated[float | None, arg(metavar="BPM", help_behavior_hint="(default: from the prompt)")] = None
    """Quarter notes per minute."""
    key: Annotated[str | None, arg(metavar="KEY", help_behavior_hint="(default: from the prompt)")] = None
    """Such as "A minor", Am, F# or "Bb major"."""
    metre: Annotated[str | None, arg(metavar="METRE", help_behavior_hint="(default: from the prompt)")] = None
    """Such as 4/4, 3/4 or 6/8."""
    seed: Annotated[int, arg(metavar="INT")] = 0
    """Another seed, another tune."""
    composer: Annotated[str, arg(metavar="NAME")] = "rules"
    """Who writes it."""

    def run(self) -> int:
        from audiogen.core.interfaces import Prompt
        from audiogen.core.registry import resolve
        from audiogen.core.rng import SampleRng

        if self.out.suffix.lower() not in (".mid", ".midi"):
            raise UserError(f"{self.out} must end in .mid: compose writes MIDI files")
        prompt = Prompt(
            text=self.prompt,
            styles=((self.style, 1.0),) if self.style else (),
            bpm=self.bpm,
            key=self.key,
            metre=self.metre,
            seconds=self.seconds,
        )
        composer = resolve("composer", self.composer)()
        score = composer.compose(prompt, seconds=self.seconds, rng=SampleRng(self.seed))
        score.save(self.out)
        print(
            f"{self.out}: {', '.join(score.instruments)}, {len(score.notes)} notes, {score.seconds:.1f} s, "
            f"{score.bpm:g} bpm, {score.metre}" + (f", {score.key}" if score.key else "")
        )
        return 0

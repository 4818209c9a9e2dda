"""audiogen again: a clip once more, from what is written inside it; and whether it is the same, sample by sample."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from audiogen import __version__
from audiogen.cli.generate import load_engine
from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Again:
    """Make a clip again from what is written inside it, and say whether the samples are identical.

    The same checkpoint, machine, torch and number of threads give the same samples. Exit code 0: identical, 1: not.

    examples:
      audiogen again clips/rain-7.wav
      audiogen again clips/rain-7.wav -o rain-again.wav
      audiogen again old.wav --checkpoint runs/mine/engine
    """

    clip: Annotated[Positional[Path], arg(metavar="CLIP")]
    """A clip that "audiogen generate" wrote."""
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Keep what was made, in this file."""
    checkpoint: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the shipped one)")] = None
    """The checkpoint that made the clip."""
    vocoder: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the checkpoint's)")] = None
    """The vocoder, if another one than the checkpoint's made it."""
    device: Annotated[str | None, arg(metavar="DEVICE", help_behavior_hint="(default: as then)")] = None
    """cpu or cuda."""
    threads: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: as then)")] = None
    """CPU threads."""

    def run(self) -> int:
        from audiogen.core.audio import Audio

        clip = Audio.read(self.clip)
        made_by = clip.made_by
        missing = {"prompt", "seed", "sampling", "checkpoint"} - set(made_by)
        if missing:
            what = "does not say how it was made" if not made_by else f"does not say its {', '.join(sorted(missing))}"
            raise UserError(f"{self.clip} {what}: only clips that audiogen generate wrote, and no editor has changed, "
                            "can be made again")
        if made_by["audiogen"] != __version__:
            print(f"audiogen: {self.clip} was made by audiogen {made_by['audiogen']}, this is {__version__}: the "
                  "samples may differ", file=sys.stderr)
        engine = load_engine(
            self.checkpoint, vocoder=self.vocoder, device=self.device or made_by.get("device", "cpu"),
            threads=self.threads or made_by.get("threads"),
        )
        made = engine.again(made_by)
        if self.out is not None:
            made.save(self.out)
            print(self.out)
        return self._compare(clip, made)

    def _compare(self, clip, made) -> int:
        """The file holds rounded samples, so what was made goes through the same format before it is compared."""
        import soundfile
        import torch

        from audiogen.core.audio import Audio

        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / f"copy{self.clip.suffix}"
            made.save(copy, subtype=soundfile.info(self.clip).subtype)
            made = Audio.read(copy)
        if made.sample_rate == clip.sample_rate and torch.equal(made.samples, clip.samples):
            print(f"identical: all {clip.samples.numel()} samples of {self.clip}")
            return 0
        if made.samples.shape != clip.samples.shape or made.sample_rate != clip.sample_rate:
            print(f"not identical: {made.seconds:.3f} s at {made.sample_rate} Hz against {clip.seconds:.3f} s at "
                  f"{clip.sample_rate} Hz in {self.clip}; it was cut or converted after it was made")
            return 1
        then = clip.made_by.get("torch")
        difference = (made.samples - clip.samples).abs()
        print(f"not identical: {int((difference > 0).sum())} of {difference.numel()} samples differ from {self.clip}, "
              f"by at most {float(difference.max()):.2g}: another machine, torch ({then} then, now "
              f"{torch.__version__}) or number of threads, or the clip was changed")
        return 1

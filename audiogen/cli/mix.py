"""audiogen mix: a sound between two sounds, by an autoencoder's latents."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from audiogen import __version__
from audiogen.cli.generate import AUDIO_SUFFIXES, OTHER_SUFFIXES, load_engine
from audiogen.core.errors import UserError

SHIPPED = Path(__file__).parents[1] / "pretrained" / "autoencoder"


@dataclass(frozen=True)
class Mix:
    """Make a sound that lies between two sounds: both are encoded, their latents interpolated, decoded and vocoded.

    This is no cross-fade: halfway between two instruments is one instrument that has something of both. --at 0 is A and
    --at 1 is B as the autoencoder hears them, which tells what it keeps; it never sees more than a mel spectrogram.

    Both sounds begin together, at equal loudness, and the result ends with the shorter one; with --whole it lasts as
    long as the longer one, and the shorter is followed by silence. Channels are mixed down to one.

    examples:
      audiogen mix cello.wav flute.wav -o between.wav
      audiogen mix cello.wav flute.wav --at 0 --at 0.25 --at 0.5 --at 0.75 --at 1 -o series/
      audiogen mix a.wav b.wav --at 0.3 --checkpoint runs/vae/model -o c.wav
    """

    a: Annotated[Positional[Path], arg(metavar="A", help_behavior_hint="")]
    """An audio file."""
    b: Annotated[Positional[Path], arg(metavar="B", help_behavior_hint="")]
    """Another."""
    at: Annotated[UseAppendAction[tuple[float, ...]], arg(metavar="FLOAT", help_behavior_hint="(default: 0.5)")] = ()
    """How far on the way from A to B, 0 to 1; give several for a series."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE|FOLDER")] = Path(".")
    """A folder, for A+B-AT.wav, or a file (.wav .flac .ogg) where one clip is asked for. A file of that name is
    replaced."""
    whole: bool = False
    """Last as long as the longer sound."""
    checkpoint: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the shipped one)")] = None
    """A generator checkpoint that has latents (autoencoder, latent_diffusion), an engine folder or a hub repository."""
    vocoder: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the checkpoint's)")] = None
    """Another vocoder checkpoint of the same mel format."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: torch's choice)")] = None
    """CPU threads."""

    def run(self) -> int:
        from audiogen.core.audio import Audio

        targets = self._targets()
        sounds = [Audio.read(path) for path in (self.a, self.b)]
        if self.checkpoint is None and not SHIPPED.is_dir():
            raise UserError("no autoencoder is shipped with this installation: name one by --checkpoint RUN/model")
        engine = load_engine(
            self.checkpoint or str(SHIPPED), vocoder=self.vocoder, device=self.device, threads=self.threads
        )
        if not hasattr(engine.generator.model, "interpolate"):
            raise UserError(f"a {engine.generator.name} generator has no latents to mix in: name a checkpoint of an "
                            "autoencoder or of latent_diffusion by --checkpoint")
        of = [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in (self.a, self.b)]
        import torch

        made_by = {"audiogen": __version__, "checkpoint": engine.hashes, "torch": torch.__version__,
                   "device": self.device, "threads": torch.get_num_threads()}
        for at, made in zip(targets, mixed(engine, *sounds, tuple(targets), whole=self.whole), strict=True):
            told = {"mix": {"of": of, "at": at, "whole": self.whole}} | made_by
            dataclasses.replace(made, made_by=told).save(targets[at])
            print(f"{targets[at]}  {at:g} of the way from {self.a.name} to {self.b.name}  {made.seconds:.2f} s",
                  flush=True)
        return 0

    def _targets(self) -> dict[float, Path]:
        """--at -> the file to be written."""
        ats = tuple(dict.fromkeys(self.at or (0.5,)))
        for at in ats:
            if not 0 <= at <= 1:  # nan is refused too
                raise UserError(f"--at {at:g}: choose 0 (all A) to 1 (all B)")
        suffix = self.out.suffix.lower()
        if suffix in OTHER_SUFFIXES:
            raise UserError(f"{self.out}: clips are written as {', '.join(AUDIO_SUFFIXES)}")
        if suffix in AUDIO_SUFFIXES and not self.out.is_dir():
            if len(ats) > 1:
                raise UserError(f"{self.out} is one file, {len(ats)} clips are asked for: name a folder")
            targets = {ats[0]: self.out}
        else:
            targets = {at: self.out / f"{self.a.stem}+{self.b.stem}-{at:g}.wav" for at in ats}
        for target in targets.values():
            if target.resolve() in (self.a.resolve(), self.b.resolve()):
                raise UserError(f"{target} would replace its own source; choose another -o")
        return targets


def mixed(engine: Any, a: Any, b: Any, ats: tuple[float, ...], *, whole: bool = False) -> Iterator[Any]:
    """`Audio` at each of `ats` on the way from a to b, one after another. engine: a `pipeline.Engine`."""
    import torch

    from audiogen.core.audio import Audio
    from audiogen.pipeline import CEILING_DBTP, LOUDNESS_LUFS, TAIL_SECONDS, Voice
    from audiogen.signal.loudness import normalise
    from audiogen.signal.resample import resample

    rate = engine.mel.sample_rate
    tracks = []
    for sound in (a, b):
        if sound.samples.shape[-1] == 0:
            raise UserError("there is no sound in it: zero samples")
        mono = resample(sound.samples.mean(dim=0, keepdim=True), sound.sample_rate, rate)
        tracks.append(normalise(Audio(mono, rate), LOUDNESS_LUFS, CEILING_DBTP).samples)
    time = (max if whole else min)(track.shape[-1] for track in tracks)
    voice = Voice(engine.vocoder, engine.device)
    mels = []
    for track in tracks:
        fitted = torch.nn.functional.pad(track, (0, max(0, time - track.shape[-1])))[:, :time]
        mels.append(voice.analyse(Audio(fitted, rate))[0].to(engine.device))
    lead = engine.mel.lead
    for at in ats:
        with torch.inference_mode():
            mel = engine.generator.model.interpolate(*mels, at)
        samples = engine.render(mel)[0][:, lead : lead + time].clone()
        tail = min(math.ceil(TAIL_SECONDS * rate), time)
        samples[:, time - tail :] *= torch.linspace(1, 0, tail)
        yield normalise(Audio(samples, rate), LOUDNESS_LUFS, CEILING_DBTP)

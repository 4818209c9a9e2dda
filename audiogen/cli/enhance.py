"""audiogen enhance: a noisy or dull recording made clean and full."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from audiogen import __version__
from audiogen.cli.generate import AUDIO_SUFFIXES, load_engine
from audiogen.core.errors import UserError

SHIPPED = Path(__file__).parents[1] / "pretrained" / "enhancer"


@dataclass(frozen=True)
class Enhance:
    """Take noise out of a recording, and put in the high frequencies that it lacks.

    The mel spectrogram of the recording is cleaned by a diffusion model and vocoded anew, so the result is one channel
    at the model's sample rate. What a recording no longer holds is made up; another seed makes it up otherwise.

    examples:
      audiogen enhance old_tape.wav -o clean.wav
      audiogen enhance telephone.flac "violin" --seed 3 -o full.wav
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """The recording."""
    text: Annotated[Positional[str], arg(metavar="[PROMPT]", help_behavior_hint="")] = ""
    """What it is a recording of, where you know."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE")] = Path("enhanced.wav")
    """The new file: .wav, .flac or .ogg."""
    seed: Annotated[int, arg(metavar="INT")] = 0
    """The same seed gives the same sound."""
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the checkpoint's)")] = None
    """Steps of the sampler."""
    checkpoint: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the shipped one)")] = None
    """A checkpoint of the family enhancer, or an engine folder with one."""
    device: str = "cpu"
    """cpu or cuda."""

    def run(self) -> int:
        from audiogen.core.audio import Audio

        if self.out.suffix.lower() not in AUDIO_SUFFIXES:
            raise UserError(f"{self.out}: the new file must end in {', '.join(AUDIO_SUFFIXES)}")
        if self.out.resolve() == self.file.resolve():
            raise UserError(f"{self.out} would replace its own source; choose another -o")
        if self.checkpoint is None and not SHIPPED.is_dir():
            raise UserError("no enhancer is shipped with this installation: train one (audiogen train generator "
                            "--preset enhancer) and name it by --checkpoint RUN/model")
        sound = Audio.read(self.file)
        if sound.samples.shape[0] > 1:
            print(f"audiogen: {self.file} has {sound.samples.shape[0]} channels: they are mixed down", file=sys.stderr)
        engine = load_engine(self.checkpoint or str(SHIPPED), device=self.device)
        made = enhanced(engine, sound, self.text, seed=self.seed, steps=self.steps)
        of = {"file": self.file.name, "sha256": hashlib.sha256(self.file.read_bytes()).hexdigest()}
        made_by = {"audiogen": __version__, "enhance": of, "seed": self.seed, "checkpoint": engine.hashes}
        dataclasses.replace(made, made_by=made_by).save(self.out)
        print(f"{self.out}  {made.seconds:.2f} s")
        return 0


def enhanced(engine, sound, text: str = "", *, seed: int = 0, steps: int | None = None):
    """The recording through an enhancer's engine: one channel at the engine's rate, as loud as it was."""
    import torch

    from audiogen.core.audio import Audio
    from audiogen.core.interfaces import Prompt
    from audiogen.core.rng import SampleRng
    from audiogen.pipeline import TRAINED_LUFS, Voice, check_seconds
    from audiogen.signal.loudness import integrated_loudness

    model = engine.generator.model
    if not hasattr(model, "enhance"):
        raise UserError(f"a {engine.generator.name} generator cannot enhance: name a checkpoint of the family enhancer")
    check_seconds(sound.seconds)
    mono = Audio(sound.samples.mean(dim=0, keepdim=True), sound.sample_rate)
    loudness = integrated_loudness(mono)
    gain = 1.0 if loudness is None else 10.0 ** ((TRAINED_LUFS - loudness) / 20.0)
    voice = Voice(engine.vocoder, engine.device)
    mel, time = voice.analyse(Audio(mono.samples * gain, mono.sample_rate))
    vector = None
    if text:
        reading = engine.read(Prompt(text=text))
        vector = engine.vocabulary.vector(reading.weights)[None].to(engine.device)
    with torch.no_grad():
        clean = model.enhance(
            mel.to(engine.device), rng=SampleRng(seed, ids=[0], stream="mel"), vector=vector,
            sampling=engine.sampling(steps=steps),
        )
    samples = voice.render(clean, seed=seed)[0][:, engine.mel.lead : engine.mel.lead + time] / gain
    return Audio(samples.clamp(-1.0, 1.0), engine.mel.sample_rate)

"""Engine: prompt -> (composer -> score) -> generator -> mel -> vocoder -> Audio.

An engine is a folder: generator/ and vocoder/ (checkpoints of one mel format), words.safetensors (what words mean) and
a card. The one in audiogen/pretrained/default is used where none is named.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import audiogen
from audiogen.composers import load_composer
from audiogen.conditioning.labels import Reading, StyleVocabulary
from audiogen.conditioning.piano_roll import piano_roll
from audiogen.conditioning.prompts import plan_prompt
from audiogen.conditioning.text import WordVectors
from audiogen.core import hub
from audiogen.core.audio import Audio
from audiogen.core.checkpoint import Checkpoint, files_hash, load_checkpoint
from audiogen.core.config import from_dict, to_dict
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition, Prompt
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.core.score import Note, Score

DEFAULT = Path(__file__).parent / "pretrained" / "default"
MAX_SECONDS = 600.0
LOUDNESS_LUFS, CEILING_DBTP = -18.0, -1.0
TRAINED_LUFS = -20.0  # loudness of the recordings that the shipped models were trained on
TAIL_SECONDS = 0.02  # the fade at the end of a clip, so that it never clicks


class Part(NamedTuple):
    """One voice of a clip: a style or a mix of styles, and the notes that it plays (None: a texture)."""

    weights: dict[str, float]
    score: Score | None


@dataclass
class Voice:
    """A vocoder alone: mels or audio -> audio."""

    vocoder: Checkpoint
    device: str = "cpu"

    @classmethod
    def from_pretrained(
        cls, folder_or_hub_id: str | Path | None = None, *, vocoder: str | Path | None = None, device: str = "cpu"
    ) -> Voice:
        """The checkpoint `vocoder`, or else an engine's; a bare generator is heard through the default one."""
        folder = Path(vocoder) if vocoder else _find(folder_or_hub_id)[0] / "vocoder"
        if not vocoder and not folder.is_dir() and not (folder.parent / "generator").is_dir():
            folder = DEFAULT / "vocoder"
        return cls(load_checkpoint(folder, room="vocoder", device=device), device)

    @property
    def mel(self) -> MelFormat:
        return self.vocoder.mel

    def vocode(self, sound: Audio | Tensor, *, seed: int = 0) -> Audio:
        """Audio -> mel -> audio (copy synthesis), or a mel (n_mels, frames). Channels are mixed down to one."""
        if isinstance(sound, Tensor):
            made = self.render(sound.reshape(1, *sound.shape[-2:]).float(), seed=seed)
            return Audio(made[0].clamp(-1, 1), self.mel.sample_rate)
        mel, time = self.analyse(sound)
        made = self.render(mel, seed=seed)[0][:, self.mel.lead : self.mel.lead + time]
        return Audio(made.clamp(-1, 1), self.mel.sample_rate)

    def analyse(self, sound: Audio) -> tuple[Tensor, int]:
        """-> the mel (1, n_mels, frames) whose render, from sample `mel.lead` on, is as long as the sound, and that
        length in samples."""
        from audiogen.signal.mel import MelSpectrogram
        from audiogen.signal.resample import resample

        if sound.samples.shape[-1] == 0:
            raise UserError("there is no sound in it: zero samples")
        audio = resample(sound.samples.mean(dim=0, keepdim=True), sound.sample_rate, self.mel.sample_rate)
        time = audio.shape[-1]
        whole = torch.nn.functional.pad(audio, (0, -time % self.mel.hop_length))
        return MelSpectrogram(self.mel)(whole[None])[:, :, : self.mel.frames_to_cover(time)], time

    @torch.inference_mode()
    def render(self, mel: Tensor, *, seed: int = 0) -> Tensor:
        """mel (parts, n_mels, frames) -> audio (parts, 1, time) on the CPU."""
        rng = SampleRng(seed, ids=range(mel.shape[0]), stream="vocoder")
        return self.vocoder.model(mel.to(self.device), rng=rng).float().cpu()


@dataclass
class Engine:
    """Loaded once, used for many clips. Build it with `Engine.from_pretrained`."""

    generator: Checkpoint
    vocoder: Checkpoint | None  # None where the generator makes audio itself
    vocabulary: StyleVocabulary
    words_hash: str
    device: str = "cpu"
    composer: str = "rules"
    hub: str = ""  # "owner/name@commit#hash", where it came from the hub

    def __post_init__(self) -> None:
        if self.vocoder is not None:
            self.generator.mel.require(self.vocoder.mel, mine="the generator", theirs="the vocoder")

    @classmethod
    def from_pretrained(
        cls, folder_or_hub_id: str | Path | None = None, *, vocoder: str | Path | None = None, device: str = "cpu"
    ) -> Engine:
        """Load an engine folder, a bare generator checkpoint (`runs/x/model`) or a hub repository: "owner/name", or
        pinned "owner/name@revision#hash" (a commit, tag or branch; what `audiogen info` prints of the folder, as
        `core/hub.py` says); clips note the commit and the hash that it was.

        `vocoder`: another vocoder checkpoint. A bare generator is heard through the default one, if the formats agree;
        one that makes audio needs none.
        """
        folder, origin = _find(folder_or_hub_id)
        bare = not (folder / "generator").is_dir()
        generator = load_checkpoint(folder if bare else folder / "generator", room="generator", device=device)
        voice = None
        if generator.model.makes == "mel":
            place = Path(vocoder) if vocoder else (DEFAULT if bare else folder) / "vocoder"
            voice = load_checkpoint(place, room="vocoder", device=device)
        elif vocoder:
            raise UserError(f"a generator of the family {generator.name} makes audio itself: leave the vocoder away")
        words_file = folder / "words.safetensors"
        if not words_file.is_file():
            words_file = DEFAULT / "words.safetensors"
        words = _words(words_file)
        vocabulary = StyleVocabulary.from_dict(generator.labels["vocabulary"], words)
        return cls(generator, voice, vocabulary, files_hash(words_file), device, hub=origin)

    # ------------------------------------------------------------------ what it is

    @property
    def mel(self) -> MelFormat:
        return self.generator.mel

    @property
    def styles(self) -> tuple[str, ...]:
        """Every style that the generator was trained on."""
        return tuple(self.vocabulary.names)

    @property
    def played(self) -> frozenset[str]:
        """The styles that are played from notes; the others are textures."""
        return frozenset(self.generator.labels.get("played", ()))

    @property
    def hashes(self) -> dict[str, str]:
        voice = {} if self.vocoder is None else {"vocoder": self.vocoder.hash}
        return {"generator": self.generator.hash, **voice, "words": self.words_hash}

    # ------------------------------------------------------------------ from prompt to sound

    def read(self, prompt: Prompt | str) -> Reading:
        """How the engine understands a prompt: style weights, unknown words, nearest styles."""
        return self.vocabulary.read(_prompt(prompt))

    def parts(self, prompt: Prompt | str, *, seed: int) -> list[Part]:
        """Who plays what. Styles given as such are mixed in one voice; instruments named in the text play together."""
        prompt = _prompt(prompt)
        reading = self.read(prompt)
        if prompt.styles or len(reading.weights) < 2:
            voices = [reading.weights]
        else:
            voices = [{style: 1.0} for style in reading.weights]
        if prompt.score is not None and not prompt.styles:
            named = [name for name in prompt.score.instruments if name in self.vocabulary.names]
            if named and (not prompt.text or not reading.known):
                return [Part({name: 1.0}, prompt.score.only(name)) for name in named]
        return [Part(weights, self._score(prompt, weights, seed)) for weights in voices]

    def _score(self, prompt: Prompt, weights: dict[str, float], seed: int) -> Score | None:
        leading = max(weights, key=lambda style: weights[style], default="")
        if leading not in self.played:
            return None
        if prompt.score is not None:
            return prompt.score
        composer = load_composer(self.composer)
        asked = replace(prompt, styles=((leading, 1.0),))
        # All voices of a clip share the seed, and with it the tempo, the key and the chords.
        return composer.compose(asked, seconds=prompt.seconds, rng=SampleRng(seed, stream="score"))

    def generate_mel(self, prompt: Prompt | str, *, seed: int = 0, **sampling: Any) -> Tensor:
        """-> mel (parts, n_mels, frames): one voice of the clip each. `sampling`: the fields of the model's own."""
        prompt = _prompt(prompt)
        if self.generator.model.makes != "mel":
            raise UserError(f"a generator of the family {self.generator.name} makes audio, not mels: ask for a clip")
        return self.sample(prompt, self.parts(prompt, seed=seed), seed=seed, sampling=self.sampling(**sampling))

    def generate(
        self,
        prompt: Prompt | str,
        *,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        interval: tuple[float, float] | None = None,
        temperature: float | None = None,
        precision: str | None = None,
    ) -> Audio:
        """A clip of exactly `prompt.seconds`. `Audio.made_by` says how it was made; without a seed one is drawn.

        What is left out is the checkpoint's own choice. Warns where the prompt names nothing that the model knows.
        """
        prompt = _prompt(prompt)
        if seed is None:
            seed = int(torch.randint(0, 2**31 - 1, (1,)))
        reading = self.read(prompt)
        if not reading.known and (prompt.text or prompt.styles) and prompt.score is None:
            nearest = ", ".join(name for name, _ in reading.nearest[:3])
            warnings.warn(
                f"nothing in {prompt.text!r} is known to this model; the nearest styles are {nearest}", stacklevel=2
            )
        return self._generate(
            prompt,
            seed,
            self.sampling(
                steps=steps, guidance=guidance, sampler=sampler, interval=interval, temperature=temperature,
                precision=precision,
            ),
        )

    def _generate(self, prompt: Prompt, seed: int, sampling: Any) -> Audio:
        parts = self.parts(prompt, seed=seed)
        voices = self.sample(prompt, parts, seed=seed, sampling=sampling)
        voices = self.render(voices, seed=seed) if self.generator.model.makes == "mel" else voices.float().cpu()
        made_by = {
            "audiogen": audiogen.__version__,
            "prompt": prompt_values(prompt),
            "seed": seed,
            "sampling": to_dict(sampling),
            "checkpoint": self.hashes,
            **({"hub": self.hub} if self.hub else {}),
            "composer": self.composer,
            "styles": {name: round(weight, 4) for part in parts for name, weight in part.weights.items()},
            "torch": torch.__version__,
        }
        played = next((part.score for part in parts if part.score is not None), None)
        if played is not None:  # what `evaluate --listen` compares with what it hears
            made_by["music"] = {"bpm": played.bpm, "key": played.key, "metre": played.metre}
        samples = round(prompt.seconds * self.mel.sample_rate)
        return self._mix(voices, made_by, samples)

    def again(self, made_by: dict[str, Any]) -> Audio:
        """The clip that `made_by` describes, once more: the same samples on the same machine and torch."""
        if "edit" in made_by:
            raise UserError(
                "the clip was made from another file, which is not in it: run audiogen edit or extend on that file "
                f"again, with --seed {made_by['seed']}"
            )
        if made_by.get("checkpoint") != self.hashes:
            raise UserError(
                f"the clip was made by the checkpoint {made_by.get('checkpoint')}, this one is {self.hashes}: "
                + (f"it came from the hub: --checkpoint {made_by['hub']}" if made_by.get("hub")
                   else "name the folder it was made with by --checkpoint")
            )
        sampling = from_dict(type(self.sampling()), made_by["sampling"])
        return self._generate(_prompt_from(made_by["prompt"]), made_by["seed"], sampling)

    def vocode(self, sound: Audio | Tensor, *, seed: int = 0) -> Audio:
        """Audio -> mel -> audio (copy synthesis, the ceiling of what the vocoder can do), or a mel (n_mels, frames)."""
        return self._voice().vocode(sound, seed=seed)

    # ------------------------------------------------------------------ parts of it

    def sampling(self, **chosen: Any) -> Any:
        """The checkpoint's own way of sampling, with what the user chose."""
        own = self.generator.model.config.sampling
        chosen = {name: value for name, value in chosen.items() if value is not None}
        known = {field.name for field in dataclasses.fields(own)}
        strange = sorted(set(chosen) - known)
        if strange:
            raise UserError(
                f"a generator of the family {self.generator.name} has no {strange[0]} to choose; it has "
                f"{', '.join(sorted(known)) or 'nothing to choose'}"
            )
        return replace(own, **chosen)

    @torch.no_grad()
    def sample(
        self, prompt: Prompt, parts: list[Part], *, seed: int, sampling: Any, frames: int | None = None, **more: Any
    ) -> Tensor:
        """-> what the generator makes: mel (parts, n_mels, frames), or audio (parts, 1, frames * hop_length).

        `frames`: None for as many as the prompt's seconds need; `more`: what only some families take, such as `known`.
        """
        if hasattr(self.generator.model, "enhance"):
            raise UserError("this checkpoint improves recordings and makes none: use audiogen enhance")
        if frames is None:
            frames = max(1, math.ceil(check_seconds(prompt.seconds) * self.mel.frame_rate))
        aligned = torch.stack([piano_roll(part.score, frames, frame_rate=self.mel.frame_rate) for part in parts])
        vector = torch.stack([self.vocabulary.vector(part.weights) for part in parts])
        negative = None
        if prompt.negative:
            unwanted = self.vocabulary.read(Prompt(text=prompt.negative))
            negative = self.vocabulary.vector(unwanted.weights).expand_as(vector).to(self.device)
        condition = Condition(vector=vector.to(self.device), aligned=aligned.to(self.device))
        rng = SampleRng(seed, ids=range(len(parts)), stream="mel")
        return self.generator.model.sample(condition, frames, rng=rng, sampling=sampling, negative=negative, **more)

    def render(self, mel: Tensor, *, seed: int = 0) -> Tensor:
        """mel (parts, n_mels, frames) -> audio (parts, 1, time) on the CPU."""
        return self._voice().render(mel, seed=seed)

    def _voice(self) -> Voice:
        if self.vocoder is None:
            raise UserError(f"a generator of the family {self.generator.name} makes audio, and has no vocoder")
        return Voice(self.vocoder, self.device)

    def _mix(self, voices: Tensor, made_by: dict[str, Any], samples: int) -> Audio:
        """voices (parts, 1, time) -> one channel of `samples`: summed at equal loudness, faded out, levelled."""
        from audiogen.signal.loudness import normalise

        def level(samples: Tensor) -> Audio:
            return normalise(Audio(samples, self.mel.sample_rate, made_by), LOUDNESS_LUFS, CEILING_DBTP)

        voices = voices[:, :, :samples]
        mixed = sum(level(voice).samples for voice in voices) if len(voices) > 1 else voices[0].clone()
        tail = min(round(TAIL_SECONDS * self.mel.sample_rate), samples)
        mixed[:, samples - tail :] *= torch.linspace(1, 0, tail)
        return level(mixed)


def generate(
    text: str = "",
    *,
    seconds: float = 8.0,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    **fields: Any,
) -> Audio:
    """One clip from the default checkpoint (or another): `audiogen.generate("slow felt piano", seconds=8, seed=0)`.

    Other fields are those of `Prompt`: styles, negative, bpm, key, metre, score.
    """
    known = {field.name for field in dataclasses.fields(Prompt)}
    unknown = set(fields) - known
    if unknown:
        raise TypeError(
            f"generate() has no argument {sorted(unknown)[0]!r}; a prompt's fields are {', '.join(sorted(known))}"
        )
    engine = _cached_engine(str(checkpoint) if checkpoint is not None else None)
    return engine.generate(
        Prompt(text=text, seconds=seconds, **fields), seed=seed, steps=steps, guidance=guidance, sampler=sampler
    )


@lru_cache(maxsize=1)
def _cached_engine(checkpoint: str | None) -> Engine:
    return Engine.from_pretrained(checkpoint)


def check_seconds(seconds: float) -> float:
    """`seconds`, if a clip can be that long."""
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
        raise UserError(f"seconds={seconds}: choose more than 0 and at most {MAX_SECONDS:g}")
    return seconds


def _find(folder_or_hub_id: str | Path | None) -> tuple[Path, str]:
    """-> the folder, and what `hub.fetch` calls it where it came from there."""
    if folder_or_hub_id is None:
        if not (DEFAULT / "generator").is_dir():
            raise UserError("this installation has no default checkpoint; name one by --checkpoint, or train one")
        return DEFAULT, ""
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        return folder, ""
    if hub.is_name(str(folder_or_hub_id)):
        return hub.fetch(str(folder_or_hub_id))
    raise UserError(f"no checkpoint folder at {folder}")


@lru_cache(maxsize=2)
def _words(path: Path) -> WordVectors:
    return WordVectors.load(path)


def _prompt(prompt: Prompt | str) -> Prompt:
    prompt = Prompt(text=prompt) if isinstance(prompt, str) else prompt
    check_seconds(prompt.seconds)
    plan_prompt(prompt)  # an impossible key, tempo or metre is an error now, not after the work
    return prompt


def prompt_values(prompt: Prompt) -> dict[str, Any]:
    """The prompt as JSON values, its score note by note: the clip can be made again without the MIDI file."""
    values = {f.name: getattr(prompt, f.name) for f in dataclasses.fields(prompt) if f.name != "score"}
    values["styles"] = [list(pair) for pair in prompt.styles]
    if prompt.score is not None:
        values["score"] = dataclasses.asdict(prompt.score)
        values["score"]["notes"] = [list(dataclasses.astuple(note)) for note in prompt.score.notes]
    return values


def _prompt_from(values: dict[str, Any]) -> Prompt:
    values = dict(values)
    values["styles"] = tuple((name, weight) for name, weight in values.get("styles", ()))
    if values.get("score"):
        score = dict(values["score"])
        score["notes"] = tuple(Note(*note) for note in score["notes"])
        values["score"] = Score(**score)
    return Prompt(**values)

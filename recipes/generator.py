"""Any mel generator on any scanned folder: style prompt and score in, log-mel out. One recipe for all families.

    audiogen scan SOUNDS/ -o manifest.jsonl
    audiogen train generator --data.manifest manifest.jsonl --train.run runs/mine
    audiogen train generator --preset diffusion --data.manifest manifest.jsonl --model.gated.width 192
    audiogen train generator --init runs/mine/model --distill 4 --data.manifest manifest.jsonl --train.run runs/fast
    accelerate launch recipes/generator.py --data.manifest manifest.jsonl --train.run runs/mine
    audiogen generate "one of my styles" --checkpoint runs/mine/model

Smoke: audiogen train generator --data.manifest manifest.jsonl --data.frames 32 --train.steps 9 --train.batch-size 2

`--preset` is a family, or a configuration that a family names; every field of it can be changed. Some stand on a first
stage that was trained before (`--first RUN/model`), which then lies in their own checkpoint. Styles are the tags that
the scan found; a MIDI file beside a sound is its score. `--train.plan` tells parameters, memory and time first;
`--train.overfit 1` must bring the loss of one batch below what the family states (diffusion: "mel_l1" below 0.35
natural log units): if it does not, more training will not help. Cost and scores of what is shipped:
audiogen/pretrained/default/README.md; of every family: recipes/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition, Prompt
from audiogen.generators.diffusion import MelDiffusionConfig
from audiogen.training.config import TrainConfig

DEFAULT = "diffusion"

# Preset, or the beginning of its name -> the training's own defaults, and the segment's length in frames. The longest
# name that fits counts.
ROWS: dict[str, tuple[dict[str, Any], int]] = {
    "": (dict(steps=20_000, learning_rate=1e-3), 172),
    "autoencoder": (dict(steps=20_000, learning_rate=2e-3), 172),
    "vae": (dict(steps=20_000, learning_rate=2e-3), 172),
    "beta_vae": (dict(steps=20_000, learning_rate=2e-3), 172),
    "infovae": (dict(steps=20_000, learning_rate=2e-3), 172),
    "wavenet": (dict(steps=20_000, batch_size=8, learning_rate=5e-3), 32),
    "distill": (dict(steps=5_000, learning_rate=3e-4, ema=0.99), 172),
}


def presets() -> dict[str, tuple[str, Any]]:
    """name -> (family, model config): each family's own default under its own name, and what it names besides."""
    from audiogen.core.registry import resolve, table

    found: dict[str, tuple[str, Any]] = {}
    for family in table("generator"):
        cls = resolve("generator", family)
        found[family] = (family, cls.config_type())
        found |= {name: (family, config) for name, config in cls.presets.items()}
    return found


@dataclass(frozen=True)
class Data:
    """What to train on."""

    manifest: Path = Path("manifest.jsonl")
    """Written by `audiogen scan`."""
    shards: str | None = None
    """In place of a manifest: what `audiogen pack` wrote, a folder or an address (https://..., s3://...). Every piece
    is seen once an epoch; what to leave out is chosen when it is packed."""
    frames: int = 172
    """Length of a training segment, in mel frames (86 a second)."""
    balance: str = "styles"
    """How files are drawn: "styles" (every style as often), "seconds" or "files"."""
    cache: bool = True
    """Decode everything once into memory (159 MB an hour)."""
    styles: tuple[str, ...] = ()
    """Only these; all that the manifest has where empty."""
    leave_out: tuple[str, ...] = ()
    """Files whose path begins so are not trained on, e.g. notes/."""
    descriptions: Path | None = None
    """JSON: style -> words that describe it, so that prompts find it under other names."""


@dataclass(frozen=True)
class Recipe:
    """Train a generator."""

    preset: str = DEFAULT
    """A family or a configuration that a family names."""
    data: Data = Data()
    model: MelDiffusionConfig = MelDiffusionConfig()
    train: TrainConfig = field(default_factory=lambda: TrainConfig(run=Path("runs/generator"), **ROWS[""][0]))
    init: Path | None = None
    """A generator checkpoint to go on from, e.g. the shipped one: its weights, its config and its styles' vectors."""
    distill: int = 0
    """With --init: teach that diffusion model to sample in so many steps, half of its own; 0: train it on."""
    first: Path | None = None
    """The checkpoint of the first stage, for families that stand on one."""
    words: Path | None = None
    """Word vectors; None: those that are shipped."""
    vocoder: Path | None = None
    """Checkpoint that demos are heard through; None: the shipped one, where its mel format fits."""
    score_against: Path | None = None
    """What `audiogen embed REAL/ --short pad -o real.npz` wrote: demos are scored by it, and best/ keeps the best."""
    demo_prompts: tuple[str, ...] = ()
    """None given: one for each of the first styles."""

    @classmethod
    def specialise(cls, words: Sequence[str]) -> type[Recipe]:
        """The recipe with the fields and defaults of the preset (or of the checkpoint) that the command line names."""
        from audiogen.cli import said
        from audiogen.cli.preset import chosen_preset, preset_field, with_fields

        known = presets()
        preset = chosen_preset(words, known, DEFAULT)
        model = known[preset][1]
        first = said(list(words), "--first")
        if first is not None and (Path(first) / "config.json").is_file():
            model = _upon(model, known[preset][0], Path(first))
        settings, frames = row("distill" if said(words, "--distill") else preset)
        fields = {
            "preset": preset_field(known, preset), "data": (Data, Data(frames=frames)),
            "model": (type(model), model),
            "train": (TrainConfig, TrainConfig(run=Path(f"runs/{preset}"), **settings)),
        }
        return with_fields(cls, fields)

    def run(self) -> int:
        import torch

        from audiogen.conditioning.labels import StyleVocabulary
        from audiogen.conditioning.text import WordVectors
        from audiogen.core.checkpoint import load_checkpoint
        from audiogen.core.registry import resolve
        from audiogen.data.manifest import read_manifest
        from audiogen.data.packed import PackedDataset
        from audiogen.data.pairs import StyleAndScore
        from audiogen.data.segments import SegmentDataset, collate
        from audiogen.generators.task import measure_statistics
        from audiogen.pipeline import DEFAULT as SHIPPED
        from audiogen.signal.mel import MelSpectrogram
        from audiogen.training.fit import fit

        judge = None
        if self.score_against is not None:
            from evaluation.in_training import demo_judge

            judge = demo_judge(self.score_against)
        torch.manual_seed(self.train.seed)
        if self.train.threads:
            torch.set_num_threads(self.train.threads)
        cls = resolve("generator", presets()[self.preset][0])
        index = manifest = None
        if self.data.shards is not None:
            index = self._index()
            styles = tuple(sorted(index.styles.get("train", ())))
        else:
            manifest = read_manifest(self.data.manifest)
            manifest = replace(
                manifest, entries=tuple(e for e in manifest.entries if not e.path.startswith(self.data.leave_out))
            )
            styles = self.data.styles or tuple(sorted(manifest.styles))
        if not styles:
            raise UserError(
                f"{self.data.shards or self.data.manifest} names no style: put sounds into folders by style, or tag "
                "them, and scan again"
            )
        words = WordVectors.load(self.words or SHIPPED / "words.safetensors")
        descriptions = json.loads(self.data.descriptions.read_text()) if self.data.descriptions else None
        start = load_checkpoint(self.init, room="generator") if self.init else None
        first = self._first_stage(cls)
        known = start or first
        if known is not None:
            vocabulary = StyleVocabulary.from_dict(known.labels["vocabulary"], words)
            strange = [style for style in styles if style not in vocabulary.names]
            if strange:
                raise UserError(
                    f"{self.init or self.first} does not know the style {strange[0]!r}: leave it out by --data.styles, "
                    "or train without it"
                )
        else:
            vocabulary = StyleVocabulary(styles, words, descriptions)
        if start is not None:
            if start.name != presets()[self.preset][0]:
                raise UserError(f"{self.init} holds a {start.name}, not a {self.preset}: leave --preset away")
            config = start.model.config
        else:
            config = replace(self.model, vector_dim=vocabulary.dim)
        if index is not None:
            dataset = PackedDataset(
                self.data.shards, config.mel, frames=self.data.frames, seed=self.train.seed, vocabulary=vocabulary
            )
            played, seconds = sorted(index.played), index.seconds
        else:
            dataset = SegmentDataset(
                manifest,
                config.mel,
                frames=self.data.frames,
                seed=self.train.seed,
                weights=self.data.balance,
                styles=styles,
                cache=self.data.cache,
                encode=StyleAndScore(vocabulary, config.mel, manifest),
            )
            played = sorted(
                {style for entry in dataset.entries if entry.score for style in entry.styles if style in styles}
            )
            seconds = dataset.manifest.seconds
        if start is not None:
            model = start.model.train()
        else:
            model = cls(config)
            if index is None or index.what != "latent":
                model.set_statistics(*measure_statistics(dataset, collate, MelSpectrogram(config.mel)))
            else:
                model.set_statistics(first.model.mel_mean[:, 0], first.model.mel_std[:, 0])
            if first is not None:
                model.first.load_state_dict(first.model.state_dict())
        labels = {
            "vocabulary": vocabulary.to_dict(),
            "played": played,
            "recipe": "generator",
            "preset": self.preset,
            "minutes": round(seconds / 60, 1),
        }
        render = None if cls.makes == "audio" else _renderer(self.vocoder, config.mel)
        task = self._task(cls, model, demos=self._demos(vocabulary, played, model, dataset), render=render)
        summary = fit(
            task,
            dataset,
            self.train,
            collate=collate,
            recipe=self,
            labels=labels,
            overfit_below=cls.overfit_below,
            judge=judge,
        )
        return summary.exit_code

    def _index(self) -> Any:
        """The index of the shards, where this family can learn from them."""
        from audiogen.core.checkpoint import checkpoint_hash
        from audiogen.core.registry import resolve
        from audiogen.data.shard_store import read_index

        index, family = read_index(self.data.shards), presets()[self.preset][0]
        if self.data.styles or self.data.leave_out:
            raise UserError("--data.styles and --data.leave-out choose files of a manifest: choose before you pack")
        if index.what == "mel" and (resolve("generator", family).makes == "audio" or family == "enhancer"):
            raise UserError(f"{self.data.shards} holds mels, and {self.preset} needs audio: pack with --what audio")
        if index.what == "latent":
            if family != "latent_diffusion":
                raise UserError(f"{self.data.shards} holds latents, and {self.preset} learns from mels: pack with "
                                "--what mel")
            if self.first is None or self.init is not None:
                raise UserError(f"{self.data.shards} holds latents: name the autoencoder that made them by --first")
            if checkpoint_hash(self.first) != index.checkpoint:
                raise UserError(f"the latents in {self.data.shards} were made by another autoencoder than --first "
                                f"{self.first}: pack again with --checkpoint {self.first}")
        return index

    def _task(self, cls: type, model: Any, **more: Any) -> Any:
        if not self.distill:
            return cls.task_type(model, **more)
        from audiogen.generators.diffusion import MelDiffusion
        from audiogen.generators.distillation import Distillation, begin_student

        if self.init is None or cls is not MelDiffusion:
            raise UserError(f"--distill {self.distill} teaches a trained diffusion model: name it by --init RUN/model")
        return Distillation(model, begin_student(model, self.distill), **more)

    def _first_stage(self, cls: type) -> Any:
        """The checkpoint that `--first` names, if the family stands on one, and only then."""
        from audiogen.core.checkpoint import load_checkpoint

        if cls.first_stage is None:
            if self.first is not None:
                raise UserError(f"--first {self.first}: {self.preset} stands on no first stage; leave it away")
            return None
        if self.init is not None:
            return None  # its checkpoint holds the first stage already
        if self.first is None:
            raise UserError(f"{self.preset} stands on a trained {cls.first_stage}: train that first, and name its "
                            "checkpoint by --first RUN/model")
        found = load_checkpoint(self.first, room="generator")
        if found.name != cls.first_stage:
            raise UserError(f"--first {self.first} holds a {found.name}; {self.preset} stands on a {cls.first_stage}")
        return found

    def _demos(self, vocabulary, played: list[str], model: Any, dataset: Any) -> list[tuple[str, Condition, int]]:
        """Four seconds of each demo prompt, always the same notes; the first sounds where those are what it hears."""
        from audiogen.composers.rules import RuleComposer
        from audiogen.conditioning.piano_roll import piano_roll
        from audiogen.core.rng import SampleRng
        from audiogen.data.segments import collate

        config, ids = model.config, range(4)
        if not model.prompted:
            heard = model.example(collate([dataset[k] for k in ids]), SampleRng(0, ids=ids, stream="demo"))
            if heard is not None:
                ones = [Condition(*(None if part is None else part[k : k + 1] for part in heard)) for k in ids]
                return [(f"sound_{k}", one, one.aligned.shape[2]) for k, one in enumerate(ones)]
        frames = round(4 * config.mel.frame_rate)
        demos = []
        for index, text in enumerate(self.demo_prompts or vocabulary.names[:6]):
            weights = vocabulary.read(Prompt(text=text)).weights
            leading = max(weights, key=lambda style: weights[style])
            score = None
            if leading in played:
                prompt = Prompt(text=text, styles=((leading, 1.0),), seconds=4.0)
                score = RuleComposer().compose(prompt, seconds=4.0, rng=SampleRng(index, stream="score"))
            demos.append(
                (
                    text.replace(" ", "_").replace("/", "_"),
                    Condition(
                        vector=vocabulary.vector(weights)[None],
                        aligned=piano_roll(score, frames, frame_rate=config.mel.frame_rate)[None],
                    ),
                    frames,
                )
            )
        return demos


def row(preset: str) -> tuple[dict[str, Any], int]:
    """Training settings and segment length of a preset: the row whose name is the longest beginning of its name."""
    return ROWS[max((name for name in ROWS if preset.startswith(name)), key=len)]


def _upon(model: Any, family: str, first: Path) -> Any:
    """`model` with the config of its first stage; `run` says what is wrong with a first stage that does not fit."""
    from audiogen.core.checkpoint import read_config
    from audiogen.core.config import from_dict
    from audiogen.core.registry import resolve

    values = read_config(first)
    if resolve("generator", family).first_stage != values["name"]:
        return model
    config = from_dict(resolve("generator", values["name"]).config_type, values["config"])
    return replace(model, first=config, mel=config.mel)


def _renderer(vocoder: Path | None, mel):
    """mel -> Audio through the vocoder, or through Griffin-Lim where no trained one fits."""
    import torch

    from audiogen.core.audio import Audio
    from audiogen.core.checkpoint import load_checkpoint, read_config
    from audiogen.core.config import from_dict
    from audiogen.core.mel_format import MelFormat
    from audiogen.pipeline import DEFAULT as SHIPPED
    from vocoders.griffin_lim import GriffinLim, GriffinLimConfig

    folder = vocoder or SHIPPED / "vocoder"
    fits = (folder / "config.json").is_file() and (
        vocoder is not None or from_dict(MelFormat, read_config(folder)["config"]["mel"]) == mel
    )
    if fits:
        model = load_checkpoint(folder, room="vocoder").model
        mel.require(model.config.mel, mine="the generator", theirs=f"the vocoder {folder}")
    else:
        model = GriffinLim(GriffinLimConfig(mel=mel))

    def render(frames: torch.Tensor) -> Audio:
        with torch.no_grad():
            return Audio(model(frames)[0].clamp(-1, 1), mel.sample_rate)

    return render


if __name__ == "__main__":
    from audiogen.cli import recipe_main

    recipe_main(Recipe)

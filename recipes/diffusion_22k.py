"""Mel diffusion at 22.05 kHz on any scanned folder: style prompt and score in, log-mel out.

    audiogen scan SOUNDS/ -o manifest.jsonl
    accelerate launch recipes/diffusion_22k.py --data.manifest manifest.jsonl --train.run runs/mine
    audiogen train diffusion_22k --data.manifest manifest.jsonl --train.run runs/mine       (the same thing, for people)
    audiogen generate "one of my styles" --checkpoint runs/mine/model

Smoke: audiogen train diffusion_22k --data.manifest manifest.jsonl --data.frames 32 --train.steps 9 --train.batch-size 2

Styles are the tags that the scan found; a MIDI file beside a sound is its score. `--train.plan` tells parameters,
memory and time first; `--train.overfit 1` must bring "mel_l1" of one batch below 0.35 (natural log units): if it does
not, more training will not help. Cost and scores of what is shipped: audiogen/pretrained/default/README.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition, Prompt
from audiogen.generators.diffusion import MelDiffusionConfig
from audiogen.training.fit import TrainConfig

OVERFIT_BELOW = ("mel_l1", 0.35)


@dataclass(frozen=True)
class Data:
    """What to train on."""

    manifest: Path = Path("manifest.jsonl")
    """Written by `audiogen scan`."""
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
    """Train a mel diffusion generator."""

    data: Data = Data()
    model: MelDiffusionConfig = MelDiffusionConfig()
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(run=Path("runs/diffusion_22k"), steps=20_000, learning_rate=1e-3)
    )
    init: Path | None = None
    """A generator checkpoint to go on from, e.g. the shipped one: its weights, its config and its styles' vectors."""
    words: Path | None = None
    """Word vectors; None: those that are shipped."""
    vocoder: Path | None = None
    """Checkpoint that demos are heard through; None: the shipped one, where its mel format fits."""
    score_against: Path | None = None
    """What `audiogen embed REAL/ --short pad -o real.npz` wrote: demos are scored by it, and best/ keeps the best."""
    demo_prompts: tuple[str, ...] = ()
    """None given: one for each of the first styles."""

    def run(self) -> int:
        import torch

        from audiogen.conditioning.labels import StyleVocabulary
        from audiogen.conditioning.text import WordVectors
        from audiogen.core.checkpoint import load_checkpoint
        from audiogen.data.manifest import read_manifest
        from audiogen.data.pairs import StyleAndScore
        from audiogen.data.segments import SegmentDataset, collate
        from audiogen.generators.diffusion import MelDiffusion
        from audiogen.generators.task import GeneratorTask, measure_statistics
        from audiogen.pipeline import DEFAULT
        from audiogen.signal.mel import MelSpectrogram
        from audiogen.training.fit import fit

        judge = None
        if self.score_against is not None:
            from evaluation.in_training import demo_judge

            judge = demo_judge(self.score_against)
        torch.manual_seed(self.train.seed)
        if self.train.threads:
            torch.set_num_threads(self.train.threads)
        manifest = read_manifest(self.data.manifest)
        manifest = replace(
            manifest, entries=tuple(e for e in manifest.entries if not e.path.startswith(self.data.leave_out))
        )
        styles = self.data.styles or tuple(sorted(manifest.styles))
        if not styles:
            raise UserError(
                f"{self.data.manifest} names no style: put sounds into folders by style, or tag them, and scan again"
            )
        words = WordVectors.load(self.words or DEFAULT / "words.safetensors")
        descriptions = json.loads(self.data.descriptions.read_text()) if self.data.descriptions else None
        start = load_checkpoint(self.init, room="generator") if self.init else None
        if start is not None:
            vocabulary = StyleVocabulary.from_dict(start.labels["vocabulary"], words)
            strange = [style for style in styles if style not in vocabulary.names]
            if strange:
                raise UserError(
                    f"{self.init} does not know the style {strange[0]!r}: leave it out by --data.styles, or train "
                    "without --init"
                )
            config = start.model.config
        else:
            vocabulary = StyleVocabulary(styles, words, descriptions)
            config = replace(self.model, vector_dim=vocabulary.dim)
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
        if start is not None:
            model = start.model.train()
        else:
            model = MelDiffusion(config)
            model.set_statistics(*measure_statistics(dataset, collate, MelSpectrogram(config.mel)))
        played = sorted(
            {style for entry in dataset.entries if entry.score for style in entry.styles if style in styles}
        )
        labels = {
            "vocabulary": vocabulary.to_dict(),
            "played": played,
            "recipe": "diffusion_22k",
            "minutes": round(dataset.manifest.seconds / 60, 1),
        }
        task = GeneratorTask(
            model, demos=self._demos(vocabulary, played, config), render=_renderer(self.vocoder, config.mel)
        )
        summary = fit(
            task,
            dataset,
            self.train,
            collate=collate,
            recipe=self,
            labels=labels,
            overfit_below=OVERFIT_BELOW,
            judge=judge,
        )
        return 130 if summary.interrupted == "SIGINT" else 0

    def _demos(self, vocabulary, played: list[str], config: MelDiffusionConfig) -> list[tuple[str, Condition, int]]:
        """Four seconds of each demo prompt, always the same notes."""
        from audiogen.composers.rules import RuleComposer
        from audiogen.conditioning.piano_roll import piano_roll
        from audiogen.core.rng import SampleRng

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


def _renderer(vocoder: Path | None, mel):
    """mel -> Audio through the vocoder, or through Griffin-Lim where no trained one fits."""
    import torch

    from audiogen.core.audio import Audio
    from audiogen.core.checkpoint import load_checkpoint, read_config
    from audiogen.core.config import from_dict
    from audiogen.core.mel_format import MelFormat
    from audiogen.pipeline import DEFAULT
    from vocoders.griffin_lim import GriffinLim, GriffinLimConfig

    folder = vocoder or DEFAULT / "vocoder"
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

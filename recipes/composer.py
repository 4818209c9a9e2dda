"""Any learned composer on a folder of MIDI files: the next note event, given those before it. One recipe for all.

    audiogen train composer --preset lstm --data.folder MIDI/ --train.run runs/lstm
    audiogen train composer --preset gru --data.folder MIDI/ --data.rules 2000
    audiogen compose "a slow waltz in A minor" --composer runs/lstm/model -o waltz.mid

Smoke: audiogen train composer --data.rules 20 --train.steps 5 --train.batch-size 2 --data.length 64

`--preset` is a family, or a configuration that a family names; every field of it can be changed. Styles are the labels
of the folder's metadata.csv, or the names of its folders; pieces that the rule composer writes (`--data.rules N`) come
beside them, or alone where no folder is given, and their styles are its forms. Held-out tunes (split "valid" or "test")
are never trained on. Every piece is heard in C, and what is composed is moved to the key that is asked for.
`--train.plan` tells parameters, memory and time first; `--train.overfit 1` must bring the loss of one batch below 0.3
nats a token. Cost and scores: docs/composers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from audiogen.composers.recurrent import RecurrentConfig
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.training.config import TrainConfig

DEFAULT = "lstm"

# Preset, or the beginning of its name -> the training's own defaults, and the samples' length in tokens. The longest
# name that fits counts.
ROWS: dict[str, tuple[dict[str, Any], int]] = {
    "": (dict(steps=10_000, learning_rate=2e-3), 256),
    "transformer": (dict(steps=10_000, learning_rate=1.5e-3, betas=(0.9, 0.98)), 256),
    "music_transformer": (dict(steps=10_000, learning_rate=1.5e-3, betas=(0.9, 0.98)), 256),
    "reformer": (dict(steps=10_000, learning_rate=1.5e-3, betas=(0.9, 0.98)), 256),
}


def presets() -> dict[str, tuple[str, Any]]:
    """name -> (family, config): each learned family's own default under its name, and what it names besides."""
    from audiogen.core.registry import resolve, table

    found: dict[str, tuple[str, Any]] = {}
    for family in table("composer"):
        cls = resolve("composer", family)
        if hasattr(cls, "config_type"):  # rules are not trained
            found[family] = (family, cls.config_type())
            found |= {name: (family, config) for name, config in cls.presets.items()}
    return found


@dataclass(frozen=True)
class Data:
    """What to train on."""

    folder: Path | None = None
    """MIDI files, with or without a metadata.csv."""
    open_only: bool = True
    """Only tunes that anyone may use, at most for a credit (or that state no licence): no share-alike, no custom terms.
    The weights can then be given away."""
    rules: int = 0
    """So many pieces by the rule composer besides."""
    rules_share: float = 0.25
    """How often one of those is drawn, where there is a folder too."""
    length: int = 256
    """Tokens in a sample, at most; cut at bar lines."""


@dataclass(frozen=True)
class Recipe:
    """Train a composer."""

    preset: str = DEFAULT
    """A family or a configuration that a family names."""
    data: Data = Data()
    model: RecurrentConfig = RecurrentConfig()
    train: TrainConfig = field(default_factory=lambda: TrainConfig(run=Path("runs/composer"), **ROWS[""][0]))
    init: Path | None = None
    """A composer checkpoint to go on from: its weights and its config."""
    demo_prompts: tuple[str, ...] = ("a slow waltz in A minor for piano", "folk song in G major")
    """Composed and saved as MIDI while it trains, always from the same seed."""

    @classmethod
    def specialise(cls, words: Sequence[str]) -> type[Recipe]:
        """The recipe with the fields and defaults of the preset (or of the checkpoint) that the command line names."""
        from audiogen.cli.preset import chosen_preset, preset_field, with_fields

        known = presets()
        preset = chosen_preset(words, known, DEFAULT)
        model = known[preset][1]
        settings, length = row(preset)
        fields = {
            "preset": preset_field(known, preset), "data": (Data, Data(length=length)),
            "model": (type(model), model),
            "train": (TrainConfig, TrainConfig(run=Path(f"runs/{preset}"), **settings)),
        }
        return with_fields(cls, fields)

    def run(self) -> int:
        import torch

        from audiogen.composers.note_model import NoteTask, collate
        from audiogen.composers.tunes import NoteDataset
        from audiogen.core.checkpoint import load_checkpoint
        from audiogen.core.registry import resolve
        from audiogen.training.fit import fit

        torch.manual_seed(self.train.seed)
        if self.train.threads:
            torch.set_num_threads(self.train.threads)
        tunes, shares = self._tunes()
        family = presets()[self.preset][0]
        if self.init is not None:
            start = load_checkpoint(self.init, room="composer")
            if start.name != family:
                raise UserError(f"{self.init} holds a {start.name}, not a {self.preset}: leave --preset away")
            model = start.model.train()
        else:
            styles = self.model.styles or tuple(sorted({tune.sheet.style for tune in tunes} - {""}))
            model = resolve("composer", family)(replace(self.model, styles=styles))
        dataset = NoteDataset(
            tunes, model.vocabulary, length=self.data.length, seed=self.train.seed, task=model.config.task,
            shares=shares,
        )
        labels = {
            "recipe": "composer", "preset": self.preset, "tunes": len(tunes),
            "licences": sorted({tune.licence for tune in tunes} - {""}),
        }
        demos = [
            (text.replace(" ", "_").replace("/", "_"), Prompt(text=text, seconds=12)) for text in self.demo_prompts
        ]
        summary = fit(
            NoteTask(model, demos=demos), dataset, self.train, collate=collate, recipe=self, labels=labels,
            overfit_below=model.overfit_below, card=self._card(model, tunes),
        )
        return summary.exit_code

    def _card(self, model: Any, tunes: list) -> str:
        """The model card: what it is, what it was trained on and how, and whom to credit."""
        made = sum(tune.name.startswith("rules/") for tune in tunes)
        credits: dict[str, dict[str, int]] = {}
        for tune in tunes:
            if tune.licence or tune.attribution:
                named = credits.setdefault(tune.licence or "no licence stated", {})
                named[tune.attribution or "nobody named"] = named.get(tune.attribution or "nobody named", 0) + 1
        lines = [
            f"# {self.preset}", "",
            f"A composer of audiogen: {sum(p.numel() for p in model.parameters()):,} parameters, task "
            f"{model.config.task!r}. It writes note events (audiogen/composers/events.py); weights are Apache-2.0, and "
            "what it writes is yours.", "",
            f"Trained on {len(tunes) - made} MIDI files and {made} pieces by the rule composer with",
            f"`audiogen train composer --preset {self.preset} --data.folder MIDI/ --data.rules {self.data.rules} "
            f"--train.steps {self.train.steps} --train.batch-size {self.train.batch_size}`.",
            "Held-out scores: docs/composers.md. Styles it knows: " + (", ".join(model.config.styles) or "none") + ".",
        ]
        if credits:
            lines += ["", "## Data and credits", ""]
        for licence, named in sorted(credits.items()):
            people = "; ".join(f"{name} ({count})" for name, count in sorted(named.items()))
            lines.append(f"* **{licence}**: {people}.")
        return "\n".join(lines) + "\n"

    def _tunes(self) -> tuple[list, list[float] | None]:
        """The tunes to train on and, where both kinds are there, their shares."""
        from audiogen.composers.tunes import read_tunes, rule_tunes

        if self.data.rules < 0 or not 0 < self.data.rules_share < 1:
            raise UserError(f"data.rules={self.data.rules} must be 0 or more, and data.rules_share="
                            f"{self.data.rules_share:g} between 0 and 1")
        made = rule_tunes(self.data.rules, seed=self.train.seed)
        if self.data.folder is None:
            if not made:
                raise UserError("nothing to train on: name a folder of MIDI files by --data.folder, or ask for pieces "
                                "by the rule composer with --data.rules 2000")
            return made, None
        from audiogen.data.notes import is_open

        tunes, left_out = read_tunes(self.data.folder, split="train")
        if self.data.open_only:
            left_out |= {t.name: f"its licence is {t.licence}" for t in tunes if t.licence and not is_open(t.licence)}
            tunes = [tune for tune in tunes if tune.name not in left_out]
        print(f"{len(tunes)} tunes to train on in {self.data.folder}" + (
            f"; {len(left_out)} left out, the first: {next(iter(left_out))}: {next(iter(left_out.values()))}"
            if left_out else ""))
        if not tunes:
            raise UserError(f"{self.data.folder} has no tune that may be used: --data.no-open-only takes all")
        if not made:
            return tunes, None
        # The dataset weighs tunes by the root of their bars besides, so the share is of these weights.
        own, theirs = (sum(tune.sheet.bars**0.5 for tune in part) for part in (tunes, made))
        share = self.data.rules_share / (1 - self.data.rules_share) * own / theirs
        return tunes + made, [1.0] * len(tunes) + [share] * len(made)


def row(preset: str) -> tuple[dict[str, Any], int]:
    """Training settings and sample length of a preset: the row whose name is the longest beginning of its name."""
    return ROWS[max((name for name in ROWS if preset.startswith(name)), key=len)]


if __name__ == "__main__":
    from audiogen.cli import recipe_main

    recipe_main(Recipe)

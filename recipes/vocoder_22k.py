"""Multi-band Parallel WaveGAN at 22.05 kHz on any scanned folder: log-mel in, waveform out.

    audiogen scan SOUNDS/ -o manifest.jsonl
    accelerate launch recipes/vocoder_22k.py --data.manifests manifest.jsonl --train.run runs/mine
    audiogen train vocoder_22k --data.manifests manifest.jsonl --train.run runs/mine       (the same thing, for people)
    audiogen vocode clip.wav --vocoder runs/mine/model -o copy.wav

Smoke: audiogen train vocoder_22k --data.manifests manifest.jsonl --train.steps 10 --train.batch-size 2 --data.frames 16

The run has three parts, by step: until `losses.magnitude_steps` only the network at frame rate learns, which costs a
tenth; then everything learns from spectral losses; from `losses.start` on against a discriminator. `--init FOLDER`
begins with the weights of another run's model. `--train.overfit 1` must bring "magnitude" of one batch below 0.6: the
distance between its spectrum and the one that the frame network reads from its mel.
Cost and scores of what is shipped, and its exact commands: audiogen/pretrained/default/vocoder/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import Dataset

from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.training.fit import TrainConfig
from vocoders.gan import GANConfig
from vocoders.parallel_wavegan import ParallelWaveGANConfig

OVERFIT_BELOW = 0.6


@dataclass(frozen=True)
class Data:
    """What to train on."""

    manifests: tuple[Path, ...] = (Path("manifest.jsonl"),)
    """Written by `audiogen scan`; each is drawn from as often, one that is named twice twice as often."""
    frames: int = 64
    """Length of a training segment, in mel frames (86 a second)."""
    peak_db: tuple[float, float] = (-26.0, -0.5)
    """Every segment is brought to a random peak in this range, in dB of full scale."""
    overlay: float = 0.25
    """Share of the segments on which one to three others are laid."""
    open_only: bool = False
    """Only files whose `licence` tag is public domain, CC0, CC-BY or MIT."""
    cache: bool = True
    """Decode everything once into memory (159 MB an hour)."""


@dataclass(frozen=True)
class Recipe:
    """Train a vocoder."""

    data: Data = Data()
    model: ParallelWaveGANConfig = ParallelWaveGANConfig()
    losses: GANConfig = GANConfig()
    train: TrainConfig = field(default_factory=lambda: TrainConfig(
        run=Path("runs/vocoder_22k"), steps=13_000, batch_size=8, learning_rate=6e-4, betas=(0.8, 0.99),
        weight_decay=1e-4, clip=5.0,
    ))
    init: Path | None = None
    """A checkpoint of the same model to begin with."""
    demos: int = 4
    """Clips of the valid split (of the train split, where there is none) that are rendered again as demos."""

    def run(self) -> int:
        from audiogen.core.checkpoint import load_checkpoint
        from audiogen.data.segments import SegmentDataset, collate
        from audiogen.training.fit import fit
        from vocoders.gan import VocoderTask
        from vocoders.parallel_wavegan import ParallelWaveGAN

        time = self.data.frames * self.model.mel.hop_length
        if time <= 1024:
            raise UserError(f"data.frames={self.data.frames} is {time} samples: the spectral loss needs over 1024")
        torch.manual_seed(self.train.seed)
        sources = {
            path: SegmentDataset(
                self._usable(path), self.model.mel, frames=self.data.frames, seed=self.train.seed, weights="seconds",
                cache=self.data.cache,
            )
            for path in dict.fromkeys(self.data.manifests)
        }
        parts = [sources[path] for path in self.data.manifests]
        model = ParallelWaveGAN(self.model)
        if self.init is not None:
            start = load_checkpoint(self.init, room="vocoder").model
            self.model.mel.require(start.config.mel, mine="this recipe", theirs=f"the checkpoint {self.init}")
            if start.config != self.model:
                raise UserError(f"--init {self.init} is another model ({start.config}) than --model asks for")
            model.load_state_dict(start.state_dict())
        task = VocoderTask(model, self.losses, clips=self._clips())
        minutes = sum(source.manifest.seconds for source in sources.values()) / 60
        labels = {"recipe": "vocoder_22k", "minutes": round(minutes, 1)}
        watched = "generator/magnitude" if len(task.players()) > 1 else "magnitude"
        summary = fit(
            task, Overlaid(parts, self.data, seed=self.train.seed), self.train, collate=collate, recipe=self,
            labels=labels, overfit_below=(watched, OVERFIT_BELOW),
        )
        return 130 if summary.interrupted == "SIGINT" else 0

    def _usable(self, path: Path, split: str = "train"):
        """The manifest's entries of a split that may be used and reach up to the mel format's highest frequency."""
        from audiogen.data.manifest import Manifest, read_manifest
        from audiogen.data.notes import is_open

        manifest = read_manifest(path)
        kept = tuple(
            entry for entry in manifest.select(split=split, duplicates=False)
            if entry.sample_rate >= self.model.mel.sample_rate
            and (not self.data.open_only or is_open(str(entry.tags.get("licence", ""))))
        )
        if not kept and split == "train":
            raise UserError(
                f"{path}: none of its {len(manifest)} files can be used (split 'train', at least "
                f"{self.model.mel.sample_rate} Hz{', an open licence' if self.data.open_only else ''})"
            )
        return Manifest(kept, manifest.root)

    def _clips(self) -> list[torch.Tensor]:
        """The first three seconds of `demos` files, spread over the first manifest."""
        from audiogen.data.segments import read_segment

        path = self.data.manifests[0]
        manifest = self._usable(path, "valid")
        if not len(manifest):
            manifest = self._usable(path)
        stride = max(1, len(manifest) // max(1, self.demos))
        rate, hop_length = self.model.mel.sample_rate, self.model.mel.hop_length
        sounds = [
            torch.from_numpy(read_segment(manifest.audio(entry), 0, 3 * rate, rate))[None]
            for entry in manifest.entries[::stride][: self.demos]
        ]
        return [sound for sound in sounds if sound.shape[1] >= 8 * hop_length]


class Overlaid(Dataset):
    """Segments of several datasets, some laid over each other, at random peaks. Item k depends on (seed, k) only."""

    def __init__(self, parts: list[Dataset], data: Data, *, seed: int) -> None:
        self.parts, self.data, self.seed = parts, data, seed

    def __getitem__(self, k: int):
        draws = SampleRng(self.seed, ids=[k], stream="overlay").rand(8).double()[0].tolist()
        example = self.parts[int(draws[0] * len(self.parts))][k]
        audio = _at_peak(example.audio, 0.0)
        if draws[1] < self.data.overlay:
            for extra in range(1 + int(draws[2] * 3)):
                other = self.parts[int(draws[3 + extra] * len(self.parts))][k + (extra + 1) * (1 << 40)]
                audio = audio + _at_peak(other.audio, -12.0 * draws[6])
        low, high = self.data.peak_db
        return example._replace(audio=_at_peak(audio, low + draws[7] * (high - low)), length=self.data.frames)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)


def _at_peak(audio: torch.Tensor, peak_db: float) -> torch.Tensor:
    """Silence stays silence."""
    peak = float(audio.abs().max())
    return audio * (10 ** (peak_db / 20) / peak) if peak > 1e-4 else audio


if __name__ == "__main__":
    from audiogen.cli import recipe_main

    recipe_main(Recipe)

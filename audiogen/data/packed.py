"""Packed data as numbered samples: segments of shards on a disk, behind HTTP or in object storage, in shuffled order.

Sample k is a pure function of (seed, k), as everywhere in the house; the order is `data/window_shuffle.py`, and where
shards come from is `data/shard_store.py`. Only the shards of a window are needed at a time; far ones are fetched a
window ahead. The price of order without state: every machine (not every process) reads every shard once an epoch.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiogen.conditioning.labels import StyleVocabulary
from audiogen.conditioning.piano_roll import roll_of
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.data.pairs import style_vector
from audiogen.data.segments import Example
from audiogen.data.shard_store import Sample, ShardStore, read_index
from audiogen.data.shards import EXTENSIONS
from audiogen.data.window_shuffle import WindowShuffle


class PackedDataset(Dataset):
    """Segments of `frames` mel frames out of shards made by `audiogen pack`; `segments.collate` makes batches of them.

    where: a folder, or the address of one: https://..., s3://... and whatever else fsspec opens.
    mel: refused where the shards are of another format. vocabulary: for the condition's style vector and piano roll;
    None: no condition. window: shards that are shuffled together and kept open. cache: where copies of remote shards
    lie, at most `cache_gb` of them (default: ~/.cache/audiogen/shards).
    An epoch is every piece once, each at a random place; one that is shorter than a segment is filled up.
    """

    def __init__(
        self, where: str | Path, mel: MelFormat | None = None, *, frames: int, seed: int = 0, split: str = "train",
        vocabulary: StyleVocabulary | None = None, window: int = 4, cache: Path | None = None, cache_gb: float = 50.0,
    ) -> None:
        self.where = str(where).rstrip("/")
        self.index = read_index(self.where)
        if mel is not None:
            mel.require(self.index.mel, mine="the model", theirs=f"the shards in {self.where}")
        if frames < 1 or window < 1:
            raise UserError(f"frames={frames}, window={window}: both must be at least 1")
        if frames % self.index.frames_per_step:
            raise UserError(f"frames={frames} must be a multiple of {self.index.frames_per_step}, the mel frames of "
                            "one latent")
        self.mel, self.frames, self.seed, self.split = self.index.mel, frames, seed, split
        self.vocabulary = vocabulary
        self.shards = self.index.of(split)
        self.order = WindowShuffle([shard.samples for shard in self.shards], seed=seed, window=window)
        self.store = ShardStore(self.where, cache=cache, cache_gb=cache_gb, open_limit=2 * window + 2)

    def __len__(self) -> int:
        """Pieces, that is, samples of an epoch."""
        return self.order.total

    def __getitem__(self, k: int) -> Example:
        shard, piece = self.order.place(k)
        if self.store.remote:
            self.store.prefetch([self.shards[later] for later in self.order.after(k)])
        sample = self.store.open(self.shards[shard])[piece]
        draw = float(SampleRng(self.seed, ids=[k], stream="packed").rand(1).double())
        about = sample.about()
        if self.index.what == "audio":
            audio, length, start = self._audio(sample, draw)
            return Example(audio, length, self._condition(about, start), k, about["text"])
        array, length, start = self._array(sample, draw)
        return Example(torch.zeros(1, 0), length, self._condition(about, start), k, about["text"],
                       **{"mel" if self.index.what == "mel" else "latents": array})

    def _audio(self, sample: Sample, draw: float) -> tuple[Tensor, int, float]:
        """-> audio (1, time), frames of it that are sound, where it begins in the piece (seconds)."""
        import soundfile

        rate, time = self.mel.sample_rate, self.frames * self.mel.hop_length
        try:
            with soundfile.SoundFile(io.BytesIO(sample.content(EXTENSIONS["audio"]))) as file:
                if (file.samplerate, file.channels) != (rate, 1):
                    raise UserError(f"{sample.where} has {file.channels} channels at {file.samplerate} Hz where one at "
                                    f"{rate} Hz was packed")
                start = int(draw * (max(0, file.frames - time) + 1))
                file.seek(start)
                found = file.read(time, dtype="float32")
        except (soundfile.LibsndfileError, RuntimeError, OSError, ValueError) as reason:
            raise UserError(f"{sample.where} cannot be read as audio ({str(reason).rstrip('.')})") from None
        audio = np.zeros((1, time), np.float32)
        audio[0, : len(found)] = found
        return torch.from_numpy(audio), -(-len(found) // self.mel.hop_length), start / rate

    def _array(self, sample: Sample, draw: float) -> tuple[Tensor, int, float]:
        """-> mel or latent (rows, steps), mel frames of it that are sound, where it begins in the piece (seconds)."""
        array, step = sample.array(EXTENSIONS[self.index.what]), self.index.frames_per_step
        if array.shape[0] != self.index.rows:
            raise UserError(f"{sample.where} has {array.shape[0]} rows where the index says {self.index.rows}")
        steps = self.frames // step
        start = int(draw * (max(0, array.shape[1] - steps) + 1))
        cut = array[:, start : start + steps]
        filled = np.full((self.index.rows, steps), self.mel.lowest if self.index.what == "mel" else 0.0, np.float32)
        filled[:, : cut.shape[1]] = cut
        if not np.isfinite(filled).all():
            raise UserError(f"{sample.where} holds NaN or infinite values")
        return torch.from_numpy(filled), cut.shape[1] * step, start * step / self.mel.frame_rate

    def _condition(self, about: dict, start: float) -> Condition:
        if self.vocabulary is None:
            return Condition()
        roll = roll_of(about["notes"], self.frames, frame_rate=self.mel.frame_rate, start=start)
        return Condition(vector=style_vector(self.vocabulary, about["styles"]), aligned=roll)

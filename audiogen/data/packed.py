"""Packed data as numbered samples: segments of shards on a disk, behind HTTP or in object storage, in shuffled order.

Sample k is a pure function of (seed, k), as everywhere in the house; the order is `data/window_shuffle.py`, and where
shards come from is `data/shard_store.py`. Only the shards of a window are needed at a time; far ones are fetched a
window ahead. The price of order without state: every machine (not every process) reads every shard once an epoch.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiogen.conditioning.labels import StyleVocabulary
from audiogen.conditioning.piano_roll import rolls_of
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.data.pairs import style_vector
from audiogen.data.segments import Example
from audiogen.data.shard_store import Sample, ShardStore, read_index
from audiogen.data.shards import EXTENSIONS
from audiogen.data.window_shuffle import WindowShuffle

_NO_AUDIO = torch.zeros(1, 0)  # where only the mel is known, or the latents
_FIELDS = {"audio": "audio", "mel": "mel", "latent": "latents"}  # of an `Example`, by what was packed


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
        return self.__getitems__([k])[0]

    def __getitems__(self, ids: Sequence[int]) -> list[Example]:
        """The samples of a batch: PyTorch's loaders ask for them together, and together they cost a third."""
        samples = [self._sample(k) for k in ids]
        abouts = [sample.about() for sample in samples]
        draws = SampleRng(self.seed, ids=ids, stream="packed").rand(1).double()[:, 0].tolist()
        read = self._audio if self.index.what == "audio" else self._arrays
        content, lengths, starts = read(samples, draws)
        conditions = self._conditions(abouts, starts)
        examples = []
        for row, (k, part) in enumerate(zip(ids, content.unbind(), strict=True)):
            example = Example(_NO_AUDIO, lengths[row], conditions[row], k, abouts[row]["text"])
            examples.append(example._replace(**{_FIELDS[self.index.what]: part}))
        return examples

    def _sample(self, k: int) -> Sample:
        shard, piece = self.order.place(k)
        if self.store.remote:
            self.store.prefetch([self.shards[later] for later in self.order.after(k)])
        return self.store.open(self.shards[shard])[piece]

    def _audio(self, samples: list[Sample], draws: list[float]) -> tuple[Tensor, list[int], list[float]]:
        """-> audio (batch, 1, time), frames that are sound, where each begins in its piece (seconds)."""
        import soundfile

        rate, time = self.mel.sample_rate, self.frames * self.mel.hop_length
        audio = np.zeros((len(samples), 1, time), np.float32)
        lengths, starts = [], []
        for row, (sample, draw) in enumerate(zip(samples, draws, strict=True)):
            try:
                with soundfile.SoundFile(io.BytesIO(sample.content(EXTENSIONS["audio"]))) as file:
                    if (file.samplerate, file.channels) != (rate, 1):
                        raise UserError(f"{sample.where} has {file.channels} channels at {file.samplerate} Hz where "
                                        f"one at {rate} Hz was packed")
                    start = int(draw * (max(0, file.frames - time) + 1))
                    file.seek(start)
                    found = file.read(time, dtype="float32")
            except (soundfile.LibsndfileError, RuntimeError, OSError, ValueError) as reason:
                raise UserError(f"{sample.where} cannot be read as audio ({str(reason).rstrip('.')})") from None
            audio[row, 0, : len(found)] = found
            lengths.append(-(-len(found) // self.mel.hop_length))
            starts.append(start / rate)
        return torch.from_numpy(audio), lengths, starts

    def _arrays(self, samples: list[Sample], draws: list[float]) -> tuple[Tensor, list[int], list[float]]:
        """-> mels or latents (batch, rows, steps), mel frames that are sound, where each begins (seconds)."""
        extension, step, rows = EXTENSIONS[self.index.what], self.index.frames_per_step, self.index.rows
        steps = self.frames // step
        silence = self.mel.lowest if self.index.what == "mel" else 0.0
        filled = np.full((len(samples), rows, steps), silence, np.float32)
        lengths, starts = [], []
        for row, (sample, draw) in enumerate(zip(samples, draws, strict=True)):
            array = sample.array(extension)
            if array.shape[0] != rows:
                raise UserError(f"{sample.where} has {array.shape[0]} rows where the index says {rows}")
            start = int(draw * (max(0, array.shape[1] - steps) + 1))
            cut = array[:, start : start + steps]
            filled[row, :, : cut.shape[1]] = cut
            lengths.append(cut.shape[1] * step)
            starts.append(start * step / self.mel.frame_rate)
        if not np.isfinite(filled).all():
            damaged = samples[int((~np.isfinite(filled)).any(axis=(1, 2)).argmax())]
            raise UserError(f"{damaged.where} holds NaN or infinite values")
        return torch.from_numpy(filled), lengths, starts

    def _conditions(self, abouts: list[dict], starts: list[float]) -> list[Condition]:
        if self.vocabulary is None:
            return [Condition()] * len(abouts)
        tables = [about["notes"] for about in abouts]
        rolls = torch.from_numpy(rolls_of(tables, self.frames, frame_rate=self.mel.frame_rate, starts=starts))
        return [Condition(vector=style_vector(self.vocabulary, about["styles"]), aligned=roll)
                for about, roll in zip(abouts, rolls.unbind(), strict=True)]

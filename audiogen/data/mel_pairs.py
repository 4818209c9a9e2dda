"""Audio with the mels that a generator made for it, for fine-tuning a vocoder on a generator's own mistakes.

    sounds/piano/a.flac  ↔  generated/piano/a.npy  or  generated/a.safetensors

A mel belongs to the file of the same path without its suffix, or else of the same name. It must be of the vocoder's
format (a .safetensors file may say so itself, in its metadata "mel_format") and have one column for each hop of the
audio; formats that pad "center" may have one more.
"""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiogen.core.config import from_dict
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.data.manifest import Manifest
from audiogen.data.segments import read_segment

SUFFIXES = (".npy", ".safetensors")


class Pair(NamedTuple):
    audio: Tensor  # (1, time)
    mel: Tensor  # (n_mels, frames)
    id: int


class MelPairs(Dataset):
    """Segments of `frames` frames that begin at a frame; item k is a pure function of (seed, k). Everything is kept in
    memory. Raises `UserError` where no file has a mel, or one that does not fit its audio."""

    def __init__(self, manifest: Manifest, format: MelFormat, folder: Path, *, frames: int, seed: int = 0) -> None:
        self.format, self.frames, self.seed = format, frames, seed
        self.items: list[tuple[np.ndarray, Tensor]] = []
        self.entries, without = [], []
        mels = _find(folder)
        for entry in manifest:
            path = mels.get(str(Path(entry.path).with_suffix(""))) or mels.get(Path(entry.path).stem)
            if path is None:
                without.append(entry)
                continue
            mel = read_mel(path, format)
            time = int(entry.time * format.sample_rate / entry.sample_rate)
            hops = time // format.hop_length
            if mel.shape[1] not in {hops, hops + 1, format.frames(time)}:
                raise UserError(
                    f"{path} has {mel.shape[1]} frames and {entry.path} has {hops} hops of {format.hop_length} samples "
                    f"at {format.sample_rate} Hz: generate it again at the length of its audio"
                )
            if min(hops, mel.shape[1]) >= frames:
                audio = read_segment(manifest.audio(entry), 0, time, format.sample_rate, expected=entry)
                self.items.append((audio, mel))
                self.entries.append(entry)
        if not self.items:
            raise UserError(
                f"no mel in {folder} belongs to a file of the manifest and has {frames} frames ({len(mels)} mels, "
                f"{len(manifest)} files): a mel has its file's name, and ends in .npy or .safetensors"
            )
        if without:
            print(f"{len(without)} of {len(manifest)} files have no mel in {folder} and are left out, "
                  f"the first: {without[0].path}")
        self._ends = list(accumulate(self._rooms()))

    def _rooms(self) -> list[int]:
        """Places at which a segment of each file can begin."""
        hop_length = self.format.hop_length
        return [min(len(audio) // hop_length, mel.shape[1]) - self.frames + 1 for audio, mel in self.items]

    def __len__(self) -> int:
        return max(1, self._ends[-1] // self.frames)

    def __getitem__(self, k: int) -> Pair:
        draw = float(SampleRng(self.seed, ids=[k], stream="mel_pairs").rand(1).double())
        place = min(int(draw * self._ends[-1]), self._ends[-1] - 1)
        index = int(np.searchsorted(self._ends, place, side="right"))
        start = place - (self._ends[index - 1] if index else 0)
        audio, mel = self.items[index]
        hop_length = self.format.hop_length
        cut = audio[start * hop_length : (start + self.frames) * hop_length]
        return Pair(torch.from_numpy(np.array(cut))[None], mel[:, start : start + self.frames], k)


def collate_pairs(pairs: list[Pair]) -> Batch:
    """-> a `Batch` whose mels are the generator's."""
    return Batch(
        audio=torch.stack([pair.audio for pair in pairs]), mel=torch.stack([pair.mel for pair in pairs]),
        lengths=torch.tensor([pair.mel.shape[1] for pair in pairs]), condition=Condition(),
        ids=torch.tensor([pair.id for pair in pairs]),
    )


def read_mel(path: Path, format: MelFormat) -> Tensor:
    """-> (n_mels, frames) float32, out of .npy or the tensor "mel" of .safetensors, in `format` as far as it says."""
    try:
        if path.suffix == ".npy":
            mel = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        else:
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                said = (file.metadata() or {}).get("mel_format")
                mel = file.get_tensor("mel").float()
            if said:
                from_dict(MelFormat, json.loads(said)).require(format, mine=str(path), theirs="the vocoder")
    except UserError:
        raise
    except Exception as reason:  # numpy and safetensors raise half a dozen kinds here
        raise UserError(f"{path} holds no readable mel ({str(reason).splitlines()[0]})") from None
    mel = mel[0] if mel.dim() == 3 and mel.shape[0] == 1 else mel
    if mel.dim() != 2 or mel.shape[0] != format.n_mels:
        raise UserError(f"{path} holds an array of shape {tuple(mel.shape)}; a mel here is ({format.n_mels}, frames)")
    if not torch.isfinite(mel).all():
        raise UserError(f"{path} holds NaN or infinite values")
    return mel


def _find(folder: Path) -> dict[str, Path]:
    """Path below the folder without suffix, and name alone where only one file has it -> file."""
    if not folder.is_dir():
        raise UserError(f"no folder of mels at {folder}")
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    names: dict[str, list[Path]] = {}
    for path in files:
        names.setdefault(path.stem, []).append(path)
    unique = {name: paths[0] for name, paths in names.items() if len(paths) == 1}
    return unique | {str(path.relative_to(folder).with_suffix("")): path for path in files}

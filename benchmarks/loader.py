"""How fast training data is read: segments of one second a second, with style vector and piano roll in every sample.

    python benchmarks/loader.py --write benchmarks/results/loader.json

"flac": segments of FLAC files, decoded when they are asked for, with their mels. "mel shards": what `audiogen pack
--what mel` wrote. Both by CPU time in one process, and by wall time with `--workers` processes. The machine may be
shared: every figure is the best of several short runs, and the load is written down.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from audiogen.conditioning.labels import StyleVocabulary
from audiogen.conditioning.text import WordVectors
from audiogen.core.mel_format import MelFormat
from audiogen.core.score import Note, Score
from audiogen.data.manifest import Entry, Manifest
from audiogen.data.pack import PackSettings, pack
from audiogen.data.packed import PackedDataset
from audiogen.data.pairs import StyleAndScore
from audiogen.data.segments import SegmentDataset, collate
from audiogen.pipeline import DEFAULT
from audiogen.signal.mel import MelSpectrogram
from audiogen.training.parcel import InParcels, opened

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.clip import machine  # noqa: E402

MEL = MelFormat()
FRAMES = 86  # 0.998 s
GOALS = {"flac": 300, "mel shards": 3000}  # segments a second on two cores


def sounds(folder: Path, files: int, seconds: float) -> Manifest:
    """Files of noise in FLAC, half of them at 44.1 kHz in stereo, each with a score of four notes a second."""
    entries = []
    for number in range(files):
        rate, channels = ((44100, 2), (22050, 1))[number % 2]
        shape = (round(seconds * rate), channels)
        soundfile.write(folder / f"{number}.flac", 0.1 * np.random.default_rng(number).standard_normal(shape), rate)
        notes = tuple(Note(0.25 * i, 0.5, 40 + (7 * i + number) % 48) for i in range(round(4 * seconds) - 2))
        Score(notes).save(folder / f"{number}.mid")
        entries.append(Entry(f"{number}.flac", seconds, rate, channels, styles=("cello", "rain")[number % 2 :][:1],
                             score=f"{number}.mid", hash=str(number)))
    return Manifest(tuple(entries), folder)


class WithMel(Dataset):
    """The dataset, with mels computed where the loader is."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.front_end = dataset, MelSpectrogram(MEL)

    def __getitem__(self, k: int):
        example = self.dataset[k]
        with torch.inference_mode():
            return example._replace(mel=self.front_end(example.audio)[0].clone())


def best(work: Callable[[], None], clock: Callable[[], float], runs: int) -> float:
    taken = []
    for _ in range(runs):
        began = clock()
        work()
        taken.append(clock() - began)
    return min(taken)


def measure(dataset: Dataset, count: int, batch: int, workers: int, runs: int) -> dict[str, float]:
    batches = [list(range(first, first + batch)) for first in range(0, count, batch)]

    fetch = getattr(dataset, "__getitems__", lambda ids: [dataset[k] for k in ids])  # as PyTorch's loader does

    def alone() -> None:
        for ids in batches:
            collate(fetch(ids))

    alone()
    cpu = best(alone, time.process_time, runs) / count
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=InParcels(collate), num_workers=workers,
                        multiprocessing_context="spawn", persistent_workers=True, prefetch_factor=4)

    def together() -> None:
        for parcel in loader:
            opened(parcel)

    together()
    wall = best(together, time.perf_counter, runs)
    return {"cpu_us_a_segment": round(1e6 * cpu, 1), "of_two_cores_by_cpu_time": round(2 / cpu),
            f"wall_{workers}_workers": round(count / wall)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each file")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--segments", type=int, default=256, help="of a run from FLAC; eight times as many from shards")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    vocabulary = StyleVocabulary(("cello", "rain"), WordVectors.load(DEFAULT / "words.safetensors"))
    with tempfile.TemporaryDirectory() as place:
        manifest = sounds(Path(place), options.files, options.seconds)
        pack(manifest, Path(place, "shards"), PackSettings("mel", piece=10.0, shard_mb=4.0), workers=1)
        flac = SegmentDataset(manifest, MEL, frames=FRAMES, encode=StyleAndScore(vocabulary, MEL, manifest))
        shards = PackedDataset(Path(place, "shards"), MEL, frames=FRAMES, vocabulary=vocabulary)
        more = (options.batch, options.workers, options.runs)
        found = {"flac": measure(WithMel(flac), options.segments, *more),
                 "mel shards": measure(shards, 8 * options.segments, *more)}
    result = {**machine(), "load": round(os.getloadavg()[0], 1), "batch": options.batch,
              "segment_seconds": round(FRAMES / MEL.frame_rate, 3),
              "goals": GOALS, "segments_a_second": found}
    print(json.dumps(result, indent=1))
    if options.write is not None:
        options.write.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

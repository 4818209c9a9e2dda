"""What does a mel codec lose, and what does it use? Held-out clips -> codes -> mel; --json PATH writes the table.

    python benchmarks/codec.py --checkpoint runs/codec/model --manifest manifest.jsonl [--clips 128] [--json codec.json]

For 1, 2, ... books: bit rate, L1 distance of the mel in its own units (natural log: 0.35 is 3 dB), and the perplexity
of the book on these clips: as many codes, all chosen equally often, would be as hard to tell. Clips are of the split
that was not trained on, each style as often; padding does not count.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from audiogen.core.checkpoint import load_checkpoint  # noqa: E402
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.files import whole_file  # noqa: E402
from audiogen.data.segments import SegmentDataset, collate  # noqa: E402
from audiogen.generators.mel_model import frame_mask  # noqa: E402
from audiogen.signal.mel import MelSpectrogram  # noqa: E402


@torch.inference_mode()
def measure(checkpoint: Path, manifest: Path, clips: int, split: str) -> dict:
    codec = load_checkpoint(checkpoint, room="generator").model.eval()
    if not hasattr(codec, "quantiser"):
        raise UserError(f"{checkpoint} holds a {type(codec).__name__}, and no codec")
    mel, books, size = codec.config.mel, codec.quantiser.config.books, codec.quantiser.config.size
    dataset = SegmentDataset(manifest, mel, frames=172, split=split, weights="styles")
    front_end = MelSpectrogram(mel)
    errors, values, used, spent, seconds = [0.0] * books, 0.0, torch.zeros(books, size), 0.0, 0.0
    for first in range(0, clips, 16):
        batch = collate([dataset[k] for k in range(first, min(first + 16, clips))])
        real = front_end(batch.audio)
        mask = frame_mask(batch.lengths, real)
        began = time.perf_counter()
        codes = codec.encode(real, batch.lengths)
        codec.decode(codes, real.shape[2])
        spent += time.perf_counter() - began
        seconds += real.shape[0] * real.shape[2] / mel.frame_rate
        steps = mask[:, 0, :: codec.config.rate] > 0  # (batch, steps)
        values += float(mask.sum()) * mel.n_mels
        for book in range(books):
            made = codec.decode(codes[:, : book + 1], real.shape[2])
            errors[book] += float(((made - real).abs() * mask).sum())
            used[book] += torch.bincount(codes[:, book][steps], minlength=size)
    share = used / used.sum(dim=1, keepdim=True)
    perplexity = torch.exp(-torch.xlogy(share, share).sum(dim=1))
    bits = mel.frame_rate / codec.config.rate * math.log2(size)
    rows = [
        {"books": book + 1, "bits_per_second": round(bits * (book + 1), 1), "mel_l1": errors[book] / values,
         "perplexity": float(perplexity[book]), "used": float((used[book] > 0).float().mean())}
        for book in range(books)
    ]
    return {"clips": clips, "split": split, "size": size, "parameters": sum(p.numel() for p in codec.parameters()),
            "audio_seconds_per_second": seconds / spent, "rows": rows}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--checkpoint", type=Path, required=True)
    arguments.add_argument("--manifest", type=Path, required=True)
    arguments.add_argument("--clips", type=int, default=128, help="of 2 seconds each")
    arguments.add_argument("--split", default="test")
    arguments.add_argument("--json", type=Path, help="write the table here too")
    options = arguments.parse_args()
    found = measure(options.checkpoint, options.manifest, options.clips, options.split)
    print(f"{found['parameters']} parameters; {found['clips']} held-out clips; encoded and decoded at "
          f"{found['audio_seconds_per_second']:.0f} x real time, {torch.get_num_threads()} threads")
    print(f"{'books':>6}{'bit/s':>8}{'mel L1':>9}{'perplexity':>12}{'used':>7}")
    for row in found["rows"]:
        print(f"{row['books']:6}{row['bits_per_second']:8.0f}{row['mel_l1']:9.3f}{row['perplexity']:12.1f}"
              f"{row['used']:7.0%}")
    if options.json:
        machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        with whole_file(options.json) as part:
            part.write_text(json.dumps({"machine": machine, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()

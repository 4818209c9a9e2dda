"""Damaged files: every one is read, or refused with a reason; none crashes, hangs or fails in a way of its own.

    python benchmarks/fuzz.py --mutations 10000 --write benchmarks/results/fuzz.json

Valid WAV, FLAC, Ogg, MIDI, manifest, shard, index, .npy, .safetensors and checkpoint files are changed: bits flipped,
ends cut off, blocks copied, taken out or zeroed, extreme sizes written. Each is given to what reads it, in children
that are killed after `LIMIT` seconds. A `UserError` or a scan's reject is a refusal; all else is a finding.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[1])  # beside this file lies a vocoders.py that is not the package

from benchmarks.clip import machine  # noqa: E402  (after the path)

LIMIT = 20.0  # seconds for one file
EXTREMES = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00",
            b"99999999", b"-1", b"NaN", b"1e999", b'""', b"[[[[", b"../../x", b"null")


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to four changes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        size = len(data)
        if not size:
            break
        at = rng.randrange(min(size, 600)) if rng.random() < 0.5 else rng.randrange(size)  # headers stand first
        kind, length = rng.randrange(6), rng.choice((1, 4, 64, 512))
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at : at + length] = bytes(min(length, size - at))
        else:
            new = rng.choice(EXTREMES)
            data[at : at + len(new)] = new
    return bytes(data)


# ------------------------------------------------------------------------- valid files, and who reads them


def make_valid(folder: Path) -> dict[str, tuple[Path, Callable[[Path], None]]]:
    """kind -> (a valid file, its reader). A reader may use the files beside it."""
    import soundfile
    import torch
    from safetensors.torch import save_file

    from audiogen.core.checkpoint import save_checkpoint
    from audiogen.core.score import Note, Score
    from audiogen.data.manifest import Entry, Manifest, write_manifest
    from audiogen.data.pack import PackSettings, pack
    from vocoders.parallel_wavegan import ParallelWaveGAN, ParallelWaveGANConfig

    sound = 0.2 * np.random.default_rng(0).standard_normal(6000)
    entries = []
    for suffix in ("wav", "flac", "ogg"):
        soundfile.write(folder / f"a.{suffix}", sound, 22050)
        entries.append(Entry(f"a.{suffix}", soundfile.info(folder / f"a.{suffix}").frames / 22050, 22050, 1,
                             styles=("cello",), score="a.mid", text="a sound", tags={"licence": "CC0"}))
    Score(tuple(Note(0.1 * i, 0.2, 50 + i) for i in range(12))).save(folder / "a.mid")
    write_manifest(folder / "manifest.jsonl", entries, root=folder)
    for what in ("audio", "mel"):
        pack(Manifest(tuple(entries), folder), folder / what, PackSettings(what, piece=0.5), workers=1)
    mel = np.zeros((80, 20), np.float32)
    np.save(folder / "a.npy", mel)
    save_file({"mel": torch.from_numpy(mel)}, folder / "a.safetensors")
    save_checkpoint(folder / "model", ParallelWaveGAN(ParallelWaveGANConfig()), room="vocoder")
    valid = {f"a.{suffix}": read_sound for suffix in ("wav", "flac", "ogg")}
    valid |= {"a.mid": read_score, "manifest.jsonl": read_entries, "audio/index.json": read_packed,
              "audio/train-000000.tar": read_packed, "mel/index.json": read_packed, "mel/train-000000.tar": read_packed,
              "a.npy": read_frames, "a.safetensors": read_frames, "model/config.json": read_model,
              "model/model.safetensors": read_model}
    return {name: (folder / name, reader) for name, reader in valid.items()}


def read_sound(path: Path) -> None:
    from audiogen.core.audio import Audio
    from audiogen.core.errors import UserError
    from audiogen.data.measure import BadFile, measure
    from audiogen.data.segments import read_segment

    refused = []
    for reader in (measure, partial(read_segment, start=1000, time=2000, sample_rate=16000), Audio.read):
        try:
            reader(path)
        except (BadFile, UserError) as reason:
            refused.append(reason)
    if refused:
        raise UserError(str(refused[0]))


def read_score(path: Path) -> None:
    from audiogen.conditioning.piano_roll import piano_roll
    from audiogen.core.score import Score

    piano_roll(Score.read(path), 100, frame_rate=86.0)


def read_entries(path: Path) -> None:
    from audiogen.core.mel_format import MelFormat
    from audiogen.data.manifest import read_manifest
    from audiogen.data.segments import SegmentDataset

    SegmentDataset(read_manifest(path), MelFormat(), frames=8, split=None, bad_share=1.0)[0]


def read_packed(path: Path) -> None:
    from audiogen.data.packed import PackedDataset

    dataset = PackedDataset(path.parent, frames=8)
    for k in range(min(len(dataset), 3)):
        dataset[k]


def read_frames(path: Path) -> None:
    from audiogen.core.mel_format import MelFormat
    from audiogen.data.mel_pairs import read_mel

    read_mel(path, MelFormat())


def read_model(path: Path) -> None:
    from audiogen.core.checkpoint import load_checkpoint

    load_checkpoint(path.parent, room="vocoder")


# ------------------------------------------------------------------------- children


def work(valid: dict[str, tuple[Path, Callable[[Path], None]]], seed: int, numbers: list[int], report: int) -> None:
    """In a child: mutation after mutation, a line before each and after it. Never returns."""
    from audiogen.core.errors import UserError

    names = sorted(valid)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    with os.fdopen(report, "w", buffering=1) as told:
        for number in numbers:
            rng = random.Random(f"{seed} {number}")
            name = names[number % len(names)]
            source, reader = valid[name]
            told.write(json.dumps([number, name, "begun", ""]) + "\n")
            place = beside(source, folder)
            whole = place.read_bytes()
            place.write_bytes(mutated(whole, rng))
            try:
                reader(place)
                found = ("accepted", "")
            except UserError as reason:
                found = ("refused", str(reason))
            except BaseException:
                found = ("failed", traceback.format_exc()[-600:])
            place.write_bytes(whole)
            told.write(json.dumps([number, name, *found]) + "\n")
    os._exit(0)


def beside(source: Path, folder: Path) -> Path:
    """A copy of the file's folder for this child."""
    place = folder / source.parent.name
    if not place.is_dir():
        shutil.copytree(source.parent, place)
    return place / source.name


def fuzz(folder: Path, mutations: int, *, seed: int = 0, children: int = 2, limit: float = LIMIT) -> dict:
    """-> counts by outcome and kind of file, and the findings."""
    import torch

    torch.set_num_threads(1)
    valid = make_valid(folder)
    for path, reader in valid.values():
        reader(path)  # what is not damaged is read; and all modules are loaded before the children begin
    counts: Counter = Counter()
    findings: list[dict] = []
    queues = [list(range(first, mutations, children)) for first in range(children)]
    selector = selectors.DefaultSelector()

    def begin(numbers: list[int]) -> None:
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(here)
            work(valid, seed, numbers, there)
        os.close(there)
        os.set_blocking(here, False)
        state = {"child": child, "numbers": numbers, "text": b"", "now": None, "since": time.monotonic()}
        selector.register(here, selectors.EVENT_READ, state)

    def end(file: int, state: dict) -> None:
        selector.unregister(file)
        os.close(file)
        _, status = os.waitpid(state["child"], 0)
        if state["now"] is not None:
            number, name = state["now"]
            kind = "hung" if state.get("killed") else "crashed"
            counts[name, kind] += 1
            findings.append({"number": number, "file": name, "what": kind, "status": status})
            print(findings[-1], file=sys.stderr, flush=True)
            rest = [other for other in state["numbers"] if other > number]
            if rest:
                begin(rest)

    for numbers in queues:
        if numbers:
            begin(numbers)
    while selector.get_map():
        for key, _ in selector.select(timeout=0.5):
            state = key.data
            block = os.read(key.fd, 1 << 16)
            if not block:
                end(key.fd, state)
                continue
            *lines, state["text"] = (state["text"] + block).split(b"\n")
            for line in lines:
                number, name, what, said = json.loads(line)
                state["since"] = time.monotonic()
                state["now"] = (number, name) if what == "begun" else None
                if what != "begun":
                    counts[name, what] += 1
                if what == "failed" or (what == "refused" and "\n" in said.strip()):
                    last = said.strip().splitlines()[-1]  # no paths of the machine, which a traceback has
                    findings.append({"number": number, "file": name, "what": what, "said": last})
                    print(findings[-1], file=sys.stderr, flush=True)
        for key in list(selector.get_map().values()):
            if time.monotonic() - key.data["since"] > limit and not key.data.get("killed"):
                key.data["killed"] = True
                os.kill(key.data["child"], 9)
    files = {name: {what: counts[name, what] for what in ("accepted", "refused", "failed", "crashed", "hung")
                    if counts[name, what]} for name in sorted(valid)}
    return {"mutations": sum(counts.values()), "findings": len(findings), "files": files, "found": findings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--children", type=int, default=2)
    parser.add_argument("--limit", type=float, default=LIMIT)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["TMPDIR"] = tempfile.tempdir = place
        valid = Path(place, "valid")  # the children's copies lie beside it
        valid.mkdir()
        result = fuzz(valid, options.mutations, seed=options.seed, children=options.children, limit=options.limit)
    print(json.dumps(result, indent=1))
    if options.write is not None:
        result = machine() | {"seed": options.seed} | result
        options.write.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(bool(result["findings"]))


if __name__ == "__main__":
    main()

"""What is carried to a GPU machine, and how it is read there: packed mels, clips, states, checkpoints. See gpu.py."""

from __future__ import annotations

import bz2
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402

from audiogen.conditioning.piano_roll import piano_roll  # noqa: E402
from audiogen.core.checkpoint import save_checkpoint  # noqa: E402
from audiogen.core.config import from_dict, to_dict  # noqa: E402
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.files import whole_file, whole_folder  # noqa: E402
from audiogen.core.interfaces import Batch, Condition  # noqa: E402
from audiogen.core.mel_format import MelFormat  # noqa: E402
from audiogen.core.rng import SampleRng  # noqa: E402
from audiogen.core.score import Score  # noqa: E402

WHEELS = (
    "soundfile cffi pycparser soxr auraloss mido tyro docstring-parser typeguard pyloudnorm "
    "librosa audioread pooch decorator platformdirs"
).split()  # librosa is not needed to train, only as an oracle of the tests
PART = 15 * 2**20 + 2**19  # bytes: what comes back may have 16 MiB a file
CARRIED = 64 * 2**20  # bytes: the tree and the pack together


def download_wheels(folder: Path) -> None:
    """Wheels of what the GPU machine lacks, through pip."""
    platforms = ("2_28_x86_64", "2_27_x86_64", "2_17_x86_64", "2014_x86_64", "1_x86_64")
    manylinux = ("manylinux_{}" if "_" in tag[:4] else "manylinux{}" for tag in platforms)
    words = [word for form, tag in zip(manylinux, platforms, strict=True) for word in ("--platform", form.format(tag))]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.12",
         "--implementation", "cp", *words, "-d", str(folder), *WHEELS],
        check=True,
    )


def pack_mels(manifest_file: Path, folder: Path, *, step: float, mel: MelFormat | None = None) -> None:
    """mels.bz2, index.json, scores.zip: all that the generator is trained on.

    A log-mel is kept as round((mel - lowest) / step), 8 bits, each frame as its difference to the one before it. At a
    step of 0.08 the mean error is 0.02 (natural log units), where the model's own is near 0.9.
    """
    from audiogen.data.manifest import read_manifest
    from audiogen.data.segments import read_segment
    from audiogen.signal.mel import MelSpectrogram

    mel = mel or MelFormat()
    manifest, front_end = read_manifest(manifest_file), MelSpectrogram(mel)
    lowest = math.log(mel.floor) / (math.log(10) if mel.log == "log10" else 1.0)
    entries, packer = [], bz2.BZ2Compressor(9)
    with whole_folder(folder) as part:
        scores = zipfile.ZipFile(part / "scores.zip", "w", zipfile.ZIP_DEFLATED)
        with scores, open(part / "mels.bz2", "wb") as mels:
            for entry in manifest:
                if entry.split not in ("train", "valid") or not entry.styles:
                    continue
                time_at_rate = math.ceil(entry.time * mel.sample_rate / entry.sample_rate)
                sound = read_segment(manifest.audio(entry), 0, time_at_rate, mel.sample_rate, expected=entry)
                if len(sound) < mel.n_fft:
                    continue
                frames = front_end(torch.from_numpy(np.ascontiguousarray(sound))[None])[0].T.numpy()
                levels = np.round((frames - lowest) / step).clip(0, 255).astype(np.uint8)  # (frames, n_mels)
                mels.write(packer.compress(np.diff(levels, axis=0, prepend=levels[:1] * 0).tobytes()))
                score = manifest.score(entry)
                if score is not None:
                    scores.write(score, f"{len(entries)}.mid")
                entries.append({"frames": len(levels), "split": entry.split, "styles": entry.styles,
                                "score": score is not None, "text": entry.text})
            mels.write(packer.flush())
        values = {"mel": to_dict(mel), "lowest": lowest, "step": step, "entries": entries}
        (part / "index.json").write_text(json.dumps(values))
    print(f"generator: {len(entries)} files, {sum(e['frames'] for e in entries) / mel.frame_rate / 60:.1f} minutes")


def pack_clips(manifests: Sequence[Path], folder: Path, *, mebibytes: float, quality: float) -> None:
    """Clips of openly licensed files of at least 22.05 kHz as Ogg Vorbis, until the folder is full.

    Every manifest gets the same time; one that is named twice gets twice as much. Every tenth clip is a valid one. A
    vocoder sees the mel of the very clip that it has to render, so what the coding loses is no error to it.
    """
    import soundfile

    from audiogen.data.manifest import Entry, read_manifest, write_manifest
    from audiogen.data.notes import is_open
    from audiogen.data.segments import read_segment

    mel, limit = MelFormat(), mebibytes * 2**20
    queues: dict[tuple[Path, str], list] = {}
    for path in dict.fromkeys(manifests):
        manifest = read_manifest(path)
        for split in ("train", "valid"):
            usable = [
                (manifest, entry) for entry in manifest.select(split=split, duplicates=False)
                if entry.sample_rate >= mel.sample_rate and entry.seconds >= 0.5
                and is_open(str(entry.tags.get("licence", "")))
            ]
            order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(0)).tolist()
            queues[path, split] = [usable[i] for i in order]
    if not any(queues.values()):
        raise UserError("none of --vocoder-data has a file of 22.05 kHz or more whose tag `licence` is an open one")
    spent = dict.fromkeys(manifests, 0.0)
    share = {path: list(manifests).count(path) for path in spent}
    written, size = [], 0
    with whole_folder(folder) as part:
        (part / "audio").mkdir()
        while size < limit:
            split = "valid" if len(written) % 10 == 1 else "train"
            left = [path for path in spent if queues[path, split]] or []
            if not left:
                split = "train"
                left = [path for path in spent if queues[path, split]]
            if not left:
                break
            path = min(left, key=lambda p: spent[p] / share[p])
            manifest, entry = queues[path, split].pop()
            time_at_rate = min(math.ceil(entry.time * mel.sample_rate / entry.sample_rate), 20 * mel.sample_rate)
            sound = read_segment(manifest.audio(entry), 0, time_at_rate, mel.sample_rate, expected=entry)
            peak = float(np.abs(sound).max(initial=0.0))
            if peak < 1e-3:
                continue
            name = f"audio/{len(written):05d}.ogg"
            with soundfile.SoundFile(part / name, "w", mel.sample_rate, 1, format="OGG", subtype="VORBIS",
                                     compression_level=1.0 - quality) as file:
                for first in range(0, len(sound), 1 << 16):  # libvorbis overflows its stack on one long block
                    file.write(sound[first : first + (1 << 16)] * (0.9 / peak))
            size += (part / name).stat().st_size
            seconds = soundfile.info(part / name).frames / mel.sample_rate
            spent[path] += seconds
            written.append(Entry(path=name, seconds=seconds, sample_rate=mel.sample_rate, channels=1, split=split,
                                 tags={"licence": entry.tags["licence"]}, source=entry.source))
        write_manifest(part / "manifest.jsonl", written, root=part)
    print(f"vocoder: {len(written)} files, {sum(e.seconds for e in written) / 60:.1f} minutes, "
          + ", ".join(f"{path.name} {seconds / 60:.1f}" for path, seconds in spent.items()))


def pack_state(run: Path, folder: Path) -> None:
    """The newest training state of a run, its floats in 16 bits, in parts."""
    from safetensors.torch import load_file, save_file

    from audiogen.training.state import newest_state

    newest = newest_state(run / "states")
    if newest is None:
        raise UserError(f"{run} has no complete training state")
    tensors = load_file(newest / "state.safetensors")
    small = {k: v.bfloat16() if v.is_floating_point() and v.numel() > 1 else v for k, v in tensors.items()}
    with whole_folder(folder) as part:
        save_file(small, part / "state.safetensors")
        values = json.loads((newest / "state.json").read_text()) | {"sha256": sha256(part / "state.safetensors")}
        (part / "state.json").write_text(json.dumps(values))
        split_file(part / "state.safetensors")


def resume_state(folder: Path, run: Path) -> int:
    """Put a packed state into the (new) run, for `fit` to find. -> its step."""
    values = json.loads((folder / "state.json").read_text())
    with whole_folder(run / "states" / f"step_{values['step']:08d}") as part:
        join_file(folder / "state.safetensors", part / "state.safetensors")
        shutil.copy(folder / "state.json", part)
    return values["step"]


def split_file(path: Path, *, size: int = PART) -> list[Path]:
    """Cut a file that is over `size` into path.part0, path.part1, ...; a smaller one stays."""
    if path.stat().st_size <= size:
        return [path]
    parts = []
    with open(path, "rb") as stream:
        while block := stream.read(size):
            parts.append(path.with_name(f"{path.name}.part{len(parts)}"))
            parts[-1].write_bytes(block)
    path.unlink()
    return parts


def join_file(path: Path, target: Path) -> None:
    """Undo `split_file`."""
    parts = sorted(path.parent.glob(f"{path.name}.part*"), key=lambda p: int(p.name.rpartition("part")[2])) or [path]
    if not parts[0].is_file():
        raise UserError(f"neither {path} nor its parts are there")
    with whole_file(target) as whole, open(whole, "wb") as stream:
        for part in parts:
            stream.write(part.read_bytes())


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def report(out: Path) -> int:
    """PACK.json, and the sizes of the parts for a person."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "PACK.json")
    listed = {
        path.relative_to(out).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files
    }
    with whole_file(out / "PACK.json") as part:
        part.write_text(json.dumps(listed, indent=1) + "\n")
    sizes: dict[str, int] = {}
    for name, values in listed.items():
        sizes[name.partition("/")[0]] = sizes.get(name.partition("/")[0], 0) + values["bytes"]
    tree = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    ).stdout.split(b"\0")
    sizes["(the working tree)"] = sum(os.path.getsize(p) for n in tree if n and os.path.isfile(p := ROOT / n.decode()))
    for name, size in sizes.items():
        print(f"{name:>20} {size / 2**20:7.1f} MiB")
    total = sum(sizes.values())
    fits = "fits into one call" if total < CARRIED else "too much for one call: carry the folders one after another"
    print(f"{'sum':>20} {total / 2**20:7.1f} MiB of {CARRIED >> 20}: {fits}")
    return 0


def export(loaded, folder: Path, *, scores: dict) -> None:
    """A checkpoint with its parameters stored as 16-bit floats; buffers stay as they are."""
    small = dict(loaded.model.state_dict())
    for name, parameter in loaded.model.named_parameters():
        small[name] = parameter.detach().half()
    save_checkpoint(folder, loaded.model, room=loaded.room, labels=loaded.labels, scores=scores, weights=small)


class PackedMels(Dataset):
    """Mels and rolls of whole files in memory; item k is drawn by (seed, k), style first, then place.

    `collate` gathers a batch from the numbers k, so that a step costs a few milliseconds of one core: rolls are made
    once, at the start, and a segment's roll is a slice of its file's.
    """

    def __init__(self, folder: Path, *, split: str, frames: int, styles: Sequence[str] | None, seed: int = 0) -> None:
        values = json.loads((folder / "index.json").read_text())
        self.mel = from_dict(MelFormat, values["mel"])
        self.frames, self.seed, self.split = frames, seed, split
        self.lowest, self.step = values["lowest"], values["step"]
        raw = np.frombuffer(bz2.decompress((folder / "mels.bz2").read_bytes()), np.uint8).reshape(-1, self.mel.n_mels)
        names = styles or sorted({style for entry in values["entries"] for style in entry["styles"]})
        ends = np.cumsum([entry["frames"] for entry in values["entries"]])
        chosen = [
            (index, entry, int(ends[index]) - entry["frames"]) for index, entry in enumerate(values["entries"])
            if entry["split"] == split and set(entry["styles"]).intersection(names)
        ]
        if not chosen:
            raise UserError(f"{folder} has no file of the split {split!r} in the styles {', '.join(names)}")
        self.entries = [entry for _, entry, _ in chosen]
        self.styles = tuple(names)
        self.lengths = [entry["frames"] for entry in self.entries]
        self.offsets = np.concatenate(([0], np.cumsum(self.lengths)[:-1])).tolist()
        levels = [np.cumsum(raw[first : first + entry["frames"]], axis=0, dtype=np.uint8) for _, entry, first in chosen]
        self.levels = torch.from_numpy(np.concatenate(levels))  # (all frames, n_mels) uint8
        with zipfile.ZipFile(folder / "scores.zip") as scores, tempfile.TemporaryDirectory() as unpacked:
            scores.extractall(unpacked)
            midi = [Path(unpacked) / f"{index}.mid" if entry["score"] else None for index, entry, _ in chosen]
            self.rolls = torch.cat(list(map(self._roll, midi, self.lengths)))  # (all frames, ROLL_DIM) float16
        members = {name: [i for i, e in enumerate(self.entries) if name in e["styles"]] for name in names}
        self.groups = [
            (indices, np.cumsum([self.lengths[i] for i in indices]).tolist()) for indices in members.values() if indices
        ]
        self.vectors: Tensor | None = None  # (entries, dim)

    def _roll(self, midi: Path | None, frames: int) -> Tensor:
        score = None if midi is None else Score.read(midi)
        return piano_roll(score, frames, frame_rate=self.mel.frame_rate).T.half()

    def set_vocabulary(self, vocabulary) -> None:
        """The style vector of every file."""
        known = [[style for style in entry["styles"] if style in vocabulary.names] for entry in self.entries]
        self.vectors = torch.stack([vocabulary.vector({style: 1 / len(k) for style in k}) for k in known])

    @property
    def seconds(self) -> float:
        return len(self.levels) / self.mel.frame_rate

    def __len__(self) -> int:
        return max(1, len(self.levels) // self.frames)

    def __getitem__(self, k: int) -> int:
        return k

    def place(self, k: int) -> tuple[int, int]:
        """Sample k -> (file, first frame in it)."""
        pick, within, where = SampleRng(self.seed, ids=[k], stream="segment").rand(3).double()[0].tolist()
        indices, ends = self.groups[int(pick * len(self.groups))]
        file = indices[min(int(np.searchsorted(ends, within * ends[-1], side="right")), len(indices) - 1)]
        return file, int(where * (max(0, self.lengths[file] - self.frames) + 1))

    def collate(self, numbers: Sequence[int]) -> Batch:
        places = [self.place(k) for k in numbers]
        lengths = torch.tensor([min(self.frames, self.lengths[file]) for file, _ in places])
        first = torch.tensor([self.offsets[file] + start for file, start in places])
        steps = torch.arange(self.frames)
        real = steps[None] < lengths[:, None]  # (batch, frames)
        rows = torch.where(real, first[:, None] + steps[None], first[:, None])
        mel = self.levels[rows].float().mul_(self.step).add_(self.lowest)  # (batch, frames, n_mels)
        roll = self.rolls[rows].float()  # (batch, frames, ROLL_DIM)
        if not real.all():
            mel, roll = torch.where(real[..., None], mel, self.lowest), roll * real[..., None]
        # The loop reads the length of the sound off `audio` and nothing else, since there is a mel: bytes will do.
        audio = torch.zeros(len(places), 1, self.frames * self.mel.hop_length, dtype=torch.uint8)
        vector = self.vectors[[file for file, _ in places]] if self.vectors is not None else None
        return Batch(
            audio=audio, mel=mel.transpose(1, 2).contiguous(), lengths=lengths, ids=torch.tensor(list(numbers)),
            condition=Condition(vector=vector, aligned=roll.transpose(1, 2).contiguous()),
            prompts=tuple(self.entries[file]["text"] for file, _ in places),
        )

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of every mel bin over all frames, (n_mels,) each."""
        sums = torch.stack([
            torch.stack([part.double().sum(0), part.double().square().sum(0)]) for part in self.levels.split(1 << 16)
        ]).sum(0) / len(self.levels)
        deviation = (sums[1] - sums[0].square()).clamp(min=1e-4).sqrt() * self.step
        return (sums[0] * self.step + self.lowest).float(), deviation.float()

"""The prepared GPU work: what is packed here is what is trained on there, and what comes back fits and loads."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from audiogen.conditioning.piano_roll import piano_roll
from audiogen.core.audio import Audio
from audiogen.core.checkpoint import load_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.core.score import Note, Score
from audiogen.data.manifest import Entry, write_manifest
from audiogen.signal.mel import MelSpectrogram

STEP = 0.08


@pytest.fixture(scope="module")
def gpu():
    """benchmarks/gpu.py as a module."""
    folder = Path(__file__).parents[1] / "benchmarks"
    spec = importlib.util.spec_from_file_location("gpu", folder / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Four clips of two styles, two of them with a score, one of them shorter than a segment."""
    root = tmp_path_factory.mktemp("sounds")
    entries = []
    clips = [("cello", "train", 1.5), ("rain", "train", 0.2), ("cello", "valid", 0.9), ("rain", "valid", 0.8)]
    for index, (style, split, seconds) in enumerate(clips):
        noise = torch.randn(1, round(seconds * 22050), generator=torch.Generator().manual_seed(index)) * 0.1
        Audio(noise, 22050).save(root / f"{index}.wav")
        score = None
        if style == "cello":
            score = f"{index}.mid"
            Score((Note(0.1, 0.5, 48, 90), Note(0.4, 0.4, 55, 60)), bpm=100.0).save(root / score)
        entries.append(Entry(f"{index}.wav", noise.shape[1] / 22050, 22050, 1, tags={"licence": "CC0-1.0"},
                             styles=(style,), score=score, split=split, source=str(index)))
    write_manifest(root / "manifest.jsonl", entries, root=root)
    return root / "manifest.jsonl"


@pytest.fixture(scope="module")
def folder(gpu, manifest, tmp_path_factory) -> Path:
    pack = tmp_path_factory.mktemp("pack")
    words = ["pack", "--no-wheels", "--rendered", str(manifest), "--vocoder-data", str(manifest), "--step", str(STEP),
             "--out", str(pack)]
    assert gpu.main(words) == 0
    return pack


def test_packed_segments_are_the_files_own_mels_and_rolls(gpu, manifest, folder):
    data = gpu.PackedMels(folder / "generator", split="train", frames=32, styles=None)
    batch = data.collate(range(24))
    files = set()
    for row, k in enumerate(range(24)):
        file, start = data.place(k)
        files.add(file)
        sound = Audio.read(manifest.parent / f"{file}.wav").samples
        mel = MelSpectrogram(MelFormat())(sound)[0][:, start : start + 32]
        real = mel.shape[1]
        assert batch.lengths[row] == real
        torch.testing.assert_close(batch.mel[row, :, :real], mel, atol=STEP / 2 + 1e-3, rtol=0)
        assert (batch.mel[row, :, real:] < -11.5).all() and not batch.condition.aligned[row, :, real:].any()
        score = Score.read(manifest.parent / "0.mid") if file == 0 else None
        roll = piano_roll(score, real, frame_rate=MelFormat().frame_rate, start=start / MelFormat().frame_rate)
        torch.testing.assert_close(batch.condition.aligned[row, :, :real], roll, atol=1e-3, rtol=0)
    assert files == {0, 1}  # both styles are drawn, and no file of the valid split


def test_a_sample_does_not_depend_on_its_batch(gpu, folder):
    data = gpu.PackedMels(folder / "generator", split="train", frames=32, styles=None)
    together, alone = data.collate(range(8)), data.collate([5])
    assert torch.equal(together.mel[5], alone.mel[0]) and torch.equal(together.lengths[5:6], alone.lengths)


def test_statistics_are_those_of_the_frames(gpu, folder):
    data = gpu.PackedMels(folder / "generator", split="valid", frames=32, styles=None)
    frames = data.levels.double() * data.step + data.lowest
    mean, std = data.statistics()
    torch.testing.assert_close(mean, frames.mean(0).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, frames.std(0, correction=0).float(), atol=1e-4, rtol=0)


def test_clips_keep_their_split_and_time(folder):
    from audiogen.data.manifest import read_manifest

    packed = read_manifest(folder / "vocoder" / "manifest.jsonl")
    assert {entry.split for entry in packed} == {"train", "valid"}
    for entry in packed:
        audio = Audio.read(packed.audio(entry))
        assert audio.samples.shape == (1, entry.time) and 0.5 < audio.samples.abs().max() < 1.2


def test_parts_come_together_again(gpu, tmp_path):
    content = bytes(range(256)) * 41
    (tmp_path / "file").write_bytes(content)
    parts = gpu.split_file(tmp_path / "file", size=1000)
    assert len(parts) == 11 and max(part.stat().st_size for part in parts) <= 1000  # part10 comes after part9
    gpu.join_file(tmp_path / "file", tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == content
    with pytest.raises(UserError, match="parts"):
        gpu.join_file(tmp_path / "nothing", tmp_path / "whole")


def test_a_damaged_pack_is_refused(gpu, folder, tmp_path, capsys):
    import shutil

    shutil.copytree(folder, tmp_path / "pack")
    with open(tmp_path / "pack" / "generator" / "mels.bz2", "r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2\3")
    assert gpu.main(["setup", "--pack", str(tmp_path / "pack")]) == 2
    assert "generator/mels.bz2" in capsys.readouterr().err
    assert gpu.main(["setup", "--pack", str(folder)]) == 0


def test_a_generator_is_trained_scored_delivered_and_goes_on(gpu, folder, tmp_path, capsys):
    tiny = ["--data.frames", "16", "--model.gated.width", "8", "--model.gated.depth", "2", "model.coarse:none"]
    train = ["train-generator", "--pack", str(folder), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out"),
             "--steps", "2", "--batch-size", "2", "--samples", "4"]
    assert gpu.main([*train, "--scratch", "--", *tiny]) == 0
    scores = json.loads((tmp_path / "out" / "generator.json").read_text())
    assert scores["valid before"] is None and scores["kept"] and scores["last"]["step"] == 2
    assert gpu.main(["unpack", str(tmp_path / "out" / "generator.tar"), str(tmp_path / "back")]) == 0
    loaded = load_checkpoint(tmp_path / "back" / "generator", room="generator")
    assert loaded.labels["played"] == ["cello"] and "rain" in json.dumps(loaded.labels["vocabulary"])

    (folder / "init").mkdir()
    (tmp_path / "back" / "generator").rename(folder / "init" / "generator")
    assert gpu.main([*train, "--", *tiny]) == 0
    again = json.loads((tmp_path / "out" / "generator.json").read_text())
    assert again["valid before"] == scores["valid after"]  # the same weights, the same noise
    said = capsys.readouterr().out
    assert again["kept"] == (again["valid after"]["loss"] < again["valid before"]["loss"]) == ("NOT" not in said)


def test_a_state_in_16_bits_is_resumed_at_its_step(gpu, folder, tmp_path):
    from audiogen.training.state import load_state_folder, save_state

    module = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    save_state(tmp_path / "run" / "states" / "step_00000007", step=7, modules={"m": module},
               optimizers={"o": optimizer}, extra={})
    gpu.pack_state(tmp_path / "run", tmp_path / "state")
    assert gpu.resume_state(tmp_path / "state", tmp_path / "new") == 7
    other = torch.nn.Linear(4, 4)
    step, _ = load_state_folder(tmp_path / "new" / "states" / "step_00000007", modules={"m": other},
                                optimizers={"o": torch.optim.AdamW(other.parameters())})
    assert step == 7
    torch.testing.assert_close(other.weight, module.weight, atol=0, rtol=2**-8)

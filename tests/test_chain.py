"""The whole chain on sounds made here: folder -> manifest -> training -> checkpoint -> prompt -> clip -> score."""

from __future__ import annotations

import json

import torch

from audiogen.cli import main
from audiogen.core.audio import Audio
from audiogen.core.score import Note, Score

TINY = [
    "--train.steps", "2", "--train.batch-size", "2", "--train.warmup", "1", "--train.log-every", "1",
    "--data.frames", "24", "--model.gated.width", "16", "--model.gated.depth", "2",
]  # fmt: skip


def sounds(folder) -> None:
    """Two styles: a tone that is played from a score, and a noise that is not."""
    rng = torch.Generator().manual_seed(0)
    time = torch.arange(22050) / 22050
    for number in range(4):
        for style in ("beep", "hiss"):
            (folder / style).mkdir(parents=True, exist_ok=True)
            if style == "beep":
                samples = 0.3 * torch.sin(2 * torch.pi * 440 * 2 ** (number / 12) * time)
                Score((Note(0.0, 1.0, 69 + number),)).save(folder / style / f"{number}.mid")
            else:
                samples = 0.1 * torch.randn(22050, generator=rng)
            Audio(samples[None], 22050).save(folder / style / f"{number}.wav")


def test_from_a_folder_of_sounds_to_a_scored_clip(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sounds(tmp_path / "my sounds")
    assert main(["scan", "my sounds", "-o", "manifest.jsonl"]) == 0
    entries = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()[1:]]
    assert {style for entry in entries for style in entry["styles"]} == {"beep", "hiss"}
    assert sum(entry.get("score") is not None for entry in entries) == 4

    train = ["train", "generator", "--data.manifest", "manifest.jsonl", *TINY]
    assert main([*train, "--train.run", "runs/one"]) == 0
    assert list((tmp_path / "runs" / "one" / "demos").rglob("*.wav"))
    # Its own checkpoint is where a second run may begin.
    assert main([*train, "--train.run", "runs/two", "--init", "runs/one/model"]) == 0
    assert main([*train, "--train.run", "runs/three", "--init", "runs/one/model", "--data.styles", "squeak"]) == 2

    made = ["generate", "beep", "hiss", "--seconds", "1", "--seed", "3", "-o", "clips"]
    assert main([*made, "--checkpoint", "runs/two/model"]) == 0
    clips = sorted((tmp_path / "clips").glob("*.wav"))
    assert [Audio.read(clip).samples.shape for clip in clips] == [(1, 22050)] * 2
    assert main(["again", str(clips[0]), "--checkpoint", "runs/two/model"]) == 0
    assert "identical" in capsys.readouterr().out
    assert main(["evaluate", "my sounds", "clips", "-o", "scores.json"]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())

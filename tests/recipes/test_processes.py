"""Whole recipes on two processes: the folder is scanned once, and the loss curve is that of one process."""

from __future__ import annotations

import json
import subprocess

import pytest
from data.packing import sounds
from launching import launch, on_cpus

from audiogen.cli import main
from audiogen.data.manifest import write_manifest

SMALL = {
    "vocoder": ["--preset", "vocos", "--model.channels", "16", "--model.layers", "1", "--demos", "1", "--scored", "1"],
    "generator": ["--model.gated.width", "16", "--model.gated.depth", "2"],
}


def curve(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [value for line in lines for name, value in sorted(line.items()) if name.endswith("loss")]


@pytest.mark.parametrize("recipe", SMALL)
def test_two_processes_train_what_one_trains(recipe, root, tmp_path, capfd):
    (tmp_path / "sounds").mkdir()
    manifest = sounds(tmp_path / "sounds", (1.2, 1.0, 1.1))
    write_manifest(tmp_path / "manifest.jsonl", manifest.entries, root=tmp_path / "sounds")
    data = {"vocoder": ["--data.folder", str(tmp_path / "sounds")],
            "generator": ["--data.manifest", str(tmp_path / "manifest.jsonl")]}[recipe]
    words = [*SMALL[recipe], *data, "--data.frames", "24", "--train.steps", "4", "--train.batch-size", "4",
             "--train.log-every", "1"]
    assert main(["train", recipe, *words, "--train.run", str(tmp_path / "one")]) == 0
    done = subprocess.run([*launch(2), str(root / "recipes" / f"{recipe}.py"), *words, "--train.run",
                           str(tmp_path / "two")], capture_output=True, text=True, env=on_cpus(), timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) >= 4 and two == pytest.approx(one, rel=1e-5)
    if recipe == "vocoder":
        assert done.stdout.count("3 files") == 1
        assert "copy_synthesis" in (tmp_path / "two" / "model" / "scores.json").read_text()

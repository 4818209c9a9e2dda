"""Two processes that embed a folder together write what one process writes."""

from __future__ import annotations

import subprocess

import launching
import torch
from launching import launch, on_cpus

from audiogen.cli import main
from audiogen.core.audio import Audio
from evaluation.summary import Summary


def test_two_processes_embed_what_one_embeds(tmp_path, monkeypatch):
    for index in range(9):
        noise = (0.05 + 0.01 * index) * torch.randn(1, 20000, generator=torch.Generator().manual_seed(index))
        Audio(noise, 16000).save(tmp_path / "clips" / f"{index}.wav")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main(["embed", str(tmp_path / "clips"), "--no-cache", "-o", str(tmp_path / "one.npz")]) == 0
    command = [*launch(2), launching.__file__, "2", "embed", str(tmp_path / "clips"), "--no-cache", "-o",
               str(tmp_path / "two.npz")]
    done = subprocess.run(command, capture_output=True, text=True, env=on_cpus(), timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (Summary.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert one.counts | {"seconds": 0} == two.counts | {"seconds": 0} and one.made_by == two.made_by
    assert one.moments.clips == two.moments.clips
    for a, b in zip(one.moments.parts, two.moments.parts, strict=True):
        assert a.n == b.n
        torch.testing.assert_close(a.mean, b.mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(a.scatter, b.scatter, rtol=1e-6, atol=1e-6)
    assert torch.equal(one.sample.rows, two.sample.rows)
    assert sorted(c.path for c in one.clips) == sorted(c.path for c in two.clips)

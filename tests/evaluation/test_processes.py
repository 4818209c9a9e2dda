"""Two processes that embed a folder together write what one process writes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from audiogen.cli import main
from audiogen.core.audio import Audio
from evaluation.summary import Summary


def test_two_processes_embed_what_one_embeds(tmp_path, monkeypatch):
    for index in range(9):
        noise = (0.05 + 0.01 * index) * torch.randn(1, 20000, generator=torch.Generator().manual_seed(index))
        Audio(noise, 16000).save(tmp_path / "clips" / f"{index}.wav")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main(["embed", str(tmp_path / "clips"), "--no-cache", "-o", str(tmp_path / "one.npz")]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines",
               "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port), "-m",
               "audiogen", "embed", str(tmp_path / "clips"), "--no-cache", "-o", str(tmp_path / "two.npz")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, cwd=tmp_path)
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

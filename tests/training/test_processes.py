"""Two processes that share a step are one process that does it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.parametrize("kind", ["ToyTask", "TwoPlayers"])
def test_two_processes_train_what_one_trains(tmp_path, kind):
    found = {}
    for world in (1, 2):
        out = tmp_path / str(world)
        out.mkdir()
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world),
            str(Path(__file__).parent / "processes.py"), str(out), kind,
        ]  # fmt: skip
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
        found[world] = torch.load(out / "weights.pt", weights_only=True)
    torch.testing.assert_close(found[1], found[2], rtol=0, atol=1e-6)

"""Damaged files are read or refused; none crashes or hangs its reader."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest

from benchmarks.fuzz import mutated


def test_mutations_are_those_of_their_seed_and_change_something():
    content = bytes(range(256)) * 8
    found = [mutated(content, random.Random(seed)) for seed in range(50)]
    assert found == [mutated(content, random.Random(seed)) for seed in range(50)]
    assert len(set(found)) == 50 and sum(one != content for one in found) >= 49


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_hundred_damaged_files(root, tmp_path):
    """`benchmarks/fuzz.py` does ten thousand. In a process of its own: it forks."""
    command = [sys.executable, "benchmarks/fuzz.py", "--mutations", "200", "--seed", "7", "--write",
               str(tmp_path / "fuzz.json")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    result = json.loads((tmp_path / "fuzz.json").read_text())
    assert done.returncode == 0 and result["found"] == []
    assert result["mutations"] == 200 and len(result["files"]) == 13
    refused = sum(counts.get("refused", 0) for counts in result["files"].values())
    assert 60 < refused < 200  # a mutation that no reader minds would prove nothing

"""A run that is killed outright in mid-scoring leaves the last whole cache; going on gives the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from audiogen.cli import main
from audiogen.core.audio import Audio

KILLED = """
import os, signal, sys
from evaluation import cache, reading
from audiogen.cli import main

cache.COMMIT_SECONDS = 0.0  # a commit at every clip: in life a killed run loses half a second
done, original = [], reading.examine

def examine(task, models=None):
    if len(done) == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(task.path)
    return original(task, models)

reading.examine = examine
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch, capsys):
    for index in range(24):
        noise = torch.randn(1, 32000, generator=torch.Generator().manual_seed(index))
        path = tmp_path / ("real" if index % 3 else "made") / f"{index}.wav"
        Audio(0.1 * noise, 16000).save(path)
        os.utime(path, (1e9, 1e9))  # long ago: the time stamp can be trusted
    words = ["evaluate", str(tmp_path / "real"), str(tmp_path / "made"), "--threads", "1", "-o"]
    for name in ("killed", "whole"):
        monkeypatch.setenv("AUDIOGEN_CACHE", str(tmp_path / name))
        if name == "killed":
            dead = subprocess.run([sys.executable, "-c", KILLED, *words, str(tmp_path / "killed.json")], timeout=240,
                                  capture_output=True, text=True, cwd=tmp_path,
                                  env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
            assert dead.returncode == -signal.SIGKILL, dead.stderr
            assert not (tmp_path / "killed.json").exists()
            capsys.readouterr()
        assert main([*words, str(tmp_path / f"{name}.json")]) == 0
        files = 13 if name == "killed" else 24
        assert f"reading {files} files" in capsys.readouterr().err
    for suffix in (".json", ".clips.csv"):
        assert (tmp_path / f"killed{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()

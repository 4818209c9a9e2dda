"""A folder embedded in parts is the folder embedded at once; parts that are there are not made again."""

from __future__ import annotations

import pytest
import torch

from audiogen.cli import main
from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from evaluation import cluster
from evaluation.summary import Summary


@pytest.fixture
def here(monkeypatch):
    """The cluster's tasks, in this process: what Ray adds is tested in tests/core/test_on_ray.py."""
    ran = []

    def run(function, tasks, *, crashed, ray, done):
        assert ray == "auto"
        results = []
        for index, task in enumerate(tasks):
            ran.append(task)
            results.append(crashed if here.dies == len(ran) else function(task))
            done(index, results[-1])
        return results

    here.dies = 0
    monkeypatch.setattr(cluster, "parallel", run)
    monkeypatch.setattr(cluster, "CLIPS", 3)
    return ran


def write(folder):
    for index in range(8):
        noise = (0.05 + 0.01 * index) * torch.randn(1, 20000, generator=torch.Generator().manual_seed(index))
        Audio(noise, 16000).save(folder / f"{index}.wav")
    for index in range(3):  # a whole part of nothing but rejects
        (folder / f"{9 + index}.wav").write_bytes(b"")
    return folder


def test_parts_add_up_and_a_failed_run_goes_on(here, tmp_path, capsys):
    folder, out = write(tmp_path / "clips"), tmp_path / "ray.npz"
    words = ["embed", str(folder), "--max-skip", "0.5"]
    globals()["here"].dies = 2
    assert main([*words, "--ray", "auto", "-o", str(out)]) == 2
    assert "1 of 4 parts failed (its process died)" in capsys.readouterr().err
    assert not out.exists() and len(list((tmp_path / "ray.npz.parts").iterdir())) == 3
    globals()["here"].dies = 0
    assert main([*words, "--ray", "auto", "-o", str(out)]) == 0
    assert len(here) == 5 and not (tmp_path / "ray.npz.parts").exists()
    assert main([*words, "--no-cache", "-o", str(tmp_path / "one.npz")]) == 0
    many, one = Summary.load(out), Summary.load(tmp_path / "one.npz")
    assert many.counts == one.counts and many.made_by == one.made_by and many.rejects == one.rejects
    assert torch.equal(many.sample.rows, one.sample.rows)
    assert [c.path for c in many.clips] == [c.path for c in one.clips]
    torch.testing.assert_close(many.moments.total().scatter, one.moments.total().scatter, rtol=1e-12, atol=1e-12)


def test_too_many_rejects_are_an_error_of_the_whole(here, tmp_path):
    write(tmp_path / "clips")
    with pytest.raises(UserError, match="3 of 11 clips .*--max-skip.*10.wav"):
        cluster.embed_on_ray(tmp_path / "clips", tmp_path / "x.npz", address="auto")

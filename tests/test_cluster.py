"""Work on a Ray cluster of two nodes: what one process makes, in its order; skipped where Ray is not installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from data.packing import sounds

from audiogen.cli import main
from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.core.parallel import parallel
from audiogen.data.manifest import write_manifest
from recipes.data_rules import DataRules

needed = pytest.mark.skipif(importlib.util.find_spec("ray") is None,
                            reason="ray is not installed (pip install 'audiogen[ray]')")


def test_without_ray_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"audiogen\[ray\]"):
        parallel(eval, ["1"], crashed=None, ray="auto")


@pytest.fixture(scope="module")
def address():
    """Two nodes of one core each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # the other tests run beside it
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()
    del os.environ["RAY_worker_niceness"]


@needed
@pytest.mark.filterwarnings("ignore")
def test_results_come_in_order_and_a_task_that_kills_its_process_is_found(address):
    tasks = ["1 + 1", "__import__('os')._exit(1)", *(f"{i} * {i}" for i in range(20))]
    seen = {}
    expected = [2, "crashed", *(i * i for i in range(20))]
    assert parallel(eval, tasks, crashed="crashed", ray=address, done=seen.__setitem__) == expected
    assert [seen[i] for i in range(len(tasks))] == expected


@needed
@pytest.mark.filterwarnings("ignore")
def test_what_a_task_raises_is_raised_here(address):
    with pytest.raises(ZeroDivisionError):
        parallel(eval, ["1", "1 / 0"], crashed=None, ray=address)


@needed
def test_a_cluster_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="no Ray cluster answers"):
        parallel(eval, ["1"], crashed=None, ray="127.0.0.1:9")


@needed
@pytest.mark.filterwarnings("ignore")
def test_both_nodes_work(address):
    import ray

    nodes = parallel(eval, ["(__import__('time').sleep(0.5), __import__('ray').get_runtime_context().get_node_id())[1]"]
                     * 8, crashed=None, ray=address)
    assert len(set(nodes)) == 2
    assert not ray.is_initialized()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@needed
@pytest.mark.filterwarnings("ignore")
def test_scanned_packed_rendered_and_embedded_it_is_the_same(address, tmp_path, monkeypatch):
    (tmp_path / "sounds").mkdir()
    manifest = sounds(tmp_path / "sounds", (2.3, 1.0, 0.6, 1.7, 1.1, 0.8, 2.0, 1.3))
    (tmp_path / "sounds" / "empty.wav").write_bytes(b"")
    time = torch.arange(22050) / 22050
    for name, pitch in (("C3", 130.8), ("G4", 392.0)):
        tone = 0.3 * torch.sin(2 * torch.pi * pitch * time) * torch.exp(-2 * time)
        Audio(tone[None], 22050).save(tmp_path / "notes" / "cello" / f"cello_{name}.wav")
    write_manifest(tmp_path / "packed.jsonl", manifest, root=manifest.root)
    monkeypatch.chdir(tmp_path)  # the cluster's processes stand elsewhere
    for where, words in {"here": (), "there": ("--ray", address)}.items():
        os.mkdir(where)
        assert main(["scan", "sounds", "-o", f"{where}/manifest.jsonl", *words]) == 0
        assert main(["pack", "packed.jsonl", "-o", f"{where}/mels", "--what", "mel", "--shard-mb", "0.05", *words]) == 0
        ray = address if words else None
        DataRules(Path(where) / "tunes", pieces=45, seconds=2.0, styles=("etude",), ray=ray).run()
        assert main(["render", f"{where}/tunes", "--notes", "notes", "--style", "cello", "--seconds", "1", "-o",
                     f"{where}/rendered", *words]) == 0
        assert main(["embed", "sounds", "-o", f"{where}/sounds.npz", "--embedder", "melstats", "--max-skip", "0.5",
                     "--no-cache", *words]) == 0
    here, there = files(tmp_path / "here"), files(tmp_path / "there")
    assert here.keys() == there.keys() and len([name for name in here if name.endswith(".tar")]) > 2
    assert {name for name in here if here[name] != there[name]} <= {"sounds.npz"}  # sums of parts, see test_summary

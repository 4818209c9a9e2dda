"""Two, and four, processes that share a step are one that does it alone; sharded weights are the same weights; where
one dies or stands still, the run ends, says which, and goes on from its last state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launching import launch, on_cpus
from safetensors.torch import load_file


def train(out: Path, world: int, kind: str, how: str = "ddp", much: str = "all", *, accumulation: int = 1,
          fails: bool = False) -> str:
    """What was said on stderr."""
    out.mkdir(exist_ok=True)
    launcher = launch(world, how) if world > 1 else [sys.executable]
    program = str(Path(__file__).parent / "processes.py")
    done = subprocess.run([*launcher, program, str(out), kind, how, much, str(accumulation)], capture_output=True,
                          text=True, env=on_cpus(how), timeout=400)
    assert (done.returncode != 0) is fails, done.stderr[-2000:]
    return done.stderr


def found(out: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The last state (weights, average, moments) and the losses in the log."""
    lines = [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]
    losses = [value for line in lines for name, value in line.items() if name.endswith("loss")]
    assert len(losses) >= 2
    return load_file(out / "run" / "states" / "step_00000006" / "state.safetensors"), losses


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process trains."""
    out = tmp_path_factory.mktemp("alone")
    train(out, 1, "ToyTask")
    return found(out)


@pytest.mark.parametrize("kind", ["ToyTask", "TwoPlayers"])
def test_processes_train_what_one_trains(tmp_path, kind):
    """(processes, micro-batches a step): 4, 2 or 1 samples in each; two players' gradients wait for the last one."""
    alone = tmp_path / "alone"
    train(alone, 1, kind)
    weights, losses = found(alone)
    for world, accumulation in {"ToyTask": ((2, 1), (4, 1)), "TwoPlayers": ((2, 1), (2, 2))}[kind]:
        out = tmp_path / f"{world}_{accumulation}"
        train(out, world, kind, accumulation=accumulation)
        others, curve = found(out)
        torch.testing.assert_close(others, weights, rtol=0, atol=1e-6)
        assert curve == pytest.approx(losses, rel=1e-6)
        noise = torch.cat([torch.load(out / f"noise_{rank}.pt", weights_only=True) for rank in range(world)])
        assert len(noise.unique(dim=0)) == 4  # no two samples, and so no two ranks, draw the same


def test_sharded_weights_are_the_same_weights_saved_loaded_and_averaged(tmp_path):
    """By recipes/launch/fsdp.yaml, layer by layer: processes.py looks whether each has become one of FSDP2's."""
    train(tmp_path / "alone", 1, "Stack")
    train(tmp_path / "sharded", 2, "Stack", "fsdp", "one step")
    train(tmp_path / "sharded", 2, "Stack", "fsdp")
    (weights, losses), (others, curve) = found(tmp_path / "alone"), found(tmp_path / "sharded")
    torch.testing.assert_close(others, weights, rtol=0, atol=1e-6)
    assert curve == pytest.approx(losses, rel=1e-6)


@pytest.fixture
def deepspeed():
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install 'audiogen[deepspeed]'")
    pytest.importorskip("transformers", reason="accelerate's DeepSpeed needs transformers")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_deepspeed_trains_what_one_process_trains(tmp_path, alone, deepspeed, accumulation):
    train(tmp_path / "zero", 2, "ToyTask", "deepspeed", accumulation=accumulation)
    (weights, losses), (others, curve) = alone, found(tmp_path / "zero")
    torch.testing.assert_close(others, weights, rtol=0, atol=1e-6)
    assert curve == pytest.approx(losses, rel=1e-6)


def test_a_run_goes_from_ddp_to_deepspeed_to_fsdp_and_back(tmp_path, alone, deepspeed):
    for how, much in (("ddp", "one step"), ("deepspeed", "one step"), ("fsdp", "one step"), ("deepspeed", "all")):
        train(tmp_path / "changes", 2, "ToyTask", how, much)
    (weights, losses), (others, curve) = alone, found(tmp_path / "changes")
    torch.testing.assert_close(others, weights, rtol=0, atol=1e-6)
    assert curve == pytest.approx(losses, rel=1e-6)


def test_deepspeed_leaves_a_batch_out_whose_loss_is_not_finite(tmp_path, deepspeed):
    train(tmp_path / "alone", 1, "ToyTask", much="nan")
    train(tmp_path / "zero", 2, "ToyTask", "deepspeed", "nan")
    (weights, _), (others, _) = found(tmp_path / "alone"), found(tmp_path / "zero")
    torch.testing.assert_close(others, weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", ["fsdp", "deepspeed"])
def test_in_bfloat16_weights_stay_float32_and_batches_what_they_are(tmp_path, request, how):
    if how == "deepspeed":
        request.getfixturevalue("deepspeed")
    train(tmp_path / "alone", 1, "ToyTask", much="bf16")
    train(tmp_path / "two", 2, "ToyTask", how, "bf16")
    (weights, losses), (others, curve) = found(tmp_path / "alone"), found(tmp_path / "two")
    assert all(value.dtype == weights[name].dtype for name, value in others.items())
    assert curve == pytest.approx(losses, rel=1e-4)


def test_deepspeed_refuses_two_players(tmp_path, deepspeed):
    assert "run it under DDP" in train(tmp_path / "zero", 2, "TwoPlayers", "deepspeed", fails=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run of two processes that nothing happens to."""
    out = tmp_path_factory.mktemp("undisturbed")
    train(out, 2, "ToyTask")
    return found(out)


@pytest.mark.parametrize("how", ["dies", "stalls"])
def test_a_process_that_dies_or_stands_still_ends_the_run_which_then_goes_on(tmp_path, undisturbed, how):
    said = train(tmp_path / "fails", 2, "ToyTask", much=how, fails=True)
    run = tmp_path / "fails" / "run"
    if how == "dies":
        assert "local_rank: 1" in said and "SIGKILL" in said
    else:
        assert "process 1 is furthest behind, at step 4, data" in said
        assert "in __getitem__" in (run / "stalls" / "rank_1.txt").read_text()
        assert (run / "stalls" / "rank_0.txt").is_file()  # whoever waits is written down too
    assert [path.name for path in (run / "states").glob("step_*")] == ["step_00000004"]
    train(tmp_path / "fails", 2, "ToyTask")
    (weights, losses), (others, curve) = undisturbed, found(tmp_path / "fails")
    assert losses == curve and weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)

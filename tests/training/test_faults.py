"""What kills a run, and what is left of it: kill -9 at random moments, dead workers, full disks, stalls, memory."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from training import survivors
from training.outcome import outcome

from audiogen.core.errors import UserError
from audiogen.training.lock import alone
from audiogen.training.state import newest_state
from audiogen.training.watchdog import Watchdog


def assert_same(one: Path, other: Path) -> None:
    whole, again = outcome(one), outcome(other)
    assert whole["state"] == "step_00000020"
    assert [name for name in {*whole, *again} if whole.get(name) != again.get(name)] == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """kind -> the run that was never stopped, made once."""
    made: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "run"
            child = survivors.start(kind, folder)
            child.join()
            assert child.exitcode == 0
            made[kind] = folder
        return made[kind]

    return run


@pytest.mark.parametrize("kind", survivors.KINDS)
def test_killed_at_random_moments_a_run_ends_as_if_it_never_was(kind, uninterrupted, tmp_path):
    """A state follows every step, so that some kills hit a save. benchmarks/training_loop.py does it 100 times."""
    whole = uninterrupted(kind)
    moments, kills = random.Random(kind), 0
    while kills < 3:
        child = survivors.start(kind, tmp_path / "run", wait=0.005)
        time.sleep(moments.uniform(0.02, 0.35))
        kills += survivors.kill(child)
        if child.exitcode == 0:
            break
    assert kills, "the run was over before it could be killed"
    child = survivors.start(kind, tmp_path / "run")
    child.join()
    assert child.exitcode == 0
    assert_same(whole, tmp_path / "run")
    assert not list((tmp_path / "run" / "states").glob(".*"))  # what half-written saves left is gone


def test_workers_and_shuffling_change_nothing_over_a_kill(uninterrupted, tmp_path):
    child = survivors.start("diffusion", tmp_path / "run", workers=1)
    while not list((tmp_path / "run" / "states").glob("step_*1[0-9]")):
        assert child.is_alive()
        time.sleep(0.01)
    assert survivors.kill(child)
    child = survivors.start("diffusion", tmp_path / "run", workers=1)
    child.join()
    assert child.exitcode == 0
    assert_same(uninterrupted("diffusion"), tmp_path / "run")


@pytest.mark.parametrize("damage", ["cut", "flip", "json"])
def test_a_damaged_newest_state_costs_a_step_and_nothing_else(damage, uninterrupted, tmp_path):
    child = survivors.start("diffusion", tmp_path / "run", minutes=0.0)
    child.join()
    child = survivors.start("diffusion", tmp_path / "run", minutes=0.0)
    child.join()
    newest = newest_state(tmp_path / "run" / "states")
    assert newest.name == "step_00000002"
    file = newest / ("state.json" if damage == "json" else "state.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    file.write_bytes(content[: len(content) // 2] if damage != "flip" else content)
    assert newest_state(tmp_path / "run" / "states").name == "step_00000001"
    child = survivors.start("diffusion", tmp_path / "run")
    child.join()
    assert child.exitcode == 0
    assert_same(uninterrupted("diffusion"), tmp_path / "run")


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_and_its_exit_code_asks_for_another_try(number, code, tmp_path):
    child = survivors.start("autoregressive", tmp_path / "run", wait=0.02, save_every=100)
    while not (tmp_path / "run" / "log.jsonl").exists():
        time.sleep(0.005)
    os.kill(child.pid, number)
    child.join()
    assert child.exitcode == code
    assert 3 <= int(newest_state(tmp_path / "run" / "states").name.removeprefix("step_")) < 20


# ------------------------------------------------------------------------- in this process


@pytest.fixture
def one_go(tmp_path, monkeypatch):
    """Train here, with a task and data of the test's own."""
    from audiogen.training.config import TrainConfig
    from audiogen.training.fit import fit

    def train(folder: str = "run", *, kind: str = "autoregressive", sounds=None, change=lambda task: None, judge=None,
              **settings):
        torch.manual_seed(0)
        task = survivors.KINDS[kind]()
        task.demo = lambda *_: None
        change(task)
        values = dict(run=tmp_path / folder, steps=8, batch_size=4, accumulation=1, warmup=3, log_every=2,
                      save_every=1, demo_every=100)
        summary = fit(task, sounds or survivors.Sounds(), TrainConfig(**(values | settings)),
                      collate=survivors.collate, judge=judge)
        return task, summary

    return train


def weights(task) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in task.model.parameters()])


def test_out_of_memory_halves_the_micro_batch_once_and_learns_the_same(one_go, capsys):
    def small_machine(task):
        loss = task.model.loss

        def limited(batch, rng):
            if len(batch.ids) > 2:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return loss(batch, rng)

        task.model.loss = limited

    roomy, _ = one_go("a")
    tight, summary = one_go("b", change=small_machine)
    torch.testing.assert_close(weights(roomy), weights(tight), rtol=0, atol=1e-5)
    assert summary.step == 8
    said = capsys.readouterr().out
    assert said.count("out of memory at step 0") == 1 and "--train.accumulation 2" in said


def test_memory_that_does_not_suffice_for_halves_either_is_one_line(one_go):
    def tiny_machine(task):
        def none(batch, rng):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        task.model.loss = none

    with pytest.raises(UserError, match="out of memory.*accumulation 4"):
        one_go(change=tiny_machine)


class Mortal(survivors.Sounds):
    """The worker that reads item 17 for the first time is killed, as by a kernel that is short of memory."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark = mark

    def __getitem__(self, k: int):
        if k == 17 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(k)


def test_a_dead_worker_is_named_and_the_run_goes_on_from_there(one_go, tmp_path):
    whole, _ = one_go("a")
    with pytest.raises(UserError, match="data worker died.*--train.workers than 1"):
        one_go("b", sounds=Mortal(tmp_path / "mark"), workers=1)
    reached = newest_state(tmp_path / "b" / "states")
    assert reached is None or reached.name <= "step_00000004"  # item 17 belongs to step 4
    again, _ = one_go("b")
    assert torch.equal(weights(whole), weights(again))


@pytest.mark.parametrize("moment", ["checkpoint", "demo", "score"])
def test_what_a_kill_just_after_the_last_state_prevented_is_made_by_the_next_call(
    moment, one_go, tmp_path, monkeypatch
):
    """Found by benchmarks/training_loop.py: the checkpoint stayed that of the step before, the run "unfinished"."""
    from audiogen.training import fit

    class Killed(BaseException):
        pass

    def die_at(name, step):
        if (name, step) == (moment, 8) and alive:
            raise Killed

    def demo(task):
        def make(model, folder, step):
            (folder / "clip").write_text(str(float(sum(p.sum() for p in model.parameters()))))
            die_at("demo", step)

        task.demo = make

    def judge(folder):
        die_at("score", int(folder.name.removeprefix("step_")))
        return float((folder / "clip").read_text())

    def save(folder, *arguments, scores, **more):
        if folder.name == "model":
            die_at("checkpoint", scores["step"])
        whole_checkpoint(folder, *arguments, scores=scores, **more)

    alive, whole_checkpoint = [], fit.save_checkpoint
    monkeypatch.setattr(fit, "save_checkpoint", save)
    one_go("whole", change=demo, judge=judge, demo_every=4)
    alive.append(True)
    with pytest.raises(Killed):
        one_go("run", change=demo, judge=judge, demo_every=4)
    assert newest_state(tmp_path / "run" / "states").name == "step_00000008"
    assert (tmp_path / "run" / "unfinished").is_file()
    alive.clear()
    one_go("run", change=demo, judge=judge, demo_every=4)
    assert not (tmp_path / "run" / "unfinished").exists()
    for name in ("model/model.safetensors", "demos/step_00000008/clip", "scores.jsonl", "best/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_fills_or_forbids_leaves_the_last_state_and_nothing_half_written(
    number, one_go, tmp_path, monkeypatch
):
    import safetensors.torch

    whole, _ = one_go("a")
    save, count = safetensors.torch.save_file, []

    def full(tensors, path, **more):
        count.append(path)
        if len(count) > 5:
            Path(path).write_bytes(b"the beginning")
            raise OSError(number, os.strerror(number), str(path))
        save(tensors, path, **more)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=os.strerror(number)):
        one_go("b")
    monkeypatch.setattr(safetensors.torch, "save_file", save)
    assert newest_state(tmp_path / "b" / "states") is not None
    assert not list((tmp_path / "b").rglob("*.part*"))
    again, _ = one_go("b")
    assert torch.equal(weights(whole), weights(again))


def test_a_folder_that_cannot_be_written_is_named_before_the_first_step(one_go, tmp_path):
    forbidden = tmp_path / "forbidden"
    forbidden.mkdir(mode=0o500)
    if os.access(forbidden, os.W_OK):  # the superuser may write everywhere, but not below a file
        forbidden = tmp_path / "file"
        forbidden.touch()
    with pytest.raises(OSError, match=re.escape(str(forbidden / "run"))):
        one_go(str(forbidden / "run"))


def test_a_run_that_stands_still_says_where_and_ends(tmp_path):
    child = survivors.start("autoregressive", tmp_path / "run", wait=3.0, batch_size=2, accumulation=1, stall=0.4)
    child.join(timeout=30)
    assert child.exitcode == 75
    said = (tmp_path / "run" / "stalls" / "rank_0.txt").read_text()
    assert "nothing has moved" in said and "at step 0, data" in said
    assert "__getitem__" in said  # the stack of the thread that hangs


def test_the_furthest_behind_is_named(tmp_path):
    dogs = [Watchdog(tmp_path, rank=rank, world=3, stall=60.0) for rank in range(3)]
    for dog, (step, phase) in zip(dogs, [(7, "synchronise"), (7, "data"), (8, "data")], strict=True):
        dog.beat(step, phase)
        dog._write()
    assert "process 1 is furthest behind, at step 7, data" in dogs[0]._slowest()
    for dog in dogs:
        dog.close()
    assert not list((tmp_path / "heartbeats").iterdir())


def test_a_loader_that_starves_the_device_is_told_once(one_go, capsys):
    one_go(sounds=survivors.Sounds(seconds_an_item=0.03))
    assert capsys.readouterr().out.count("waits for data") == 1


def test_a_job_script_can_see_whether_there_is_more_to_do(one_go, tmp_path):
    one_go(minutes=0.0)
    assert (tmp_path / "run" / "unfinished").exists()
    one_go()
    assert not (tmp_path / "run" / "unfinished").exists()


def test_chosen_states_are_kept_for_good(one_go, tmp_path):
    one_go(keep=1, keep_every=3)
    assert sorted(path.name for path in (tmp_path / "run" / "states").glob("step_*")) == [
        "step_00000003", "step_00000006", "step_00000008"]


def test_the_plan_names_the_accumulation_that_fits(one_go, capsys):
    from audiogen.training import plan

    assert plan.bytes_of("6GiB") == 6 * 2**30 and plan.bytes_of("500 MB") == 500_000_000
    base, slope = plan.line_through([2, 4, 8], [110.0, 120.0, 140.0])
    assert (base, slope) == (pytest.approx(100.0), pytest.approx(5.0))
    assert plan.largest_micro_batch(base, slope, 165.0, share=24) == 12
    assert plan.largest_micro_batch(base, slope, 104.0, share=24) == 0
    _, summary = one_go(plan=True, memory="1TiB", accumulation=4)
    assert summary.plan["micro-batch"] == "4 samples x 1 a step and process"
    with pytest.raises(UserError, match="one sample at a time takes"):
        one_go("other", plan=True, memory="1MiB")
    with pytest.raises(UserError, match="no amount of memory"):
        one_go("third", plan=True, memory="much")


def test_a_folder_that_is_being_trained_in_is_refused_until_its_process_is_gone(tmp_path):
    child = survivors.start("diffusion", tmp_path / "run", wait=1.0)
    while not list((tmp_path / "run").glob("states/step_*")):
        time.sleep(0.02)
    other = survivors.start("diffusion", tmp_path / "run")
    other.join()
    assert other.exitcode == 1 and survivors.kill(child)  # which let go of it
    again = survivors.start("diffusion", tmp_path / "run")
    again.join()
    assert again.exitcode == 0
    with alone(tmp_path / "run"), pytest.raises(UserError, match="being trained by another process"), alone(
            tmp_path / "run"):
        pass

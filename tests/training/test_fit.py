"""The training loop on toys: resuming, accumulation, players, precision, and what it does when things go wrong."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from audiogen.core.checkpoint import load_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition, Player
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.training.config import TrainConfig, rate_at
from audiogen.training.fit import fit
from audiogen.training.parcel import Parcel, opened
from audiogen.training.state import newest_state
from audiogen.training.steps import StepSampler

MEL = MelFormat(sample_rate=8000, n_fft=64, win_length=64, hop_length=16, n_mels=8, f_max=4000.0)


@dataclass(frozen=True)
class ToyConfig:
    mel: MelFormat = MEL


class Toy(nn.Module):
    """Predicts the mel from itself through noise: every source of randomness of a real model."""

    config_type = ToyConfig

    def __init__(self, config: ToyConfig = ToyConfig()) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Conv1d(8, 8, 3, padding=1)

    def loss(self, batch: Batch, rng: SampleRng) -> dict:
        noisy = batch.mel + rng.randn(*batch.mel.shape[1:], device=batch.mel.device)
        return {"loss": (self.layer(noisy) - batch.mel).square().mean()}


class ToyTask:
    room = "generator"

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = Toy()
        self.mel = MEL
        self.demos: list[int] = []

    def players(self) -> list[Player]:
        return [Player("toy", self.model, self.model.loss)]

    def demo(self, model: nn.Module, folder, step: int) -> None:
        self.demos.append(step)
        (folder / "demo.txt").write_text(str(step))


class TwoPlayers(ToyTask):
    """A generator and a critic, as in a GAN."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.critic = nn.Conv1d(8, 1, 1)
        self.seen: list[str] = []

    def players(self) -> list[Player]:
        return [
            Player("generator", self.model, self.generator_loss),
            Player("critic", self.critic, self.critic_loss, start=2),
        ]

    def generator_loss(self, batch: Batch, rng: SampleRng) -> dict:
        self.seen.append("generator")
        assert not any(p.requires_grad for p in self.critic.parameters()) or len(self.seen) <= 2
        return {"loss": -self.critic(self.model.layer(batch.mel)).mean() * 0.1 + self.model.loss(batch, rng)["loss"]}

    def critic_loss(self, batch: Batch, rng: SampleRng) -> dict:
        self.seen.append("critic")
        assert not any(p.requires_grad for p in self.model.parameters())
        return {"loss": (self.critic(batch.mel).mean(dim=(1, 2)) - 1).square().mean()}


class Data(torch.utils.data.Dataset):
    def __getitem__(self, k: int):
        return k, SampleRng(5, ids=[k]).randn(1, 16 * 16)[0]


def collate(items):
    ids = torch.tensor([k for k, _ in items])
    audio = 0.1 * torch.stack([a for _, a in items])
    return Batch(audio, None, torch.full_like(ids, 16), Condition(), ids)


@pytest.fixture(autouse=True)
def toy_in_the_table(monkeypatch):
    import audiogen.generators

    monkeypatch.setitem(audiogen.generators.TABLE, "toy", f"{__name__}:Toy")


def config(tmp_path, **fields) -> TrainConfig:
    values = dict(run=tmp_path / "run", steps=12, batch_size=4, warmup=3, log_every=3, save_every=4, demo_every=6)
    return TrainConfig(**(values | fields))


def weights(task) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in task.model.parameters()])


def losses(run) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line.get("loss", line.get("generator/loss")) for line in lines]


@pytest.mark.parametrize("kind", [ToyTask, TwoPlayers])
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path, kind):
    whole = kind()
    fit(whole, Data(), config(tmp_path / "a"), collate=collate)
    first = kind()
    fit(first, Data(), replace(config(tmp_path / "b"), minutes=0.0), collate=collate)  # one step, then out of time
    assert newest_state(tmp_path / "b" / "run" / "states").name == "step_00000001"
    second = kind(seed=99)  # whatever it starts from is replaced
    fit(second, Data(), config(tmp_path / "b"), collate=collate)
    assert torch.equal(weights(whole), weights(second))
    a = load_checkpoint(tmp_path / "a" / "run" / "model").model.state_dict()
    b = load_checkpoint(tmp_path / "b" / "run" / "model").model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)  # the average too


def test_accumulation_changes_nothing_but_memory(tmp_path):
    once, thrice = ToyTask(), ToyTask()
    fit(once, Data(), config(tmp_path / "a"), collate=collate)
    fit(thrice, Data(), config(tmp_path / "b", accumulation=4), collate=collate)
    torch.testing.assert_close(weights(once), weights(thrice), rtol=0, atol=1e-6)
    assert losses(tmp_path / "a" / "run") == pytest.approx(losses(tmp_path / "b" / "run"), abs=1e-4)


def test_processes_share_a_step_without_loss_or_repeat(tmp_path):
    plan = config(tmp_path, batch_size=8, accumulation=2)
    dealt = [list(StepSampler(plan, start=3, rank=rank, world=2)) for rank in range(2)]
    for step in range(3, plan.steps):
        micros = [m for rank in dealt for m in rank[2 * (step - 3) : 2 * (step - 3) + 2]]
        assert sorted(sum(micros, [])) == list(range(8 * step, 8 * step + 8))


def test_a_batch_that_cannot_be_dealt_is_an_error(tmp_path):
    with pytest.raises(UserError, match="multiple of 3"):
        StepSampler(config(tmp_path, batch_size=4, accumulation=3), start=0, rank=0, world=1)


def test_workers_change_nothing_and_hand_over_parcels(tmp_path, monkeypatch):
    alone, helped = ToyTask(), ToyTask()
    fit(alone, Data(), config(tmp_path / "a", steps=4), collate=collate)
    seen = []
    monkeypatch.setattr("audiogen.training.fit.opened", lambda batch: (seen.append(type(batch)), opened(batch))[1])
    fit(helped, Data(), config(tmp_path / "b", steps=4, workers=1), collate=collate)
    assert seen == [Parcel] * 4  # one block of shared memory a batch, however many tensors it has
    assert torch.equal(weights(alone), weights(helped))


def test_players_take_turns_and_start_late(tmp_path):
    task = TwoPlayers()
    fit(task, Data(), config(tmp_path, steps=4), collate=collate)
    assert task.seen == ["generator", "generator", "generator", "critic", "generator", "critic"]


@pytest.mark.parametrize("kind", [ToyTask, TwoPlayers])
def test_what_comes_frozen_stays_frozen(tmp_path, kind):
    """A first stage, say: its gradients would cost time and memory, and none of them is used."""
    task = kind()
    task.model.layer.bias.requires_grad_(False)
    before = task.model.layer.bias.clone()
    fit(task, Data(), config(tmp_path), collate=collate)
    assert not task.model.layer.bias.requires_grad and task.model.layer.weight.requires_grad
    assert torch.equal(task.model.layer.bias, before) and task.model.layer.bias.grad is None


def test_bf16_trains_and_keeps_float32_weights(tmp_path):
    task = ToyTask()
    before = weights(task).clone()
    fit(task, Data(), config(tmp_path, precision="bf16"), collate=collate)
    assert weights(task).dtype == torch.float32 and not torch.equal(before, weights(task))


def test_demos_are_written_at_the_start_at_intervals_and_at_the_end(tmp_path):
    task = ToyTask()
    fit(task, Data(), config(tmp_path), collate=collate)
    assert task.demos == [0, 6, 12]
    assert (tmp_path / "run" / "demos" / "step_00000006" / "demo.txt").exists()


def test_only_the_newest_states_are_kept(tmp_path):
    fit(ToyTask(), Data(), config(tmp_path, save_every=2, keep=2), collate=collate)
    assert sorted(p.name for p in (tmp_path / "run" / "states").iterdir()) == ["step_00000010", "step_00000012"]


def test_a_damaged_state_is_passed_over(tmp_path, capsys):
    plan = config(tmp_path, save_every=4, keep=3)
    fit(ToyTask(), Data(), plan, collate=collate)
    newest = tmp_path / "run" / "states" / "step_00000012" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    assert newest_state(tmp_path / "run" / "states").name == "step_00000008"
    assert "damaged" in capsys.readouterr().out


class Poisoned(ToyTask):
    """A toy whose loss (or only its gradient) is not finite at some steps."""

    def __init__(self, bad, *, gradient_only: bool = False) -> None:
        super().__init__()
        self.bad, self.gradient_only = bad, gradient_only

    def players(self):
        def loss(batch, rng):
            value = self.model.loss(batch, rng)["loss"]
            if not self.bad(rng.step):
                return {"loss": value}
            if not self.gradient_only:
                return {"loss": value * float("nan")}
            root = (self.model.layer.weight * 0).sum().sqrt()  # 0, with an infinite slope
            return {"loss": value + root}

        return [Player("toy", self.model, loss)]


def test_nan_that_stays_stops_the_run_and_names_the_samples(tmp_path, capsys):
    with pytest.raises(UserError, match="nan at step 2, number 3 in a row"):
        fit(Poisoned(lambda step: True), Data(), config(tmp_path, patience=2), collate=collate)
    assert json.loads((tmp_path / "run" / "nan.json").read_text())["sample_ids"] == [8, 9, 10, 11]
    assert "nan at step 0: the batch is skipped" in capsys.readouterr().out


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_bad_batch_changes_nothing(tmp_path, gradient_only):
    """Steps 5 and 6 fail: the run is as one that had no such steps."""
    task = Poisoned(lambda step: step in (5, 6), gradient_only=gradient_only)
    fit(task, Data(), config(tmp_path, schedule="constant", steps=7, save_every=100), collate=collate)
    clean = ToyTask()
    fit(clean, Data(), config(tmp_path / "b", schedule="constant", steps=5, save_every=100), collate=collate)
    assert torch.equal(weights(task), weights(clean)) and weights(task).isfinite().all()
    a, b = (load_checkpoint(run / "run" / "model").model.state_dict() for run in (tmp_path, tmp_path / "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)  # the average too
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert line["skipped"] == 2 and line["step"] == 7


def test_a_run_whose_weights_went_wrong_goes_back_to_its_last_state_and_on(tmp_path, capsys):
    seen = []

    class Derailed(ToyTask):
        """At step 6 the weights are thrown far off, after which every loss is infinite."""

        def players(self):
            def loss(batch, rng):
                if rng.step == 6:
                    self.model.layer.weight.data.fill_(1e30)
                seen.append((rng.step, float(self.model.layer.weight.detach().abs().max())))
                return self.model.loss(batch, rng)

            return [Player("toy", self.model, loss)]

    task = Derailed()
    fit(task, Data(), config(tmp_path, patience=2), collate=collate)  # states at 4, 8, 12
    said = capsys.readouterr().out
    assert said.count("is skipped") == 3 and said.count("goes back") == 1
    assert weights(task).abs().max() < 10 and dict(seen)[8] > 1e20 and dict(seen)[9] < 10
    states = sorted(path.name for path in (tmp_path / "run" / "states").iterdir())
    assert states == ["step_00000004", "step_00000012"]  # none of 8, when the weights were wrong


def test_going_back_is_tried_once(tmp_path, capsys):
    with pytest.raises(UserError, match="again after going back"):
        fit(Poisoned(lambda step: step >= 4), Data(), config(tmp_path, patience=1), collate=collate)
    assert capsys.readouterr().out.count("goes back") == 1


def test_a_players_gradients_do_not_wait_through_the_others_turn(tmp_path):
    class Watching(TwoPlayers):
        def generator_loss(self, batch, rng):
            assert all(p.grad is None for p in self.critic.parameters())
            return super().generator_loss(batch, rng)

        def critic_loss(self, batch, rng):
            assert all(p.grad is None for p in self.model.parameters())
            return super().critic_loss(batch, rng)

    task = Watching()
    fit(task, Data(), config(tmp_path, steps=5), collate=collate)
    assert task.seen.count("critic") == 3


def test_a_signal_saves_and_the_same_call_goes_on(tmp_path):
    class Stopped(Data):
        def __getitem__(self, k):
            if k == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(k)

    whole = ToyTask()
    fit(whole, Data(), config(tmp_path / "a"), collate=collate)
    task = ToyTask()
    summary = fit(task, Stopped(), config(tmp_path / "b"), collate=collate)
    assert summary.interrupted == "SIGTERM" and summary.step < 12
    fit(task, Data(), config(tmp_path / "b"), collate=collate)
    assert torch.equal(weights(whole), weights(task))


def test_overfit_reaches_its_goal_or_says_why_not(tmp_path):
    plan = config(tmp_path, overfit=1, steps=300, learning_rate=3e-2)
    assert fit(ToyTask(), Data(), plan, collate=collate, overfit_below=("loss", 30.0)).losses["loss"] < 30.0
    with pytest.raises(UserError, match="not below 0"):
        fit(ToyTask(), Data(), replace(plan, steps=30), collate=collate, overfit_below=("loss", 0.0))
    summary = fit(ToyTask(), Data(), plan, collate=collate)  # no goal: a third less than at first
    assert 20 <= summary.step < 300
    with pytest.raises(UserError, match="after 20 steps"):
        fit(ToyTask(), Data(), replace(plan, steps=20, learning_rate=1e-9), collate=collate)
    assert not (tmp_path / "run" / "states").exists()


def test_plan_measures_and_trains_nothing(tmp_path, capsys):
    task = ToyTask()
    summary = fit(task, Data(), config(tmp_path, plan=True), collate=collate)
    assert summary.plan["parameters"] == {"toy": 8 * 8 * 3 + 8}
    assert summary.plan["steps per second"] > 0
    assert "hours to finish" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_the_rate_warms_up_and_comes_down(tmp_path):
    plan = config(tmp_path, steps=100, warmup=10, final_rate=0.1)
    rates = [rate_at(step, plan) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 and rates[-1] == pytest.approx(0.1, abs=0.01)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rate_at(80, replace(plan, schedule="constant")) == 1.0


def test_the_log_tells_speed_waiting_and_memory(tmp_path):
    fit(ToyTask(), Data(), config(tmp_path), collate=collate)
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 12 and line["audio_per_second"] > 0 and 0 <= line["data_wait"] <= 1 and line["peak_mib"] > 0
    assert list((tmp_path / "run" / "logs").rglob("events*"))


def test_a_judge_keeps_the_best_demos_weights(tmp_path, capsys):
    given = iter([3.0, 1.0, 2.0, 0.5])
    kept = []

    def judge(folder):
        kept.append(folder.name)
        return next(given)

    run = config(tmp_path, steps=6, demo_every=2)
    fit(ToyTask(), Data(), run, collate=collate, judge=judge)
    assert kept == ["step_00000002", "step_00000004", "step_00000006"]
    lines = [json.loads(line) for line in (run.run / "scores.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == [3.0, 1.0, 2.0]
    assert json.loads((run.run / "best" / "scores.json").read_text()) == {"step": 4, "score": 1.0}
    fit(ToyTask(), Data(), replace(run, steps=8), collate=collate, judge=judge)  # resumed: the best is remembered
    assert json.loads((run.run / "best" / "scores.json").read_text())["score"] == 0.5

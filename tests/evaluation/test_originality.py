"""Planted copies are found where they were planted; what is only alike is not; variety is counted."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.core.errors import UserError
from evaluation.landmarks import SAMPLE_RATE, LandmarkIndex
from evaluation.originality import copying, diversity, nearest_training_clips


def tune(seed: int, seconds: float = 5.0) -> torch.Tensor:
    """Decaying tones at random times: music enough for peaks."""
    rng = torch.Generator().manual_seed(seed)
    clip = 0.003 * torch.randn(round(seconds * SAMPLE_RATE), generator=rng)
    t = torch.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    for _ in range(round(5 * seconds)):
        pitch = 110 * 2 ** (torch.randint(0, 36, (1,), generator=rng).item() / 12)
        at = int(torch.randint(0, len(clip) - len(t), (1,), generator=rng))
        note = sum(torch.sin(2 * math.pi * pitch * k * t) / k for k in range(1, 7)) * torch.exp(-5 * t)
        clip[at : at + len(t)] += 0.1 * note
    return clip


@pytest.fixture(scope="module")
def index():
    return LandmarkIndex((f"train {seed}", tune(seed)) for seed in range(16))


@pytest.mark.parametrize("damage", ["none", "noise", "quieter", "low-pass"])
def test_a_planted_passage_is_found_with_both_time_stamps(index, damage):
    rng = torch.Generator().manual_seed(777)  # not a tune's seed: its noise would be found as well
    clip = 0.1 * tune(1000)
    passage = tune(7)[int(2.1 * SAMPLE_RATE) : int(5.1 * SAMPLE_RATE)]
    if damage == "noise":
        passage = passage + 0.02 * torch.randn(len(passage), generator=rng)
    if damage == "quieter":
        passage = 0.4 * passage
    if damage == "low-pass":
        spectrum = torch.fft.rfft(passage)
        spectrum[torch.fft.rfftfreq(len(passage), 1 / SAMPLE_RATE) > 3000] = 0
        passage = torch.fft.irfft(spectrum, len(passage))
    start = int(1.5 * SAMPLE_RATE)
    clip[start : start + len(passage)] += passage
    match = index.find(clip)[0]
    assert match.source == "train 7"
    assert match.source_at - match.at == pytest.approx(2.1 - 1.5, abs=0.05)
    assert 1.4 < match.at < 2.5 and match.seconds > 1.0


def test_clips_that_share_notes_and_nothing_else_are_no_copies(index):
    false = sum(bool(index.find(tune(5000 + seed))) for seed in range(24))
    assert false == 0  # with 24 clips, below 1 in 8 at 95 %; the landmarks that agree by chance are 2 or 3


def test_a_clip_can_be_looked_up_among_the_others(index):
    assert index.find(tune(3))[0].source == "train 3"
    assert index.find(tune(3), leave_out="train 3") == []


def test_silence_and_very_short_clips_match_nothing(index):
    assert index.find(torch.zeros(SAMPLE_RATE)) == [] and index.find(torch.zeros(10)) == []
    assert LandmarkIndex([]).find(tune(1)) == []


def normal(rows, dim, seed):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_copies_lie_at_quantile_0_and_new_clips_anywhere():
    training, held_out, new = normal(200, 8, 0), normal(300, 8, 1), normal(200, 8, 2)
    copies = nearest_training_clips(training, held_out, training[:50] + 1e-3)
    assert [n.index for n in copies] == list(range(50)) and all(n.quantile < 0.01 for n in copies)
    fresh = nearest_training_clips(training, held_out, new)
    assert abs(copying(fresh)[1]) < 3 and copying(copies)[1] < -8
    quantiles = torch.tensor([n.quantile for n in fresh])
    assert quantiles.min() < 0.1 and quantiles.max() > 0.9


def test_few_held_out_clips_calibrate_nothing():
    with pytest.raises(UserError, match="19 held-out clips"):
        nearest_training_clips(normal(9, 2, 0), normal(19, 2, 1), normal(3, 2, 2))


def test_diversity_counts_what_is_different():
    assert diversity(torch.eye(6))["vendi"] == pytest.approx(6)
    assert diversity(torch.ones(6, 3))["vendi"] == pytest.approx(1)
    assert diversity(torch.eye(3).repeat(4, 1))["vendi"] == pytest.approx(3)
    assert diversity(torch.eye(3).repeat(2, 1))["same"] == 1.0 and diversity(torch.eye(6))["same"] == 0.0
    assert diversity(torch.eye(4))["mean_distance"] == pytest.approx(1.0)

"""Where the reader may look, what looking elsewhere costs, and that it keeps to both."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.generators.note_attention import (
    FRESH,
    SOUNDING,
    TIMING,
    Reader,
    distance,
    guide_loss,
    timing,
    within_reach,
)
from audiogen.generators.note_tokens import NoteTokens

INF = float("inf")
# One sample has two notes, in frames 10 .. 19 and 15 .. 29; the other none.
NOTES = NoteTokens(
    pitch=torch.tensor([[0, 40, 44], [0, 0, 0]]), onset=torch.tensor([[0.0, 10, 15], [0, 0, 0]]),
    end=torch.tensor([[50.0, 20, 30], [50, 0, 0]]), velocity=torch.tensor([[0, 0.5, 0.5], [0, 0, 0]]),
    mask=torch.tensor([[True, True, True], [True, False, False]]),
)


def test_distances_by_hand():
    found = distance(NOTES, torch.tensor([0.0, 10, 17, 25, 33]))
    assert found[0].tolist() == [[0, 10, 15], [INF, 0, 5], [INF, 0, 0], [INF, 6, 0], [0, 14, 4]]
    assert found[1].tolist() == [[0, INF, INF]] * 5


def test_reach_holds_the_rest_and_the_notes_nearby():
    found = within_reach(NOTES, torch.tensor([0.0, 17, 33]), reach=12)
    assert found[0].tolist() == [[True, True, False], [True, True, True], [True, False, True]]
    assert found[1].tolist() == [[True, False, False]] * 3


def test_the_guide_costs_nothing_where_attention_is_on_what_sounds():
    away = distance(NOTES, torch.tensor([0.0, 17, 25]))[:1]
    right = torch.tensor([[[1.0, 0, 0], [0, 0.3, 0.7], [0, 0, 1]]])
    assert guide_loss(right, away, width=5.0).tolist() == [[0, 0, 0]]
    wrong = torch.tensor([[[0.0, 1, 0], [1, 0, 0], [0, 1, 0]]])
    expected = [1 - math.exp(-(10**2) / 50), 1, 1 - math.exp(-(6**2) / 50)]
    assert guide_loss(wrong, away, width=5.0)[0].tolist() == pytest.approx(expected)


def test_timing_is_bounded_and_says_what_sounds():
    found = timing(NOTES, torch.tensor([0.0, 10, 17, 400]), frame_rate=100.0)
    assert found.shape == (2, 4, 3, TIMING) and found.abs().max() <= 1
    assert found[0, :, :, SOUNDING].tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert float(found[0, 2, 1, FRESH]) == pytest.approx(math.exp(-0.07 / 0.25))
    assert not found[:, :, 0].any() and not found[1].any()


def test_attention_lies_on_real_tokens_within_reach_and_sums_to_one():
    torch.manual_seed(0)
    reader = Reader(6, 8, 12, 10)
    memory = reader.remember(torch.randn(2, 3, 8))
    state, times = reader.start(memory), torch.arange(40.0)
    when, near = timing(NOTES, times, frame_rate=100.0), within_reach(NOTES, times, reach=3)
    for s in range(40):
        state = reader(torch.randn(2, 6), state, memory, when[:, s], near[:, s])
        torch.testing.assert_close(state.weights.sum(1), torch.ones(2))
        assert not state.weights[~near[:, s]].any() and (state.weights[near[:, s]] > 0).all()
        torch.testing.assert_close(state.read, (state.weights.unsqueeze(-1) * memory.values).sum(1))
        assert state.lately.max() < 10.01  # 1 / (1 - 0.9): however long the clip

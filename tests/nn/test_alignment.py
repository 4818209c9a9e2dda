"""Oracles: both scores written out in loops; a memory in which one token stands out."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.nn.alignment import ALIGNMENTS


def made(kind, width=6):
    torch.manual_seed(0)
    return ALIGNMENTS[kind](5, 4, width).double()


def score(layer, kind, query, value):
    key = layer.key.weight @ value
    if kind == "dot":
        return (layer.query.weight @ query) @ key / math.sqrt(6)
    return layer.weigh.weight[0] @ torch.tanh(layer.query.weight @ query + layer.query.bias + key)


@pytest.mark.parametrize("kind", ALIGNMENTS)
@torch.no_grad()
def test_what_is_read_is_the_sum_written_out_over_the_real_tokens(kind):
    layer = made(kind)
    query, values = torch.randn(1, 3, 5, dtype=torch.float64), torch.randn(1, 4, 4, dtype=torch.float64)
    read, weights = layer(query, layer.remember(values, torch.tensor([[True, True, False, True]])))
    for i in range(3):
        scores = torch.stack([score(layer, kind, query[0, i], values[0, j]) for j in (0, 1, 3)])
        torch.testing.assert_close(weights[0, i, [0, 1, 3]], scores.softmax(0))
        torch.testing.assert_close(read[0, i], scores.softmax(0) @ values[0, [0, 1, 3]])
    assert not weights[..., 2].any()


@pytest.mark.parametrize("kind", ALIGNMENTS)
def test_padding_of_the_memory_changes_nothing(kind):
    layer = made(kind)
    query, values = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 6, 4, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    whole, weights = layer(query, layer.remember(values, mask))
    cut, _ = layer(query[1:], layer.remember(values[1:, :4], mask[1:, :4]))
    torch.testing.assert_close(whole[1:], cut)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ALIGNMENTS)
def test_it_learns_to_point(kind):
    """The query names a place; after a few steps the weights lie there."""
    torch.manual_seed(0)
    layer = ALIGNMENTS[kind](8, 8, 16)
    names = torch.eye(8)[None]
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(60):
        _, weights = layer(names, layer.remember(names, torch.ones(1, 8, dtype=torch.bool)))
        loss = -weights.diagonal(dim1=1, dim2=2).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert bool((weights.diagonal(dim1=1, dim2=2) > 0.8).all())

"""Oracle: the sum written out, over the real tokens alone."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.nn.cross_attention import CrossAttention


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return CrossAttention(8, 2, context_width=5).double()


def test_it_is_the_sum_over_the_real_tokens_written_out(layer):
    x, context = torch.randn(1, 3, 8, dtype=torch.float64), torch.randn(1, 6, 5, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, False, False]])
    q = (x[0] @ layer.query.weight.T + layer.query.bias).reshape(3, 2, 4)
    k, v = (context[0] @ layer.keys_values.weight.T + layer.keys_values.bias).reshape(6, 2, 2, 4).unbind(1)
    out = torch.zeros(3, 2, 4, dtype=torch.float64)
    for head in range(2):
        for i in range(3):
            weights = torch.stack([q[i, head] @ k[j, head] / math.sqrt(4) for j in (0, 1, 3)]).softmax(0)
            out[i, head] = sum(w * v[j, head] for w, j in zip(weights, (0, 1, 3), strict=True))
    with torch.no_grad():
        torch.testing.assert_close(layer(x, layer.given(context, mask))[0], out.reshape(3, 8) @ layer.out.weight.T)


def test_padding_says_nothing_and_a_context_of_padding_adds_nothing(layer):
    x, context = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    changed = context.clone()
    changed[~mask] = 7.0
    made = layer(x, layer.given(context, mask))
    torch.testing.assert_close(made, layer(x, layer.given(changed, mask)))
    torch.testing.assert_close(made[:1], layer(x[:1], layer.given(context[:1, :2])))
    assert not made[1].any()
    made.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())

"""Oracle: attention written out token by token, head by head, with complex rotations."""

from __future__ import annotations

import cmath
import math

import pytest
import torch

from audiogen.nn.attention import RotaryAttention, near


def by_hand(layer, x, reach, causal=False):
    """x (tokens, width) -> (tokens, width), one loop a sum."""
    def sees(i, j):
        return (reach is None or abs(i - j) <= reach) and not (causal and j > i)

    tokens, width = x.shape
    dim = width // layer.heads
    q, k, v = (x @ layer.into.weight.T + layer.into.bias).reshape(tokens, 3, layer.heads, dim).unbind(1)
    out = torch.zeros(tokens, layer.heads, dim, dtype=x.dtype)
    for head in range(layer.heads):
        for i in range(tokens):
            logits = []
            for j in range(tokens):
                a, b = (vector / vector.square().mean().sqrt() for vector in (q[i, head], k[j, head]))
                total = 0.0
                for c in range(dim // 2):  # Re(q conj(k) e^(i (i - j) theta)): only the distance enters
                    turn = cmath.exp(1j * (i - j) * 1000 ** (-2 * c / dim))
                    left, right = complex(a[c], a[c + dim // 2]), complex(b[c], b[c + dim // 2])
                    total += (left * right.conjugate() * turn).real
                logits.append(total / math.sqrt(dim) if sees(i, j) else -math.inf)
            share = torch.tensor(logits, dtype=x.dtype).softmax(0)
            out[i, head] = share @ v[:, head]
    return out.reshape(tokens, width) @ layer.out.weight.T + layer.out.bias


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("reach", [None, 0, 2, 20])
def test_attention_is_the_sum_written_out(reach, causal):
    torch.manual_seed(0)
    layer = RotaryAttention(12, 2, reach=reach, causal=causal).double()
    x = torch.randn(1, 7, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], by_hand(layer, x[0], reach, causal), rtol=1e-5, atol=1e-6)


def test_near_is_a_band():
    assert near(5, 1).sum(1).tolist() == [2, 3, 3, 3, 2]


def test_uneven_heads_are_refused():
    with pytest.raises(ValueError, match="heads=3"):
        RotaryAttention(16, 3)


def test_attention_that_looks_ahead_has_no_state():
    with pytest.raises(ValueError, match="causal=True"):
        RotaryAttention(12, 2).begin()

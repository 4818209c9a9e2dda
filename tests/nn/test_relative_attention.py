"""Oracle: Shaw et al.'s form, with a vector for every pair of tokens, in loops."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.nn.relative_attention import RelativeAttention, skew


def layer(width=12, heads=2, max_distance=4):
    torch.manual_seed(0)
    return RelativeAttention(width, heads, max_distance=max_distance).double()


@pytest.mark.parametrize("queries, keys", [(1, 1), (3, 3), (7, 7), (1, 6), (4, 9)])
def test_skewing_puts_every_distance_in_its_place(queries, keys):
    by_distance = torch.arange(keys - 1, -1, -1).expand(2, queries, keys)  # the number is the distance
    made = skew(by_distance)
    for row in range(queries):
        for key in range(keys - queries + row + 1):
            assert made[1, row, key] == keys - queries + row - key


@pytest.mark.parametrize("queries, keys", [(6, 6), (2, 11), (9, 9)])
def test_the_skewed_logits_are_those_of_the_form_with_a_vector_for_every_pair(queries, keys):
    made = layer()
    q = torch.randn(3, 2, queries, 6, dtype=torch.float64)
    logits = made.relative_logits(q, keys)
    place = torch.arange(keys - queries, keys)
    distance = (place[:, None] - torch.arange(keys)).clamp(0, made.max_distance)
    vectors = made.distances[:, distance]  # (heads, queries, keys, dim): what skewing does without
    naive = torch.einsum("bhqd,hqkd->bhqk", q, vectors)
    seen = torch.arange(keys) <= place[:, None]
    torch.testing.assert_close(logits[:, :, seen], naive[:, :, seen])


@torch.no_grad()
def test_attention_is_the_sum_written_out():
    made = layer()
    x = torch.randn(7, 12, dtype=torch.float64)
    q, k, v = (x @ made.into.weight.T + made.into.bias).reshape(7, 3, 2, 6).unbind(1)
    out = torch.zeros(7, 2, 6, dtype=torch.float64)
    for head in range(2):
        for i in range(7):
            logits = [
                float(q[i, head] @ k[j, head] + q[i, head] @ made.distances[head, min(i - j, 4)]) / math.sqrt(6)
                for j in range(i + 1)
            ]
            out[i, head] = torch.tensor(logits, dtype=torch.float64).softmax(0) @ v[: i + 1, head]
    wanted = out.reshape(7, 12) @ made.out.weight.T + made.out.bias
    torch.testing.assert_close(made(x[None])[0], wanted)


def test_distances_beyond_the_largest_are_that_one():
    near, far = layer(max_distance=3), layer(max_distance=50)
    far.load_state_dict({k: v for k, v in near.state_dict().items() if k != "distances"}, strict=False)
    with torch.no_grad():
        far.distances.copy_(near.distances[:, torch.arange(51).clamp(max=3)])
        x = torch.randn(2, 20, 12, dtype=torch.float64)
        torch.testing.assert_close(near(x), far(x))


def test_memory_of_skewing_grows_with_pairs_and_not_with_pairs_times_dim():
    """No tensor of the graph has tokens² x dim numbers."""
    made, sizes = layer(width=64, heads=1), []
    tokens = 48
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        made(torch.randn(1, tokens, 64, dtype=torch.float64)).sum().backward()
    assert max(sizes) <= 4 * tokens * tokens < tokens * tokens * 64

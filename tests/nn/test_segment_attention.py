"""Oracles: the four terms of Dai et al. in loops; one pass over the whole sequence; gradients, for what was seen."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.nn.segment_attention import SegmentAttention
from audiogen.nn.transformer import Transformer, TransformerConfig


def layer(memory, width=8, heads=2):
    torch.manual_seed(0)
    made = SegmentAttention(width, heads, memory=memory).double()
    torch.nn.init.normal_(made.content_bias)
    torch.nn.init.normal_(made.place_bias)
    return made


def stack(memory, layers=3):
    torch.manual_seed(0)
    config = TransformerConfig(width=16, layers=layers, heads=2, attention="segment", memory=memory)
    return Transformer(config).double()


def in_segments(model, x, size):
    state = model.begin()
    return torch.cat([model(part, state) for part in x.split(size, 1)], 1)


def by_hand(made, x, memory):
    tokens, width, heads = *x.shape, made.heads
    dim = width // heads
    q = (x @ made.query.weight.T + made.query.bias).reshape(tokens, heads, dim)
    k, v = (x @ made.keys_values.weight.T + made.keys_values.bias).reshape(tokens, 2, heads, dim).unbind(1)
    out = torch.zeros(tokens, heads, dim, dtype=x.dtype)
    for head in range(heads):
        for i in range(tokens):
            logits, first = [], max(0, i - memory)
            for j in range(first, i + 1):
                angles = [(i - j) / 10_000 ** (2 * c / width) for c in range(width // 2)]
                r = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=x.dtype)
                r = (made.distance.weight @ r).reshape(heads, dim)[head]
                u, w = made.content_bias[head, 0], made.place_bias[head, 0]
                terms = q[i, head] @ k[j, head], q[i, head] @ r, u @ k[j, head], w @ r  # (a), (b), (c), (d)
                logits.append(sum(float(term) for term in terms) / math.sqrt(dim))
            out[i, head] = torch.tensor(logits, dtype=x.dtype).softmax(0) @ v[first : i + 1, head]
    return out.reshape(tokens, width) @ made.out.weight.T + made.out.bias


@pytest.mark.parametrize("memory", [2, 20])
def test_attention_is_the_sum_of_the_four_terms_written_out(memory):
    made = layer(memory)
    x = torch.randn(7, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(made(x[None])[0], by_hand(made, x, memory), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [1, 4, 5, 13])
def test_with_memory_every_segment_gives_what_the_full_context_gives(size, training):
    model = stack(memory=5).train(training)
    x = torch.randn(2, 26, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(in_segments(model, x, size), model(x))


def test_a_memory_as_long_as_the_past_is_attention_without_limit():
    limited, free = stack(memory=6), stack(memory=100)
    x = torch.randn(1, 20, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(limited(x)[:, :7], free(x)[:, :7])
        assert not torch.allclose(limited(x)[:, 7:], free(x)[:, 7:])
        torch.testing.assert_close(in_segments(free, x, 4), free(x))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_times_memory_tokens_back_are_seen_and_none_before(layers):
    memory, tokens = 3, 12
    model = stack(memory, layers).eval()
    x = torch.randn(1, tokens, 16, dtype=torch.float64, requires_grad=True)
    model(x)[0, -1].square().sum().backward()
    felt = x.grad[0].abs().sum(1) > 0
    assert felt.tolist() == [tokens - 1 - place <= layers * memory for place in range(tokens)]
    # The same reach through segments that hold `memory` tokens each: what is far back still moves the last output.
    with torch.no_grad():
        base = in_segments(model, x, memory)[0, -1]
        for place in range(tokens):
            moved = x.detach().clone()
            moved[0, place, 0] += 10.0  # one channel: a layer norm takes a shift of all of them out
            assert bool((in_segments(model, moved, memory)[0, -1] != base).any()) == bool(felt[place])


def test_no_gradient_goes_into_the_memory_but_its_keys_and_values_learn():
    made = layer(memory=4).train()
    x = torch.randn(1, 8, 8, dtype=torch.float64, requires_grad=True)
    state = made.begin()
    made(x[:, :4], state)
    made(x[:, 4:], state).square().sum().backward()
    assert not x.grad[:, :4].any() and x.grad[:, 4:].any()
    whole = made.keys_values.weight.grad.clone()
    made.zero_grad()
    made(x[:, 4:].detach(), None).square().sum().backward()
    assert not torch.allclose(whole, made.keys_values.weight.grad)


def test_the_state_never_holds_more_than_the_memory():
    for training in (True, False):
        made = layer(memory=4).train(training)
        state = made.begin()
        for _ in range(9):
            made(torch.randn(1, 3, 8, dtype=torch.float64), state)
        kept = state.hidden if training else state.keys[:, 0]
        assert kept.shape[1] == 4


def test_a_memory_of_nothing_is_refused():
    with pytest.raises(ValueError, match="memory=0"):
        SegmentAttention(8, 2, memory=0)

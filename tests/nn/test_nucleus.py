from __future__ import annotations

import math

import pytest
import torch

from audiogen.nn.nucleus import drawn, probabilities

LOGITS = torch.tensor([[2.0, 0.5, -1.0, 1.5, -math.inf], [0.0, 0.1, 3.0, -2.0, 0.2]])


@pytest.mark.parametrize("temperature, top_k, top_p", [(1.0, 0, 1.0), (0.5, 2, 1.0), (2.0, 0, 0.7), (1.3, 3, 0.8)])
def test_they_are_what_the_definitions_say(temperature, top_k, top_p):
    found = probabilities(LOGITS, temperature=temperature, top_k=top_k, top_p=top_p)
    for row, result in zip(LOGITS.tolist(), found, strict=True):
        weight = [math.exp(value / temperature) for value in row]
        order = sorted(range(5), key=lambda token: -weight[token])[: top_k or 5]
        total, kept, so_far = sum(weight[token] for token in order), [], 0.0
        for token in order:
            if so_far >= top_p:
                break
            kept.append(token)
            so_far += weight[token] / total
        mass = sum(weight[token] for token in kept)
        expected = [weight[token] / mass if token in kept else 0.0 for token in range(5)]
        assert result.tolist() == pytest.approx(expected)


def test_every_sample_may_have_a_temperature_of_its_own_and_zero_is_the_likeliest():
    found = probabilities(LOGITS[:, None].expand(2, 3, 5), temperature=torch.tensor([0.0, 1.5]), top_p=0.9)
    assert torch.equal(found[0], torch.eye(5).double()[[0, 0, 0]])
    torch.testing.assert_close(found[1], probabilities(LOGITS[1:].expand(3, 5), temperature=1.5, top_p=0.9))
    assert torch.equal(probabilities(LOGITS, temperature=0), probabilities(LOGITS, top_k=1))


def test_tokens_are_drawn_as_often_as_is_said():
    chances = probabilities(LOGITS)
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    tokens = drawn(chances[:, None].expand(2, 10_000, 5), uniform.expand(2, -1))
    for row, expected in zip(tokens, chances, strict=True):
        share = torch.bincount(row, minlength=5).double() / 10_000
        torch.testing.assert_close(share, expected, rtol=0, atol=2e-4)

"""What holds for every kind of attention: generation equals the whole sequence, and nothing sees the future."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from audiogen.core.config import from_dict, to_dict
from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.nn.transformer import ATTENTIONS, Transformer, TransformerConfig

SMALL = TransformerConfig(
    width=16, layers=2, heads=2, max_distance=9, memory=7, buckets=4, chunk=5, rounds=2, reach=None
)


def stack(kind, **fields):
    torch.manual_seed(0)
    return Transformer(dataclasses.replace(SMALL, attention=kind, **fields)).double().eval()


KINDS = [(kind, {}) for kind in ATTENTIONS] + [("rotary", {"reach": 6}), ("relative", {"context_width": 3})]


def given(model, batch):
    if not model.config.context_width:
        return {}
    return {"context": torch.randn(batch, 4, 3, dtype=torch.float64), "mask": torch.tensor([[True] * 3 + [False]])}


@pytest.mark.parametrize("kind, fields", KINDS)
@pytest.mark.parametrize("sizes", [(1,) * 33, (30, 1, 1, 1), (4, 29), (1, 1, 9, 3, 1, 18)])
def test_with_a_state_the_tokens_give_what_the_whole_sequence_gives(kind, fields, sizes):
    model = stack(kind, **fields)
    x, context = torch.randn(2, 33, 16, dtype=torch.float64), given(model, 2)
    with torch.inference_mode():
        state = model.begin(**context)
        parts = torch.cat([model(part, state) for part in x.split(sizes, 1)], 1)
        torch.testing.assert_close(parts, model(x, **context), rtol=0, atol=1e-10)
    assert state.tokens == 33


@pytest.mark.parametrize("kind, fields", KINDS)
def test_no_token_sees_a_later_one_and_all_see_what_is_within_reach(kind, fields):
    model = stack(kind, **fields)
    x = torch.randn(1, 12, 16, dtype=torch.float64, requires_grad=True)
    model(x, **given(model, 1))[0, 6].square().sum().backward()
    felt = x.grad[0].abs().sum(1) > 0
    assert felt[6] and not felt[7:].any()
    if kind != "lsh":
        assert felt[:7].all()


@pytest.mark.parametrize("kind, fields", KINDS)
def test_gradients_reach_every_parameter(kind, fields):
    model = stack(kind, **fields).train()
    model(torch.randn(2, 12, 16, dtype=torch.float64), **given(model, 2)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_a_sample_does_not_depend_on_its_batch_and_chance_comes_from_the_rng_alone(kind):
    model = stack(kind, dropout=0.3).train()
    x = torch.randn(3, 20, 16, dtype=torch.float64)
    with torch.no_grad():
        together = model(x, rng=SampleRng(1, ids=[7, 8, 9]))
        torch.manual_seed(5)
        torch.testing.assert_close(model(x[2:], rng=SampleRng(1, ids=[9])), together[2:])
        assert not torch.allclose(model(x, rng=SampleRng(2, ids=[7, 8, 9])), together)


def test_hashed_attention_knows_where_a_token_is():
    """It has no distances of its own: without places, the same token would give the same numbers everywhere."""
    model = stack("lsh")
    same = torch.randn(1, 1, 16, dtype=torch.float64).expand(1, 10, 16)
    with torch.no_grad():
        made = model(same)[0]
    assert (made[1:] - made[:-1]).abs().max(1).values.min() > 1e-3


@pytest.mark.parametrize("bad, said", [
    (dict(attention="flash"), "flash"), (dict(width=18), "width=18"), (dict(layers=0), "layers"),
    (dict(dropout=1.0), "dropout"),
])
def test_impossible_settings_are_refused_in_one_line(bad, said):
    with pytest.raises(UserError, match=said) as caught:
        dataclasses.replace(SMALL, **bad)
    assert "\n" not in str(caught.value)


def test_a_context_where_none_is_used_and_none_where_one_is_needed_are_refused():
    x = torch.randn(1, 3, 16, dtype=torch.float64)
    with pytest.raises(ValueError, match="no context can be used"):
        stack("rotary")(x, context=x)
    with pytest.raises(ValueError, match="a context is needed"):
        stack("rotary", context_width=3)(x)


def test_the_config_survives_json():
    assert from_dict(TransformerConfig, json.loads(json.dumps(to_dict(SMALL)))) == SMALL

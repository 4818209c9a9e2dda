"""The Transformers as composers; what holds for all learned ones is in tests/test_composer_contracts.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from audiogen.composers.note_model import collate
from audiogen.composers.transformer import TransformerComposer, TransformerComposerConfig
from audiogen.composers.tunes import NoteDataset, rule_tunes
from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng


def small(preset, **fields):
    config = TransformerComposer.presets[preset]
    network = dataclasses.replace(config.network, width=32, layers=2, heads=2, **fields)
    torch.manual_seed(0)
    return TransformerComposer(dataclasses.replace(config, network=network))


@pytest.fixture(scope="module")
def batch():
    data = NoteDataset(rule_tunes(3, seed=1), small("transformer").vocabulary, length=96)
    return collate([data[k] for k in range(3)])


@pytest.mark.parametrize("preset", TransformerComposer.presets)
def test_it_learns_a_batch(batch, preset):
    model = small(preset, dropout=0.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        loss = model.loss(batch, SampleRng(0, step=step, ids=batch.ids))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("preset", TransformerComposer.presets)
def test_a_step_of_training_is_keyed_by_sample_and_step(batch, preset):
    model = small(preset, dropout=0.3).train()
    def loss(rows, ids, step):
        part = batch._replace(tokens=batch.tokens[rows], lengths=batch.lengths[rows], ids=batch.ids[rows])
        return float(model.loss(part, SampleRng(0, step=step, ids=ids))["loss"].detach())

    torch.manual_seed(1)
    first = loss([1], [1], 4)
    torch.manual_seed(2)
    assert loss([1], [1], 4) == first != loss([1], [1], 5)


def test_in_training_segments_see_what_they_see_in_generation(batch):
    """Memories of inputs (training) and of keys and values (else) give one loss, that of the reach."""
    short, whole = (small("transformer_xl", dropout=0.0, memory=memory).train() for memory in (16, 200))
    losses = [model.loss(batch, SampleRng(0, ids=batch.ids))["loss"].detach() for model in (short, whole)]
    assert abs(float(losses[0] - losses[1])) > 1e-6  # a reach of 16 in each layer is less than all
    near = small("transformer_xl", dropout=0.0, memory=16).eval()
    torch.testing.assert_close(near.loss(batch, SampleRng(0, ids=batch.ids))["loss"].detach(), losses[0])


def test_memory_of_generation_is_bounded_where_segments_are_remembered():
    model = small("transformer_xl", memory=12).eval()
    state = model.begin(1)
    with torch.inference_mode():
        for token in range(60):
            _, state = model.step(torch.tensor([[token % 40 + 5]]), state)
    assert all(layer.keys.shape[2] == 12 for layer in state.layers)


@pytest.mark.parametrize("fields, said", [
    (dict(task="continuation"), "needs a sequence-to-sequence"),
    (dict(network=dataclasses.replace(TransformerComposerConfig().network, context_width=8)), "context_width=8"),
])
def test_what_it_cannot_be_is_one_clear_error(fields, said):
    with pytest.raises(UserError, match=said):
        TransformerComposerConfig(**fields)

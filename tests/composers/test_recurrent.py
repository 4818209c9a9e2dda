"""LSTM and GRU over note events learn, and say token by token what they say of the whole."""

from __future__ import annotations

import pytest
import torch

from audiogen.composers.note_model import collate
from audiogen.composers.recurrent import RecurrentComposer, RecurrentConfig
from audiogen.composers.tunes import NoteDataset, rule_tunes
from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_it_learns_a_piece_by_heart(cell):
    """Forty steps on one short sample take the loss from log(vocabulary) = 6.4 to below a fifth of it."""
    torch.manual_seed(0)
    model = RecurrentComposer(RecurrentConfig(cell=cell, embedding=32, width=48, layers=1, dropout=0.0))
    data = NoteDataset(rule_tunes(1, seed=1), model.vocabulary, length=40)
    batch = collate([data[0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    losses = []
    for step in range(40):
        loss = model.loss(batch, SampleRng(0, step=step, ids=batch.ids))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().item())
    assert 5.5 < losses[0] < 7.5 and losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("cell, gates", [("lstm", 4), ("gru", 3)])
def test_its_size_is_that_of_the_formulas_and_the_output_shares_the_embedding(cell, gates):
    config = RecurrentConfig(cell=cell, embedding=10, width=20, layers=2)
    model = RecurrentComposer(config)
    words = model.vocabulary.size
    layers = gates * (20 * 10 + 20 * 20 + 2 * 20) + gates * (20 * 20 + 20 * 20 + 2 * 20)
    assert sum(p.numel() for p in model.parameters()) == words * 10 + layers + (20 * 10 + 10) + words


def test_what_has_been_heard_changes_what_comes():
    """The state holds the past: the same token after another beginning is followed by something else."""
    torch.manual_seed(0)
    model = RecurrentComposer(RecurrentConfig(embedding=8, width=8, layers=1)).eval()
    tokens = torch.tensor([[7, 8, 9, 10], [7, 200, 9, 10]])
    logits = model(tokens)
    assert torch.equal(logits[0, 0], logits[1, 0]) and not torch.allclose(logits[0, 3], logits[1, 3], atol=1e-5)


@pytest.mark.parametrize("values, said", [
    (dict(cell="rnn"), "cell 'rnn'"), (dict(task="continuation"), "sequence-to-sequence"), (dict(width=0), "sizes"),
    (dict(dropout=1.0), "dropout"),
])
def test_an_impossible_config_is_one_clear_error(values, said):
    with pytest.raises(UserError, match=said):
        RecurrentConfig(**values)

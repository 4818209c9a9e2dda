"""Scheduled sampling against a loop of its own; attention that finds what has to be found."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from matplotlib.image import imread

from audiogen.composers.events import PITCH, PREFIX
from audiogen.composers.note_model import NoteTask
from audiogen.composers.seq2seq import Seq2SeqComposer, Seq2SeqConfig
from audiogen.composers.tunes import rule_tunes
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt, TokenBatch
from audiogen.core.rng import SampleRng

SMALL = Seq2SeqConfig(embedding=16, width=24, attention_width=12, dropout=0.0, own_tokens_from=10, own_tokens_full=20)


def small(**fields):
    torch.manual_seed(0)
    model = Seq2SeqComposer(dataclasses.replace(SMALL, **fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def batch():
    """Lines of pitches, so that an own token is mostly of the true one's kind."""
    source = torch.Generator().manual_seed(0)
    lines = PITCH.start + torch.randint(40, 90, (3, 24), generator=source)
    return TokenBatch(lines, torch.tensor([24, 20, 24]), torch.arange(3), lines[:, 5:18], torch.tensor([13, 9, 2]))


def singing(**fields):
    """A model that mostly draws pitches."""
    model = small(**fields)
    with torch.no_grad():
        model.bias[PITCH.start : PITCH.stop] += 3.0
    return model


def test_the_share_of_own_tokens_rises_in_a_line():
    model = small(own_tokens=0.4)
    assert [round(model.own_share(step), 6) for step in (0, 9, 10, 15, 20, 9999)] == [0, 0, 0, 0.2, 0.4, 0.4]


@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_own_tokens_are_drawn_one_after_another_each_given_those_before(batch, attention):
    """Oracle: every prefix decoded anew by `forward`, the token drawn from its last logits by hand."""
    model = singing(own_tokens=0.6, attention=attention)
    tokens = batch.tokens[:, :-1]
    rng = SampleRng(3, step=99, ids=batch.ids)
    coins = rng.fork("coins").rand(tokens.shape[1]) < 0.6
    draws = rng.fork("own tokens").rand(tokens.shape[1])
    wanted, own_tokens = tokens.clone(), 0
    with torch.no_grad():
        for place in range(PREFIX, tokens.shape[1]):
            logits = model(wanted[:, :place], batch.source, batch.source_lengths)[:, -1]
            chances = logits.double().softmax(-1).cumsum(-1)
            for row in range(len(tokens)):
                own = int((chances[row] <= draws[row, place].double() * chances[row, -1]).sum())
                if coins[row, place] and model.kinds[own] == model.kinds[tokens[row, place]]:
                    wanted[row, place] = own
                    own_tokens += int(own != tokens[row, place])
    seen = model.scheduled(tokens, batch, rng)
    assert torch.equal(seen, wanted) and own_tokens > 10
    assert torch.equal(seen[:, :PREFIX], tokens[:, :PREFIX])


def test_it_is_keyed_by_the_sample_and_off_before_its_time_and_in_evaluation(batch):
    model = singing(own_tokens=0.9).train()
    tokens = batch.tokens[:, :-1]
    together = model.scheduled(tokens, batch, SampleRng(3, step=99, ids=batch.ids))
    alone = TokenBatch(batch.tokens[1:2], batch.lengths[1:2], batch.ids[1:2], batch.source[1:2],
                       batch.source_lengths[1:2])
    torch.manual_seed(7)
    assert torch.equal(model.scheduled(tokens[1:2], alone, SampleRng(3, step=99, ids=[1])), together[1:2])
    assert torch.equal(model.scheduled(tokens, batch, SampleRng(3, step=10, ids=batch.ids)), tokens)
    assert float(model.loss(batch, SampleRng(3, step=99, ids=batch.ids))["own"]) > 0.1
    assert float(model.eval().loss(batch, SampleRng(3, step=99, ids=batch.ids))["own"]) == 0


@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_attention_finds_the_places_of_a_copy(attention):
    """Source and target are the same pitches: to write one, the decoder must look where it stands."""
    torch.manual_seed(0)
    model = Seq2SeqComposer(dataclasses.replace(SMALL, embedding=24, width=32, attention=attention, own_tokens=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    source = torch.Generator().manual_seed(0)
    for step in range(200):
        line = PITCH.start + torch.randint(40, 52, (16, 6), generator=source)
        lengths = torch.full((16,), 6)
        batch = TokenBatch(line, lengths, torch.arange(16), line[:, 1:].contiguous(), lengths - 1)
        loss = model.loss(batch, SampleRng(0, step=step, ids=batch.ids))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1.0  # chance: log 12 = 2.5
    weights = torch.stack([model.eval().alignment(row.tolist(), row[1:].tolist()) for row in line])
    # Where the decoder looks moves on with what it writes: the mean place rises by most of the line.
    place = (weights * torch.arange(5.0)).sum(-1).mean(0)
    assert weights.shape == (16, 5, 5) and float(place[-1] - place[0]) > 1.5
    assert bool((place[1:] > place[:-1]).all())


def test_composing_and_demos_write_the_picture(tmp_path):
    model = small().eval()
    prompt = Prompt(text="a waltz for piano", seconds=3)
    score = model.compose_and_show(prompt, tmp_path / "map.png", seconds=3, rng=5)
    assert score == model.compose(prompt, seconds=3, rng=5)
    assert imread(tmp_path / "map.png").ndim == 3
    NoteTask(model, demos=[("waltz", prompt)]).demo(model, tmp_path / "demos", 0)
    assert {path.name for path in (tmp_path / "demos").iterdir()} == {"waltz.mid", "waltz.png"}


def test_a_picture_of_nothing_is_one_clear_error(tmp_path):
    from audiogen.composers.grid import score_of

    given = score_of(rule_tunes(1, seed=1)[0].sheet.cut(0, 2), bpm=100.0)
    with pytest.raises(UserError, match="nothing was written"):
        small(task="continuation").compose_and_show(Prompt(score=given), tmp_path / "map.png", seconds=1)


@pytest.mark.parametrize("bad, said", [
    (dict(task="all"), "nothing to look at"), (dict(attention="local"), "additive or dot"),
    (dict(width=25), "width=25"),
    (dict(dropout=1.0), "dropout=1"), (dict(own_tokens_from=30), "own_tokens_from=30"),
])
def test_impossible_settings_are_refused(bad, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(SMALL, **bad)


def test_a_source_is_needed():
    with pytest.raises(ValueError, match="a source of 2"):
        small().begin(2)

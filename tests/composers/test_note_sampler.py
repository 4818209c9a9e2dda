"""Tokens are drawn as often as temperature, top-k and top-p say, and from the seed alone."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.composers.event_grammar import Grammar, Limits
from audiogen.composers.events import END, KEY, METRE, TEMPO, sheet_from
from audiogen.composers.note_sampler import NoteSampling, probabilities, sample_tokens
from audiogen.composers.recurrent import RecurrentComposer, RecurrentConfig
from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng

LOGITS = torch.tensor([[math.log(w) for w in (0.4, 0.3, 0.2, 0.1)]])
ALL = torch.ones(1, 4, dtype=torch.bool)


@pytest.mark.parametrize("sampling, chances", [
    (NoteSampling(1.0, 0, 1.0), (0.4, 0.3, 0.2, 0.1)),
    (NoteSampling(0.5, 0, 1.0), (16 / 30, 9 / 30, 4 / 30, 1 / 30)),  # squares
    (NoteSampling(0.0, 0, 1.0), (1, 0, 0, 0)),
    (NoteSampling(1.0, 2, 1.0), (4 / 7, 3 / 7, 0, 0)),
    (NoteSampling(1.0, 0, 0.75), (4 / 9, 3 / 9, 2 / 9, 0)),  # 0.7 is not yet 0.75
    (NoteSampling(1.0, 0, 0.01), (1, 0, 0, 0)),  # never nothing
    (NoteSampling(1.0, 3, 0.6), (4 / 7, 3 / 7, 0, 0)),  # top-p of what top-k left: 4/9, 3/9
])
def test_probabilities_are_those_of_the_definitions(sampling, chances):
    torch.testing.assert_close(probabilities(LOGITS, ALL, sampling)[0], torch.tensor(chances, dtype=torch.float64))


def test_the_mask_comes_first():
    mask = torch.tensor([[False, True, True, True]])
    made = probabilities(LOGITS, mask, NoteSampling(1.0, 2, 1.0))[0]
    torch.testing.assert_close(made, torch.tensor([0, 0.6, 0.4, 0], dtype=torch.float64))
    assert probabilities(LOGITS, mask, NoteSampling(0.0))[0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("values, said", [
    (dict(temperature=-1), "temperature=-1"), (dict(top_k=-1), "top_k=-1"), (dict(top_p=0), "top_p=0"),
    (dict(top_p=1.5), "top_p=1.5"), (dict(temperature=float("nan")), "temperature=nan"),
])
def test_an_impossible_choice_is_one_clear_error(values, said):
    with pytest.raises(UserError, match=said):
        NoteSampling(**values)


@pytest.fixture(scope="module")
def model() -> RecurrentComposer:
    torch.manual_seed(0)
    return RecurrentComposer(RecurrentConfig(embedding=16, width=16, layers=1)).eval()


def beginnings(model) -> list[list[int]]:
    style = model.vocabulary.style_token("")
    return [[style], [style, KEY.token(3), METRE.token(9), TEMPO.token(20)], [style, KEY.token(14)]]


def test_a_sequence_does_not_depend_on_its_batch_and_keeps_what_was_begun(model):
    limits = Limits(bars=2, notes_a_bar=6)
    begun = beginnings(model)
    together = sample_tokens(
        model, [Grammar(model.vocabulary, limits) for _ in begun], begun, rng=SampleRng(1, ids=[4, 5, 6]),
        sampling=NoteSampling(),
    )
    for row, tokens in enumerate(begun):
        alone = sample_tokens(model, [Grammar(model.vocabulary, limits)], [tokens], rng=SampleRng(1, ids=[4 + row]),
                              sampling=NoteSampling())[0]
        assert together[row] == alone and alone[: len(tokens)] == tokens and alone[-1] == END
        assert sheet_from(alone, model.vocabulary).bars == 2


def test_tokens_come_as_often_as_the_model_says(model):
    """The key of 3 000 sequences against the model's own distribution: the largest of 25 deviations stays below 4."""
    style = model.vocabulary.style_token("")
    with torch.inference_mode():
        logits, _ = model.step(torch.tensor([[style]]), model.begin(1))
    wanted = logits[0, 0, KEY.start : KEY.stop].double().softmax(-1)
    count = 3000
    counts = torch.zeros(KEY.size, dtype=torch.float64)
    chances = probabilities(logits[:, 0], Grammar(model.vocabulary).follow([style]).allowed()[None],
                            NoteSampling(1.0, 0, 1.0))[0, KEY.start : KEY.stop]
    torch.testing.assert_close(chances, wanted, rtol=1e-6, atol=0)
    for first in range(0, count, 500):
        short = [_OneToken(model.vocabulary) for _ in range(500)]
        drawn = sample_tokens(model, short, [[style]] * 500, rng=SampleRng(0, ids=range(first, first + 500)),
                              sampling=NoteSampling(1.0, 0, 1.0))
        for tokens in drawn:
            counts[KEY.index(tokens[1])] += 1
    deviation = (counts - count * wanted) / (count * wanted * (1 - wanted)).sqrt()
    assert deviation.abs().max() < 4


class _OneToken(Grammar):
    """Ends after the key."""

    def _take(self, token: int) -> None:
        super()._take(token)
        self.done = KEY.has(token)


def test_each_beginning_has_a_grammar_and_a_source(model):
    with pytest.raises(ValueError, match="as many of each"):
        sample_tokens(model, [Grammar(model.vocabulary)], [[]], rng=SampleRng(0), sampling=NoteSampling())

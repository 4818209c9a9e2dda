"""A composer is found by its name or by the folder of its checkpoint."""

from __future__ import annotations

import pytest
import torch

from audiogen.composers import known_composers, load_composer
from audiogen.composers.events import Vocabulary, tokens_of
from audiogen.composers.grid import KEYS, sheet_of
from audiogen.composers.recurrent import RecurrentComposer, RecurrentConfig
from audiogen.composers.rules import RuleComposer
from audiogen.core.checkpoint import save_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.rng import SampleRng


def test_rules_have_a_name_and_a_checkpoint_its_folder(tmp_path):
    assert isinstance(load_composer(), RuleComposer) and known_composers()[0] == "rules"
    torch.manual_seed(0)
    model = RecurrentComposer(RecurrentConfig(embedding=8, width=8, layers=1, styles=("waltz",)))
    save_checkpoint(tmp_path / "m", model, room="composer")
    found = load_composer(tmp_path / "m")
    assert not found.training and found.vocabulary == Vocabulary(("waltz",))
    prompt = Prompt(text="a waltz", seconds=2)
    again = load_composer(str(tmp_path / "m"))
    assert found.compose(prompt, seconds=2, rng=1) == again.compose(prompt, seconds=2, rng=1)


def test_weights_of_half_precision_are_read_into_a_model_of_single_precision(tmp_path):
    torch.manual_seed(0)
    model = RecurrentComposer(RecurrentConfig(embedding=8, width=8, layers=1))
    half = {key: value.half() for key, value in model.state_dict().items()}
    save_checkpoint(tmp_path / "m", model, room="composer", weights=half)
    for key, value in load_composer(tmp_path / "m").state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, half[key].float())


def test_another_name_is_one_clear_error_that_lists_the_known(tmp_path):
    with pytest.raises(UserError, match="no composer is called 'ruels'.*did you mean 'rules'"):
        load_composer("ruels")
    with pytest.raises(UserError, match="is no checkpoint"):
        load_composer(tmp_path)


@pytest.mark.parametrize("name", [name for name in known_composers() if name != "rules"])
def test_what_is_shipped_writes_in_the_key_that_is_asked_for_better_than_chance(name):
    """Of nine pieces in nine keys, the key profile finds at least three again: by chance one of 24 would be."""
    from audiogen.composers.analysis import estimate_key

    composer, hits = load_composer(name), 0
    for number, key in enumerate(KEYS[::3] + KEYS[1:2]):
        score = composer.compose(Prompt(text="piano", key=key, metre="4/4", bpm=120), seconds=8,
                                 rng=SampleRng(0, ids=[number]))
        sheet = sheet_of(score)
        assert tokens_of(sheet, composer.vocabulary) and sheet.bars == 4
        hits += estimate_key(sheet) == key
    assert hits >= 3

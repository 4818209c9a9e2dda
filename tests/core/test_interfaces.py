from __future__ import annotations

import dataclasses

import pytest
import torch
from accelerate.utils import find_batch_size, send_to_device
from torch import nn

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition, Prompt, Task
from audiogen.core.mel_format import MelFormat


def test_accelerate_reads_the_batch_size_off_a_batch_and_moves_it_whole():
    batch = Batch(
        torch.zeros(3, 1, 8), None, torch.tensor([1, 2, 3]), Condition(vector=torch.ones(3, 4)), torch.arange(3),
        ("a", "b", "c"),
    )
    assert find_batch_size(batch) == 3
    moved = send_to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch) and isinstance(moved.condition, Condition)
    assert moved.audio.device.type == moved.condition.vector.device.type == moved.ids.device.type == "meta"
    assert moved.mel is None and moved.condition.aligned is None and moved.prompts == ("a", "b", "c")


def test_a_prompt_is_a_value_and_cannot_be_changed_by_whoever_gets_it():
    prompt = Prompt(text="rain", styles=(("rain", 1.0),))
    assert prompt == Prompt(text="rain", styles=(("rain", 1.0),)) and hash(prompt) == hash(dataclasses.replace(prompt))
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.text = "snow"


def test_a_task_is_told_by_what_it_has():
    class Half:
        mel, model, room = MelFormat(), nn.Identity(), "vocoder"

    class Whole(Half):
        def players(self):
            return []

        def demo(self, model, folder, step):
            pass

    assert isinstance(Whole(), Task) and not isinstance(Half(), Task)


def test_callers_may_catch_user_errors_as_value_errors():
    with pytest.raises(ValueError, match="choose another"):
        raise UserError("x=3: choose another")

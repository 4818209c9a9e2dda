"""The sample loop: the same samples however calls are cut, the inverse of what the network hears, states that fit."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.nn.wavenet import WaveNetStack, WaveNetStackConfig
from audiogen.nn.wavenet_loop import SampleLoop


def made(**more) -> WaveNetStack:
    torch.manual_seed(0)
    stack = WaveNetStack(WaveNetStackConfig(
        output="gaussian", layers=4, cycle=4, channels=8, gate_channels=8, skip_channels=8, **more
    ))
    with torch.no_grad():
        stack.last_conv_layers[3].bias[1] = -3.0
    return stack


def loop(stack: WaveNetStack, *ids: int) -> SampleLoop:
    return SampleLoop(stack, rng=SampleRng(4, ids=ids))


def test_the_same_samples_however_the_calls_are_cut_and_after_a_pause():
    stack = made(preemphasis=0.8, gain=0.5)
    whole = loop(stack, 1, 2).draw(0, 90)
    assert whole.shape == (2, 1, 90) and whole.std() > 0.01 and not torch.equal(whole[0], whole[1])
    first = loop(stack, 1, 2)
    pieces = [first.draw(0, 7)]
    saved = first.save()
    pieces.append(first.draw(7, 90))
    assert torch.equal(torch.cat(pieces, 2), whole)
    second = loop(stack, 1, 2)
    second.restore(saved)
    assert torch.equal(second.draw(7, 90), pieces[1])
    with pytest.raises(UserError, match="another model's"):
        loop(stack, 1).restore(saved)


def test_what_the_network_hears_of_a_clip_is_what_was_drawn():
    """`heard` applies gain and pre-emphasis, the loop takes them off: hearing a clip gives back the plain samples."""
    audio = loop(made(preemphasis=0.8, gain=0.5), 1).draw(0, 60)
    plain = loop(made(), 1).draw(0, 60)
    assert audio.abs().max() < 1  # nothing was cut off
    torch.testing.assert_close(made(preemphasis=0.8, gain=0.5).heard(audio), plain[:, 0], atol=1e-5, rtol=0)


def test_a_temperature_below_zero_is_refused():
    with pytest.raises(UserError, match="temperature=-0.5"):
        SampleLoop(made(), rng=SampleRng(0), temperature=-0.5)

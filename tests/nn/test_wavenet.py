"""The stack of a WaveNet by itself: causal, conditioned on what it was made for, refused with what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.nn.wavenet import WaveNetStack, WaveNetStackConfig

SMALL = WaveNetStackConfig(
    output="softmax", classes=32, layers=4, cycle=4, channels=8, gate_channels=8, skip_channels=8
)
HEARD = 0.3 * torch.randn(1, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("output", ["softmax", "logistics", "gaussian"])
def test_a_samples_distribution_depends_on_the_samples_before_it_alone(output):
    torch.manual_seed(0)
    stack = WaveNetStack(replace(SMALL, output=output)).double()
    changed = HEARD.double().clone()
    changed[0, 40] += 0.4
    with torch.no_grad():
        differs = (stack.teacher_forced(changed) - stack.teacher_forced(HEARD.double())).abs().amax((0, 1)) > 1e-12
    assert not differs[:41].any() and differs[41]
    assert not differs[41 + SMALL.receptive_field :].any()


def test_frames_are_held_and_styles_last():
    """A frame of 16 samples conditions these, and what hears them; a style conditions all."""
    torch.manual_seed(0)
    stack = WaveNetStack(replace(SMALL, layers=1), local_dim=3, style_dim=2).double()  # each sample hears two others
    frames, style = torch.randn(1, 3, 4).double(), torch.randn(1, 2).double()
    other = frames.clone()
    other[:, :, 2] += 1
    with torch.no_grad():
        first = stack.teacher_forced(HEARD.double(), frames, style)
        by_frame = (stack.teacher_forced(HEARD.double(), other, style) - first).abs().amax((0, 1)) > 1e-12
        by_style = (stack.teacher_forced(HEARD.double(), frames, -style) - first).abs().amax((0, 1)) > 1e-12
    assert by_frame.nonzero().flatten().min() >= 32 and by_frame.nonzero().flatten().max() < 48
    assert by_frame[32:48].sum() > 8 and by_style.sum() > 32


def test_precisions_are_packed_as_asked():
    stack = WaveNetStack(SMALL)
    assert [stack.pack(p).precision for p in (None, "int8")] == ["float32", "int8"]
    assert stack.pack("int8").blob.numel() < stack.pack("bfloat16").blob.numel() < stack.pack().blob.numel()
    assert stack.double().pack().precision == "float64"


@pytest.mark.parametrize("change, said", [
    ({"output": "sigmoid"}, "output='sigmoid' must be"), ({"kernel_size": 4}, "kernel_size=4"),
    ({"skip_scale": "sum"}, "skip_scale='sum'"), ({"silence": 32}, "silence=32"), ({"layers": 0}, "layers=0"),
    ({"preemphasis": 1.0}, "preemphasis=1.0"),
])
def test_a_config_that_cannot_be_says_so(change, said):
    with pytest.raises(UserError, match=said):
        replace(SMALL, **change)

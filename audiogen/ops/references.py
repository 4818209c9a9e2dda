"""The references once more, as ops that no kernel takes the place of: `audiogen::<op>_reference`.

CUDA kernels take float32, bfloat16 and float16 and channels in multiples of 8. For anything else their C++ calls the op
of the same schema here, through the dispatcher, so that every case works everywhere.
"""

from __future__ import annotations

import torch

from audiogen.ops.anti_aliased_snake import backward_reference, operator_reference
from audiogen.ops.dilated_conv1d import conv_backward_reference, conv_reference, step_reference
from audiogen.ops.gated_dilated_layer import layer_backward_reference, layer_in_place_reference, layer_reference

_registered: list[object] = []


def register() -> None:
    """Define the ops, once; wavenet_generate.py defines its own."""
    if _registered:
        return
    for name, body, mutated in (
        ("gated_dilated_layer", layer_reference, ()),
        ("gated_dilated_layer_in_place", layer_in_place_reference, ("skip",)),
        ("gated_dilated_layer_backward", layer_backward_reference, ()),
        ("dilated_conv1d", conv_reference, ()),
        ("dilated_conv1d_backward", conv_backward_reference, ()),
        ("dilated_conv1d_step", step_reference, ("state",)),
        ("anti_aliased_snake", operator_reference, ()),
        ("anti_aliased_snake_backward", backward_reference, ()),
    ):
        _registered.append(torch.library.custom_op(f"audiogen::{name}_reference", body, mutates_args=mutated))

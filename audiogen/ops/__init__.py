"""Operations with kernels of their own. Each file is one op: schema, reference in plain PyTorch, gradient.

Native kernels (csrc/, docs/kernels.md) are loaded here, where they have been built; AUDIOGEN_KERNELS=off leaves them.
"""

import sys

# `python -m audiogen.ops.build` imports this package first, and must run where nothing is built yet, or built badly.
if "audiogen.ops.build" not in sys.orig_argv:
    from audiogen.ops.dilated_conv1d import dilated_conv1d, dilated_conv1d_step, step_state
    from audiogen.ops.gated_dilated_layer import channels_last, gated_dilated_layer
    from audiogen.ops.library import load
    from audiogen.ops.references import register
    from audiogen.ops.upsampling import Upsampling

    __all__ = [
        "Upsampling", "channels_last", "dilated_conv1d", "dilated_conv1d_step", "gated_dilated_layer", "step_state",
    ]

    register()
    load()

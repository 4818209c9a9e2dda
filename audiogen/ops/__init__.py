"""Operations with kernels of their own. Each file is one op: schema, reference in plain PyTorch, gradient.

Native kernels (csrc/, docs/kernels.md) are loaded here, where they have been built; AUDIOGEN_KERNELS=off leaves them.
"""

from audiogen.ops.gated_dilated_layer import channels_last, gated_dilated_layer
from audiogen.ops.library import load
from audiogen.ops.upsampling import Upsampling

__all__ = ["Upsampling", "channels_last", "gated_dilated_layer"]

load()

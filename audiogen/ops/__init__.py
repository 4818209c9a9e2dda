"""Operations with kernels of their own. Each file is one op: schema, reference in plain PyTorch, gradient.

Kernels are in csrc/; see docs/kernels.md.
"""

from audiogen.ops.gated_dilated_layer import channels_last, gated_dilated_layer
from audiogen.ops.upsampling import Upsampling

__all__ = ["Upsampling", "channels_last", "gated_dilated_layer"]

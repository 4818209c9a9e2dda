"""One layer of WaveNet (van den Oord et al. 2016) as one operation.

    z = dilated convolution of (x + shift) + bias + conditioning, brought from frame rate to steps
    h = tanh(z_a) * sigmoid(z_b)                                   z_a, z_b: the two halves of z's rows
    x_out    = (x + out_weight h + out_bias) * scale
    skip_out = skip + skip_weight h + skip_bias

Stock PyTorch does this in some ten passes over memory: 8 KB moved per step at 64 channels, where reading x and skip
and writing both takes 1 KB. This file holds the schema, the reference in plain PyTorch and the gradient; csrc/ holds
kernels that the dispatcher prefers where they are loaded. The backward keeps x alone of what has the size of time: z
and h are computed again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.ops.upsampling import Upsampling, check_upsampling, upsample, upsample_backward


def gated_dilated_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    skip_weight: Tensor,
    skip_bias: Tensor | None,
    condition: Tensor | None = None,
    *,
    upsampling: Upsampling | None = None,
    dilation: int = 1,
    causal: bool = False,
    shift: Tensor | None = None,
    skip: Tensor | None = None,
    scale: float = 0.5**0.5,
    overwrite_skip: bool = False,
) -> tuple[Tensor, Tensor]:
    """-> x_out (batch, channels, time), skip_out (batch, skip_channels, time), as in the module's docstring.

    x             (batch, channels, time). Both results take its memory layout: channels-last strides (see
                  `channels_last`) are the fast one.
    weight, bias  (2 * gate, channels, kernel), kernel 2 or 3; (2 * gate,) or None. The first half of the rows goes
                  through tanh, the second through the sigmoid.
    out_*         (channels, gate), (channels,) or None. Without out_weight this is a last layer: x is returned.
    skip_*        (skip_channels, gate), (skip_channels,) or None.
    condition     (batch, 2 * gate, frames), after its own 1x1.
    upsampling    frames to steps; None: each frame is held for time / frames steps.
    causal        step t reads x[t - dilation * (kernel - 1) .. t]; else kernel 3 and t - dilation, t, t + dilation.
    shift         (batch, channels), added to what the convolution reads, not to its zero padding (DiffWave's step).
    skip          the sum so far; None: zeros.
    overwrite_skip  the caller gives `skip` away: where no gradient is recorded, the sum is made in its memory.

    All in x's type (under autocast, in autocast's); ValueError where shapes do not fit.
    """
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    tensors = (weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, shift, skip)
    weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, shift, skip = (
        None if tensor is None else tensor.to(x.dtype) for tensor in tensors
    )
    _check(x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, upsampling, dilation, causal,
           shift, skip)
    first, band = upsampling or (None, None)
    inputs = (x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, first, band, shift)
    recorded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*inputs, skip))
    if torch.compiler.is_exporting():  # the programs that read the graph do not know our operations
        x_out, skip_out = layer_reference(*inputs, skip, dilation, causal, scale)
    elif skip is not None and overwrite_skip and not recorded:
        x_out = layer_in_place(*inputs, skip, dilation, causal, scale)
        skip_out = skip
    else:
        x_out, skip_out = layer(*inputs, skip, dilation, causal, scale)
    return (x if out_weight is None else x_out), skip_out


def channels_last(x: Tensor) -> Tensor:
    """x (batch, channels, time) with the channels of a step side by side in memory; a copy only where they are not."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, out_weight: Tensor | None, out_bias: Tensor | None,
    skip_weight: Tensor, skip_bias: Tensor | None, condition: Tensor | None, upsampling: Upsampling | None,
    dilation: int, causal: bool, shift: Tensor | None, skip: Tensor | None,
) -> None:
    if x.dim() != 3 or weight.dim() != 3 or x.shape[2] < 1:
        raise ValueError(f"x {tuple(x.shape)}, weight {tuple(weight.shape)}: (batch, channels, time >= 1) and "
                         "(2 * gate, channels, kernel) are needed")
    batch, channels, time = x.shape
    rows, _, kernel = weight.shape
    if rows % 2 or kernel not in ((2, 3) if causal else (3,)):
        raise ValueError(f"weight {tuple(weight.shape)}: an even number of rows, kernel 3 (causal: 2 or 3) are needed")
    if dilation < 1:
        raise ValueError(f"dilation={dilation} must be positive")
    if skip_weight.dim() != 2:
        raise ValueError(f"skip_weight {tuple(skip_weight.shape)}: (skip_channels, gate) is needed")
    if out_weight is None and out_bias is not None:
        raise ValueError("out_bias without out_weight")
    gate, skip_channels = rows // 2, skip_weight.shape[0]
    for name, tensor, shape in (
        ("weight", weight, (rows, channels, kernel)), ("bias", bias, (rows,)),
        ("out_weight", out_weight, (channels, gate)), ("out_bias", out_bias, (channels,)),
        ("skip_weight", skip_weight, (skip_channels, gate)), ("skip_bias", skip_bias, (skip_channels,)),
        ("condition", condition, (batch, rows, condition.shape[-1] if condition is not None else 0)),
        ("shift", shift, (batch, channels)), ("skip", skip, (batch, skip_channels, time)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} {tuple(tensor.shape)}: {shape} is needed for x {tuple(x.shape)}")
    if condition is not None:
        check_upsampling(condition, upsampling, time)
    elif upsampling is not None:
        raise ValueError("an upsampling without a condition to bring to steps")


def _padding(kernel: int, dilation: int, causal: bool) -> tuple[int, int]:
    """Zeros before and after x."""
    return (dilation * (kernel - 1), 0) if causal else (dilation, dilation)


def _as(tensor: Tensor, x: Tensor) -> Tensor:
    """`tensor` in the memory layout of x: channels-last or contiguous, and never x's own memory."""
    return channels_last(tensor) if x.stride(1) == 1 and x.shape[1] > 1 else tensor.contiguous()


def _empty(x: Tensor, channels: int) -> Tensor:
    batch, _, time = x.shape
    if x.stride(1) == 1 and x.shape[1] > 1:
        return x.new_empty(batch, time, channels).transpose(1, 2)
    return x.new_empty(batch, channels, time)


def _halves(
    x: Tensor, weight: Tensor, bias: Tensor | None, condition: Tensor | None, first: Tensor | None, band: Tensor | None,
    shift: Tensor | None, dilation: int, causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> what the convolution reads (batch, channels, padding + time), tanh and sigmoid (batch, gate, time)."""
    read = F.pad(x if shift is None else x + shift[:, :, None], _padding(weight.shape[2], dilation, causal))
    z = F.conv1d(read, weight, bias, dilation=dilation)
    if condition is not None:
        z = z + upsample(condition, first, band, x.shape[2])
    a, b = z.chunk(2, dim=1)
    return read, torch.tanh(a), torch.sigmoid(b)


def _outputs(
    x: Tensor, h: Tensor, out_weight: Tensor | None, out_bias: Tensor | None, skip_weight: Tensor,
    skip_bias: Tensor | None, scale: float,
) -> tuple[Tensor, Tensor]:
    """h (batch, gate, time) -> x_out, what is added to skip."""
    added = F.conv1d(h, skip_weight[:, :, None], skip_bias)
    if out_weight is None:
        return x.new_empty(0), added
    return _as((x + F.conv1d(h, out_weight[:, :, None], out_bias)) * scale, x), added


def layer_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, out_weight: Tensor | None, out_bias: Tensor | None,
    skip_weight: Tensor, skip_bias: Tensor | None, condition: Tensor | None, first: Tensor | None, band: Tensor | None,
    shift: Tensor | None, skip: Tensor | None, dilation: int, causal: bool, scale: float,
) -> tuple[Tensor, Tensor]:
    """The layer; x_out is an empty tensor where out_weight is None, since an op may not return what it was given."""
    _, tanh, sigmoid = _halves(x, weight, bias, condition, first, band, shift, dilation, causal)
    x_out, added = _outputs(x, tanh * sigmoid, out_weight, out_bias, skip_weight, skip_bias, scale)
    return x_out, _as(added if skip is None else skip + added, x)


layer = torch.library.custom_op("audiogen::gated_dilated_layer", layer_reference, mutates_args=())


@layer.register_fake
def _(x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, first, band, shift, skip, dilation,
      causal, scale):
    return x.new_empty(0) if out_weight is None else _empty(x, x.shape[1]), _empty(x, skip_weight.shape[0])


def layer_in_place_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, out_weight: Tensor | None, out_bias: Tensor | None,
    skip_weight: Tensor, skip_bias: Tensor | None, condition: Tensor | None, first: Tensor | None, band: Tensor | None,
    shift: Tensor | None, skip: Tensor, dilation: int, causal: bool, scale: float,
) -> Tensor:
    """As `layer`, but the new sum is written into `skip`. For rendering: it has no gradient."""
    _, tanh, sigmoid = _halves(x, weight, bias, condition, first, band, shift, dilation, causal)
    x_out, added = _outputs(x, tanh * sigmoid, out_weight, out_bias, skip_weight, skip_bias, scale)
    skip.add_(added)
    return x_out


layer_in_place = torch.library.custom_op(
    "audiogen::gated_dilated_layer_in_place", layer_in_place_reference, mutates_args=("skip",)
)


@layer_in_place.register_fake
def _(x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, first, band, shift, skip, dilation,
      causal, scale):
    return x.new_empty(0) if out_weight is None else _empty(x, x.shape[1])


def layer_backward_reference(
    grad_x_out: Tensor | None, grad_skip: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None,
    out_weight: Tensor | None, skip_weight: Tensor, condition: Tensor | None, first: Tensor | None,
    band: Tensor | None, shift: Tensor | None, dilation: int, causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, band, shift.

    All but x's are there in any case or, where there is nothing that they belong to, an empty tensor. The gradient of
    skip is grad_skip itself. grad_x_out: None where out_weight is.
    """
    read, tanh, sigmoid = _halves(x, weight, bias, condition, first, band, shift, dilation, causal)
    h, straight = tanh * sigmoid, None
    of_h = torch.einsum("sg,bst->bgt", skip_weight, grad_skip)
    of_skip_weight = torch.einsum("bst,bgt->sg", grad_skip, h)
    of_out_weight = of_out_bias = None
    if out_weight is not None and grad_x_out is not None:
        straight = grad_x_out * scale
        of_h = of_h + torch.einsum("cg,bct->bgt", out_weight, straight)
        of_out_weight, of_out_bias = torch.einsum("bct,bgt->cg", straight, h), straight.sum((0, 2))
    of_z = torch.cat([of_h * sigmoid * (1 - tanh.square()), of_h * h * (1 - sigmoid)], 1)
    of_read, of_weight, of_bias = torch.ops.aten.convolution_backward(
        of_z, read, weight, [weight.shape[0]], [1], [0], [dilation], False, [0], 1, [True, True, True]
    )
    before, after = _padding(weight.shape[2], dilation, causal)
    of_x = of_read[:, :, before : of_read.shape[2] - after]
    of_shift = None if shift is None else of_x.sum(2)
    of_condition = of_band = None
    if condition is not None:
        of_condition, of_band = upsample_backward(of_z, condition, first, band)
    gradients = (_as(of_x if straight is None else of_x + straight, x), of_weight, of_bias, of_out_weight, of_out_bias,
                 of_skip_weight, grad_skip.sum((0, 2)), of_condition, of_band, of_shift)
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


layer_backward = torch.library.custom_op(
    "audiogen::gated_dilated_layer_backward", layer_backward_reference, mutates_args=()
)


@layer_backward.register_fake
def _(grad_x_out, grad_skip, x, weight, bias, out_weight, skip_weight, condition, first, band, shift, dilation, causal,
      scale):
    none = [0]
    last = out_weight is None
    return (
        _empty(x, x.shape[1]), x.new_empty(weight.shape), x.new_empty(weight.shape[0]),
        x.new_empty(none if last else out_weight.shape), x.new_empty(none if last else x.shape[1:2]),
        x.new_empty(skip_weight.shape), x.new_empty(skip_weight.shape[0]),
        x.new_empty(none if condition is None else condition.shape),
        x.new_empty(none) if band is None else band.new_empty(band.shape),
        x.new_empty(none if shift is None else shift.shape),
    )


def _save(ctx, inputs, output) -> None:
    x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, first, band, shift, skip, *plain = inputs
    ctx.save_for_backward(x, weight, bias, out_weight, skip_weight, condition, first, band, shift)
    ctx.plain = plain
    ctx.biases = (bias is not None, out_bias is not None, skip_bias is not None, skip is not None)


def _differentiate(ctx, grad_x_out: Tensor, grad_skip: Tensor):
    _, _, _, out_weight, _, condition, _, band, shift = ctx.saved_tensors
    last = out_weight is None
    x, weight, bias, of_out_weight, of_out_bias, skip_weight, skip_bias, of_condition, of_band, of_shift = (
        layer_backward(None if last else grad_x_out, grad_skip, *ctx.saved_tensors, *ctx.plain)
    )
    has_bias, has_out_bias, has_skip_bias, has_skip = ctx.biases
    return (
        x, weight, bias if has_bias else None, None if last else of_out_weight,
        of_out_bias if has_out_bias else None, skip_weight, skip_bias if has_skip_bias else None,
        None if condition is None else of_condition, None, None if band is None else of_band,
        None if shift is None else of_shift, grad_skip if has_skip else None, None, None, None,
    )


layer.register_autograd(_differentiate, setup_context=_save)

"""Dilated convolution along time that keeps the length, and the same one step at a time.

    y[:, :, t] = bias + sum_k weight[:, :, k] x[:, :, t + dilation * (k - before)]      zeros outside x

before is kernel - 1 (causal) or (kernel - 1) / 2 (centred). The step form keeps the last dilation * (kernel - 1) inputs
in a ring, so that an output costs one product of a matrix and a vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_TAPS = 16


def dilated_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, dilation: int = 1, causal: bool = False
) -> Tensor:
    """x (batch, channels, time), weight (outputs, channels, kernel <= 16), bias (outputs,) -> (batch, outputs, time).

    The result takes x's memory layout; channels-last strides are the fast one. Centred: kernel must be odd.
    All in x's type, under autocast in autocast's. ValueError where shapes do not fit.
    """
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    if x.dim() != 3 or x.shape[2] < 1:
        raise ValueError(f"x {tuple(x.shape)}: (batch, channels, time >= 1) is needed")
    _check(weight, bias, x.shape[1], dilation)
    if not causal and weight.shape[2] % 2 == 0:
        raise ValueError(f"weight {tuple(weight.shape)}: a centred convolution needs an odd kernel")
    return conv(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), dilation, causal)


def dilated_conv1d_step(
    x: Tensor, state: Tensor, position: int, weight: Tensor, bias: Tensor | None = None, *, dilation: int = 1
) -> Tensor:
    """Step number `position` (from 0) of the causal convolution: x (batch, channels) -> (batch, outputs).

    state: `step_state`, or what the steps before have left; this step writes x into it. No gradient is recorded.
    """
    if x.dim() != 2 or position < 0:
        raise ValueError(f"x {tuple(x.shape)} and position {position}: (batch, channels) and 0 or more are needed")
    _check(weight, bias, x.shape[1], dilation)
    ring = (x.shape[0], dilation * (weight.shape[2] - 1), x.shape[1])
    if state.shape != ring or state.dtype != x.dtype:
        raise ValueError(f"state {tuple(state.shape)} {state.dtype}: {ring} {x.dtype} is needed")
    with torch.no_grad():
        return step(x, state, position, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), dilation)


def step_state(x: Tensor, kernel: int, dilation: int) -> Tensor:
    """The state before step 0, for x (batch, channels): zeros (batch, dilation * (kernel - 1), channels)."""
    return x.new_zeros(x.shape[0], dilation * (kernel - 1), x.shape[1])


def _check(weight: Tensor, bias: Tensor | None, channels: int, dilation: int) -> None:
    if weight.dim() != 3 or weight.shape[1] != channels or not 1 <= weight.shape[2] <= MOST_TAPS:
        raise ValueError(f"weight {tuple(weight.shape)}: (outputs, {channels}, 1 to {MOST_TAPS}) is needed")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias {tuple(bias.shape)}: {tuple(weight.shape[:1])} is needed")
    if dilation < 1:
        raise ValueError(f"dilation={dilation} must be positive")


def _padded(x: Tensor, kernel: int, dilation: int, causal: bool) -> Tensor:
    reach = dilation * (kernel - 1)
    return F.pad(x, (reach, 0) if causal else (reach // 2, reach // 2))


def _as(tensor: Tensor, x: Tensor) -> Tensor:
    """`tensor` (batch, channels, time) in the memory layout of x: channels-last or contiguous."""
    if x.stride(1) == 1 and x.shape[1] > 1:
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    return tensor.contiguous()


def _empty(x: Tensor, channels: int) -> Tensor:
    batch, _, time = x.shape
    if x.stride(1) == 1 and x.shape[1] > 1:
        return x.new_empty(batch, time, channels).transpose(1, 2)
    return x.new_empty(batch, channels, time)


def conv_reference(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, causal: bool) -> Tensor:
    return _as(F.conv1d(_padded(x, weight.shape[2], dilation, causal), weight, bias, dilation=dilation), x)


conv = torch.library.custom_op("audiogen::dilated_conv1d", conv_reference, mutates_args=())


@conv.register_fake
def _(x, weight, bias, dilation, causal):
    return _empty(x, weight.shape[0])


def conv_backward_reference(
    grad: Tensor, x: Tensor, weight: Tensor, dilation: int, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    read = _padded(x, weight.shape[2], dilation, causal)
    of_read, of_weight, of_bias = torch.ops.aten.convolution_backward(
        grad, read, weight, [weight.shape[0]], [1], [0], [dilation], False, [0], 1, [True, True, True]
    )
    before = (read.shape[2] - x.shape[2]) // (1 if causal else 2)
    return _as(of_read[:, :, before : before + x.shape[2]], x), of_weight, of_bias


conv_backward = torch.library.custom_op("audiogen::dilated_conv1d_backward", conv_backward_reference, mutates_args=())


@conv_backward.register_fake
def _(grad, x, weight, dilation, causal):
    return _empty(x, x.shape[1]), x.new_empty(weight.shape), x.new_empty(weight.shape[0])


def _save(ctx, inputs, output) -> None:
    x, weight, bias, ctx.dilation, ctx.causal = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _differentiate(ctx, grad: Tensor):
    of_x, of_weight, of_bias = conv_backward(grad, *ctx.saved_tensors, ctx.dilation, ctx.causal)
    return of_x, of_weight, of_bias if ctx.has_bias else None, None, None


conv.register_autograd(_differentiate, setup_context=_save)


def step_reference(
    x: Tensor, state: Tensor, position: int, weight: Tensor, bias: Tensor | None, dilation: int
) -> Tensor:
    taps = [state[:, (position + tap * dilation) % state.shape[1]] for tap in range(weight.shape[2] - 1)] + [x]
    y = torch.einsum("bck,ock->bo", torch.stack(taps, 2), weight)
    if state.shape[1]:
        state[:, position % state.shape[1]] = x
    return y if bias is None else y + bias


step = torch.library.custom_op("audiogen::dilated_conv1d_step", step_reference, mutates_args=("state",))


@step.register_fake
def _(x, state, position, weight, bias, dilation):
    return x.new_empty(x.shape[0], weight.shape[0])

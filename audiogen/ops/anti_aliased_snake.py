"""Snake activation without aliasing (BigVGAN, Lee et al. 2023): x + sin²(alpha x) / beta at twice the rate.

A nonlinearity makes overtones, and those above the Nyquist frequency fold back as noise. At twice the rate there is
room for them, and the low-pass that halves the rate again takes them out. Both filters have the same even number of
taps K (12 as published); the signal, and then its activation, are continued beyond their ends by their end values:

    u[n] = 2 sum_m filter_up[n + K/2 - 1 - 2m] x[m]         n = 0 .. 2 time - 1, x[m] continued
    v[n] = u[n] + sin²(alpha u[n]) / (beta + 1e-9)          alpha, beta: of the channel; e^ of them where logscale
    y[t] = sum_j filter_down[j] v[2t + j - K/2 + 1]         v[n] continued

Inputs in half precision are computed in float32. Strides are kept; channels-last strides are the fast layout.

`anti_aliased_snake` is the operator, `anti_aliased_snake_reference` says the same in three convolutions. The body of
the operator works on blocks of channels-last rows: in a block, each filter is one small banded matrix that a batched
matrix product applies to overlapping rows of x, without a copy and without the zeros of the doubled rate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 8  # steps per matrix: more waste products on zeros of the band, fewer are too small for a product
_CHUNK = 1 << 16  # numbers of u in work at a time: 256 KiB, which stay in the second-level cache
_EPS = 1e-9  # as published: beta = 0 would divide by it


def anti_aliased_snake(
    x: Tensor, alpha: Tensor, beta: Tensor, filter_up: Tensor, filter_down: Tensor, *, logscale: bool = True
) -> Tensor:
    """x (batch, channels, time >= 1), alpha and beta (channels,), filters (taps,) with even taps -> like x.

    Differentiable in x, alpha and beta. For plain Snake pass alpha as beta. Exported graphs get the reference.
    """
    if torch.compiler.is_exporting():
        return anti_aliased_snake_reference(x, alpha, beta, filter_up, filter_down, logscale=logscale)
    _check(x, alpha, beta, filter_up, filter_down)
    return _operator(x, alpha, beta, filter_up, filter_down, logscale)


def anti_aliased_snake_reference(
    x: Tensor, alpha: Tensor, beta: Tensor, filter_up: Tensor, filter_down: Tensor, *, logscale: bool = True
) -> Tensor:
    """The definition, differentiable and exportable, in plain convolutions."""
    _check(x, alpha, beta, filter_up, filter_down)
    channels, dtype = x.shape[1], _working_dtype(x)
    alpha, inverse_beta = _scales(alpha.to(dtype), beta.to(dtype), logscale)
    u = _doubled(x.to(dtype), filter_up.to(dtype))
    v = u + inverse_beta[:, None] * torch.sin(alpha[:, None] * u).square()
    half = filter_down.shape[0] // 2
    v = F.pad(v, (half - 1, half), mode="replicate")
    return F.conv1d(v, filter_down.to(dtype).expand(channels, 1, -1), stride=2, groups=channels).to(x.dtype)


def _doubled(x: Tensor, filter_up: Tensor) -> Tensor:
    """-> u (batch, channels, 2 * time)."""
    (_, channels, time), half = x.shape, filter_up.shape[0] // 2
    x = F.pad(x, (half - 1, half - 1), mode="replicate")
    u = 2 * F.conv_transpose1d(x, filter_up.expand(channels, 1, -1), stride=2, groups=channels)
    return u[..., 3 * half - 3 : 3 * half - 3 + 2 * time]


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _scales(alpha: Tensor, beta: Tensor, logscale: bool) -> tuple[Tensor, Tensor]:
    """-> alpha, 1 / beta, (channels,) both."""
    return (alpha.exp(), 1 / (beta.exp() + _EPS)) if logscale else (alpha, 1 / (beta + _EPS))


def _check(x: Tensor, alpha: Tensor, beta: Tensor, filter_up: Tensor, filter_down: Tensor) -> None:
    if x.dim() != 3 or x.shape[2] == 0:
        raise ValueError(f"x of shape {tuple(x.shape)}: (batch, channels, time >= 1) is needed")
    if alpha.shape != x.shape[1:2] or beta.shape != x.shape[1:2]:
        raise ValueError(
            f"alpha {tuple(alpha.shape)} and beta {tuple(beta.shape)}: ({x.shape[1]},), one a channel, is needed"
        )
    for taps in (filter_up, filter_down):
        if taps.dim() != 1 or taps.shape[0] % 2 or taps.shape[0] == 0:
            raise ValueError(f"a filter of shape {tuple(taps.shape)}: (taps,) with an even number of taps is needed")


def operator_reference(
    x: Tensor, alpha: Tensor, beta: Tensor, filter_up: Tensor, filter_down: Tensor, logscale: bool
) -> Tensor:
    _check(x, alpha, beta, filter_up, filter_down)
    with torch.autocast(x.device.type, enabled=False):
        if x.device.type != "cpu":
            y = anti_aliased_snake_reference(x, alpha, beta, filter_up, filter_down, logscale=logscale)
            return _like(x, y.transpose(1, 2))
        dtype = _working_dtype(x)
        alpha, inverse_beta = _scales(alpha.to(dtype), beta.to(dtype), logscale)
        rows = x.to(dtype).transpose(1, 2).contiguous()                           # (batch, time, channels)
        up, down = _up_matrix(filter_up.to(dtype)), _down_matrix(filter_down.to(dtype))
        y = torch.empty_like(rows)
        for source, target in zip(rows, y, strict=True):
            _one_clip(source, target, alpha, inverse_beta, up, down)
        return _like(x, y)


_operator = torch.library.custom_op("audiogen::anti_aliased_snake", operator_reference, mutates_args=())


@_operator.register_fake
def _(x, alpha, beta, filter_up, filter_down, logscale):
    return _like(x, x.new_empty(x.shape[0], x.shape[2], x.shape[1]))


def _like(x: Tensor, y: Tensor) -> Tensor:
    """y (batch, time, channels) -> (batch, channels, time), in x's type and layout."""
    y = y.to(x.dtype)
    return y.contiguous().transpose(1, 2) if x.stride(1) == 1 and x.shape[1] > 1 else y.transpose(1, 2).contiguous()


def _one_clip(x: Tensor, y: Tensor, alpha: Tensor, inverse_beta: Tensor, up: Tensor, down: Tensor) -> None:
    """x (time, channels) -> y, written in place, chunk by chunk."""
    time, channels = x.shape
    reach = (up.shape[1] - _BLOCK) // 2  # steps of x on either side of a step that its two rows of u see
    taps = down.shape[1] - 2 * _BLOCK + 2
    margin = taps // 4 + 1  # steps on either side of a chunk whose u its outputs see
    chunk = max(_CHUNK // (2 * channels * _BLOCK), 1) * _BLOCK
    for start in range(0, time, chunk):
        stop = min(start + chunk, time)
        first, last = max(start - margin, 0), min(stop + margin, time)
        u = _banded(up, x, first - reach, blocks=-(-(last - first) // _BLOCK), hop=_BLOCK)[: 2 * (last - first)]
        v = u.addcmul_((u * alpha).sin_().square_(), inverse_beta)
        begin = 2 * (start - first) - taps // 2 + 1
        blocks = -(-(stop - start) // _BLOCK)
        y[start:stop] = _banded(down, v, begin, blocks=blocks, hop=2 * _BLOCK)[: stop - start]


def _banded(matrix: Tensor, x: Tensor, start: int, *, blocks: int, hop: int) -> Tensor:
    """matrix (rows, width) times x[start + hop * block :][:width] for each block -> (blocks * rows, channels).

    x (time, channels) goes on beyond its ends with its first and its last row.
    """
    rows, width = matrix.shape
    stop = start + hop * (blocks - 1) + width
    time, channels = x.shape
    piece = x[max(start, 0) : stop]
    if start < 0 or stop > time:
        piece = torch.cat([x[:1].expand(max(-start, 0), -1), piece, x[-1:].expand(max(stop - time, 0), -1)])
    windows = piece.as_strided((blocks, width, channels), (hop * channels, channels, 1))
    return torch.bmm(matrix.expand(blocks, -1, -1), windows).view(blocks * rows, channels)


def _up_matrix(taps: Tensor) -> Tensor:
    """-> (2 * block, block + 2 * reach): row n, column m + reach holds 2 taps[n + K/2 - 1 - 2m]."""
    count = taps.shape[0]
    reach = count // 4
    n, m = torch.arange(2 * _BLOCK)[:, None], torch.arange(-reach, _BLOCK + reach)[None, :]
    return 2 * _pick(taps, n + count // 2 - 1 - 2 * m)


def _down_matrix(taps: Tensor) -> Tensor:
    """-> (block, 2 * block + K - 2): row t, column 2t + j holds taps[j]."""
    t, column = torch.arange(_BLOCK)[:, None], torch.arange(2 * _BLOCK + taps.shape[0] - 2)[None, :]
    return _pick(taps, column - 2 * t)


def _pick(taps: Tensor, index: Tensor) -> Tensor:
    """taps[index], and 0 where there is no such tap."""
    inside = (index >= 0) & (index < taps.shape[0])
    return taps[index.clamp(0, taps.shape[0] - 1)] * inside


def backward_reference(
    grad: Tensor, x: Tensor, alpha: Tensor, beta: Tensor, filter_up: Tensor, filter_down: Tensor, logscale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, alpha and beta. u is made again: keeping it would cost twice the memory of x.

    With 1 / b for 1 / (beta + 1e-9):  dv/du = 1 + alpha sin(2 alpha u) / b,  dv/dalpha = u sin(2 alpha u) / b,
    dv/d(1 / b) = sin²(alpha u). The filters' adjoints are the same filters with the strides exchanged.
    """
    channels, dtype = x.shape[1], _working_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        half = filter_down.shape[0] // 2
        down = filter_down.to(dtype).expand(channels, 1, -1)
        grad_v = F.conv_transpose1d(grad.to(dtype), down, stride=2, groups=channels, output_padding=1)
        grad_v = _fold(grad_v, half - 1, half)
        u = _doubled(x.to(dtype), filter_up.to(dtype))
        a, inverse_b = (scale[:, None] for scale in _scales(alpha.to(dtype), beta.to(dtype), logscale))
        slope = inverse_b * torch.sin(2 * a * u)
        grad_a = (grad_v * u * slope).sum((0, 2))
        grad_b = -(grad_v * torch.sin(a * u).square()).sum((0, 2)) * inverse_b[:, 0].square()
        if logscale:
            grad_a, grad_b = grad_a * a[:, 0], grad_b * beta.to(dtype).exp()
        half = filter_up.shape[0] // 2
        grad_u = F.pad(grad_v * (1 + a * slope), (3 * half - 3, 3 * half - 3))
        grad_x = 2 * F.conv1d(grad_u, filter_up.to(dtype).expand(channels, 1, -1), stride=2, groups=channels)
        grad_x = _fold(grad_x, half - 1, half - 1)
    return _like(x, grad_x.transpose(1, 2)), grad_a.to(alpha.dtype), grad_b.to(beta.dtype)


def _fold(grad: Tensor, before: int, after: int) -> Tensor:
    """The adjoint of continuing a signal by its end values: what reached the continuation belongs to the ends."""
    inner = grad[..., before : grad.shape[2] - after].clone()
    inner[..., 0] += grad[..., :before].sum(2)
    inner[..., -1] += grad[..., grad.shape[2] - after :].sum(2)
    return inner


_backward_operator = torch.library.custom_op(
    "audiogen::anti_aliased_snake_backward", backward_reference, mutates_args=()
)


@_backward_operator.register_fake
def _(grad, x, alpha, beta, filter_up, filter_down, logscale):
    grad_x = _like(x, x.new_empty(x.shape[0], x.shape[2], x.shape[1]))
    return grad_x, torch.empty_like(alpha), torch.empty_like(beta)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.logscale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad: Tensor):
    return (*_backward_operator(grad, *ctx.saved_tensors, ctx.logscale), None, None, None)


_operator.register_autograd(_backward, setup_context=_setup_context)

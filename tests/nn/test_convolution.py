"""The channels-last path against PyTorch's own convolutions on channels-first tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from audiogen.nn.convolution import Convolution, TransposedConvolution, channels_last


def _x(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kernel, dilation, groups", [(1, 1, 1), (3, 1, 1), (7, 5, 1), (3, 2, 2)])
@pytest.mark.parametrize("batch, time", [(1, 1), (2, 30)])
def test_a_convolution_is_pytorchs_own(kernel: int, dilation: int, groups: int, batch: int, time: int) -> None:
    padding = (kernel - 1) // 2 * dilation
    layer = Convolution(4, 6, kernel, padding=padding, dilation=dilation, groups=groups).double()
    x = _x(batch, 4, time)
    expected = F.conv1d(x, layer.weight, layer.bias, padding=padding, dilation=dilation, groups=groups)
    assert (layer(x) - expected).abs().max() < 1e-12
    made = layer(channels_last(x))
    assert (made - expected).abs().max() < 1e-12
    assert made.stride() == channels_last(expected).stride()


@pytest.mark.parametrize("kernel, rate", [(16, 8), (4, 2), (9, 3), (5, 3), (1, 1), (3, 1), (2, 2), (11, 4), (10, 5)])
@pytest.mark.parametrize("batch, time", [(1, 1), (2, 9)])
def test_a_transposed_convolution_is_pytorchs_own_and_makes_rate_steps_of_each(
    kernel: int, rate: int, batch: int, time: int
) -> None:
    layer = TransposedConvolution(4, 6, kernel, rate).double()
    x = _x(batch, 4, time)
    left = (kernel - rate + 1) // 2  # by hand: everything, then what lies too far left and right is cut away
    expected = F.conv_transpose1d(x, layer.weight, layer.bias, stride=rate)
    expected = F.pad(expected, (0, rate))[..., left : left + time * rate]
    if (kernel - rate) % 2:  # the step after the end holds the bias alone
        expected[..., -1] += layer.bias[:, None].T * (expected.shape[2] - 1 + left >= (time - 1) * rate + kernel)
    made = layer(channels_last(x))
    assert made.shape == (batch, 6, time * rate)
    assert (made - expected).abs().max() < 1e-12


def test_gradients_are_pytorchs_own() -> None:
    for layer in (Convolution(3, 4, 3, padding=1).double(), TransposedConvolution(3, 4, 5, 2).double()):
        x = channels_last(_x(2, 3, 6)).requires_grad_()
        names = [name for name, _ in layer.named_parameters()]

        def run(x: torch.Tensor, *parameters: torch.Tensor, layer=layer, names=names) -> torch.Tensor:
            return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

        assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def test_a_kernel_that_leaves_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel=3"):
        TransposedConvolution(4, 4, 3, 4)

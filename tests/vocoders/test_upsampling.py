"""Upsampling networks: the band is the network, edges too, and its rows do not depend on how a clip is cut."""

from __future__ import annotations

import pytest
import torch

from audiogen.ops import Upsampling
from vocoders.upsampling import Stretches, TransposedFrames, TransposedPlanes, UpsampleNetwork


def _stretches(scales: tuple[int, ...]) -> Stretches:
    torch.manual_seed(0)
    net = Stretches(scales).double()
    for layer in net.up_layers[1::2]:
        torch.nn.init.normal_(layer.weight)
    return net


def _apply(band: Upsampling, frames: torch.Tensor) -> torch.Tensor:
    """An oracle in plain words: every step adds what it reads."""
    steps = [
        sum(band.weights[t, j] * frames[..., int(band.first[t]) + j] for j in range(band.weights.shape[1]))
        for t in range(len(band.first))
    ]
    return torch.stack(steps, -1)


@pytest.mark.parametrize("scales", [(2, 3), (4, 4), (5,), (1, 4), (2, 2, 2)])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 6, 11])
def test_the_band_is_the_network_on_every_step(scales, frames):
    net, x = _stretches(scales), torch.randn(2, 3, frames, dtype=torch.float64)
    assert torch.allclose(_apply(net.band(frames), x), net(x), atol=1e-12)


@pytest.mark.parametrize("scales", [(2, 3), (1, 4), (2, 2, 2)])
@pytest.mark.parametrize("frames", [1, 2, 4, 5, 13])
def test_rows_of_a_chunk_are_the_whole_clips_rows_to_the_last_bit(scales, frames):
    net = _stretches(scales)
    hop, reach = net(torch.zeros(1, 1, 1)[..., :1].double()).shape[2], net.reach
    whole = net.rows(0, frames, frames=frames)
    x = torch.randn(1, 2, frames, dtype=torch.float64)
    assert torch.allclose(_apply(whole, x), net(x), atol=1e-12)
    for at in range(frames):
        lengths = [frames] if at + reach >= frames or frames < 2 * reach + 1 else [frames, None]
        for length in lengths:
            rows = net.rows(at, at + 1, frames=length)
            assert torch.equal(rows.weights, whole.weights[at * hop : (at + 1) * hop])
            assert torch.equal(rows.first, whole.first[at * hop : (at + 1) * hop])


def test_a_gradient_flows_through_the_band_into_the_filters():
    net = _stretches((2, 3))
    net.band(4).weights.square().sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in net.up_layers[1::2])


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_every_network_makes_hop_length_steps_a_frame(frames):
    x = torch.rand(2, 8, frames)
    for net in (UpsampleNetwork(8, 2, (2, 3)), TransposedPlanes((2, 3)), TransposedFrames(8, 6, 24)):
        assert net(x).shape == (2, 8, frames * 6)


def test_a_frames_steps_read_what_each_network_says():
    planes, frames = TransposedPlanes((2, 3)), TransposedFrames(8, 6, 24)
    assert frames.reach == 3
    for net, before in ((planes, 0), (frames, frames.reach)):
        x = torch.rand(1, 8, 9, requires_grad=True)
        net(x)[0, :, 5 * 6 : 6 * 6].square().sum().backward()
        read = x.grad[0].abs().sum(0).nonzero()[:, 0].tolist()
        assert read == list(range(5 - before, 6))

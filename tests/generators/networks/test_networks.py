"""What every network promises, over all of NETWORKS, and that each learns under every objective."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.generators.networks import NETWORKS, network_class
from audiogen.generators.networks.dit import DiTConfig
from audiogen.generators.networks.gated import GatedConfig
from audiogen.generators.networks.unet import UNetConfig
from audiogen.generators.objectives import OBJECTIVES, denoiser, make_objective, per_item
from audiogen.generators.samplers import sample_euler

MELS, STYLE, ROLL = 10, 6, 5
TINY = {
    "unet": UNetConfig(width=16, multipliers=(1, 2), blocks=1, kernel_size=3, heads=2, modulation=16),
    "dit": DiTConfig(width=32, depth=2, heads=2, patch=2, expansion=2, modulation=16),
    "gated": GatedConfig(width=40, depth=3, dilations=(1, 2, 4), modulation=16),
}


def build(name, config=None, *, vector_dim=STYLE, aligned_dim=ROLL, trained=True):
    torch.manual_seed(0)
    network = network_class(name)(
        config or TINY[name], channels_in=MELS, channels_out=MELS, vector_dim=vector_dim, aligned_dim=aligned_dim
    )
    if trained:  # the zeros that training starts from would hide everything
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    return network


def inputs(frames=12, batch=3, seed=1):
    torch.manual_seed(seed)
    return (
        torch.randn(batch, MELS, frames), torch.linspace(-1, 1, batch), torch.randn(batch, STYLE),
        torch.randn(batch, ROLL, frames),
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 7, 16, 61])
def test_output_has_the_shape_of_the_mel(name, frames):
    out = build(name)(*inputs(frames))
    assert out.shape == (3, MELS, frames) and out.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_training_starts_from_zero(name):
    assert not build(name, trained=False)(*inputs()).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_works_without_any_condition(name):
    x, level, _, _ = inputs()
    assert build(name, vector_dim=0, aligned_dim=0)(x, level, None, None).shape == x.shape


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_no_style_and_no_score_are_zeros(name):
    network, (x, level, vector, aligned) = build(name), inputs()
    expected = network(x, level, torch.zeros_like(vector), torch.zeros_like(aligned))
    torch.testing.assert_close(network(x, level, None, None), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_items_do_not_know_each_other(name):
    network, all_inputs = build(name), inputs()
    together = network(*all_inputs)
    for i in range(3):
        alone = network(*(value[i : i + 1] for value in all_inputs))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_every_input_matters(name, which):
    network, values = build(name), list(inputs())
    before = network(*values)
    values[which] = values[which].flip(0)
    assert (network(*values)[0] - before[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_all_parameters_are_trained_and_conditions_soon_matter(name):
    """adaLN-zero opens one layer a step: after three steps every parameter has a gradient."""
    network = build(name, trained=False)
    values = inputs()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    target = torch.randn_like(values[0])
    for step in range(4):
        optimizer.zero_grad()
        (network(*values) - target).square().mean().backward()
        missing = [key for key, parameter in network.named_parameters() if parameter.grad is None]
        assert not missing, missing
        optimizer.step()
        if step == 1:
            before = network(*values)
            for which in (2, 3):
                changed = [value.flip(0) if i == which else value for i, value in enumerate(values)]
                assert (network(*changed)[0] - before[0]).abs().max() > 1e-5
    dead = [key for key, parameter in network.named_parameters() if not parameter.grad.any()]
    assert not dead, dead


LOCAL = {  # (config, frames that one output frame can see to either side)
    "unet": (UNetConfig(width=8, multipliers=(1, 2), blocks=1, kernel_size=3, heads=2, reach=3, modulation=8), 24),
    "dit": (DiTConfig(width=16, depth=2, heads=2, patch=2, expansion=1, reach=3, modulation=8), 14),
    "gated": (GatedConfig(width=8, depth=2, dilations=(1, 2), modulation=8, means=(3, 7)), 6),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_longer_clip_begins_like_a_shorter_one(name):
    """No norm and no position depends on the length: beyond the reach of the end, the frames are the same."""
    config, reach = LOCAL[name]
    network = build(name, config).double()
    x, level, vector, aligned = (value.double() for value in inputs(frames=80))
    long = network(x, level, vector, aligned)
    for frames in (48, 53):
        short = network(x[..., :frames], level, vector, aligned[..., :frames])
        torch.testing.assert_close(short[..., : frames - reach], long[..., : frames - reach], rtol=1e-5, atol=1e-6)
        assert (short[..., -1] - long[..., frames - 1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_a_clip_moved_in_time_gives_the_output_moved(name):
    config, reach = LOCAL[name]
    network = build(name, config).double()
    x, level, vector, aligned = (value.double() for value in inputs(frames=80))
    moved = network(x[..., 4:], level, vector, aligned[..., 4:])
    whole = network(x, level, vector, aligned)
    # The angles of rotary positions are float32 whatever the network is.
    torch.testing.assert_close(moved[..., reach:], whole[..., 4 + reach :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_stays_near(name):
    network, values = build(name), inputs()
    with torch.no_grad():
        full = network(*values)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(*values).float()
    assert (half - full).norm() < 0.1 * full.norm()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_overfits_one_mel_under_every_objective(name, objective):
    """The one clip there is, told where it is by a roll, is learned and comes back from noise three times its size."""
    network, objective = build(name, vector_dim=0, trained=False), make_objective(objective)
    bins, frames = torch.arange(MELS)[:, None], torch.arange(8)
    mel = 1.4 * torch.sin(0.4 * frames + 0.7 * bins)[None]                 # (1, n_mels, frames), about unit variance
    roll = torch.sin((0.4 * frames + 1) * bins[:ROLL])[None]               # (1, aligned_dim, frames)
    denoise = denoiser(objective, lambda x, c_noise: network(x, c_noise, None, roll.expand(len(x), -1, -1)))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.9, 0.95), fused=True)
    source = torch.Generator().manual_seed(0)
    losses = []
    for step in range(70):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, 2 * (1 - step / 70))
        sigma = objective.draw_sigma((torch.arange(12) + torch.rand(12, generator=source)) / 12)
        denoised = denoise(mel + per_item(sigma, mel) * torch.randn(12, MELS, 8, generator=source), sigma)
        loss = (per_item(objective.weight(sigma), mel) * (denoised - mel).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0], losses[::10]
    sigmas = objective.sigmas(12, start=3.0)
    with torch.no_grad():
        out = sample_euler(denoise, mel + sigmas[0] * torch.randn(4, MELS, 8, generator=source), sigmas)
    error = ((out - mel).square().mean() / mel.square().mean()).sqrt()
    assert error < 0.5, error.item()


def test_unknown_names_and_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="unet"):
        network_class("u-net")
    with pytest.raises(UserError, match="kernel_size=4"):
        UNetConfig(kernel_size=4)
    with pytest.raises(UserError, match="depth=0"):
        DiTConfig(depth=0)

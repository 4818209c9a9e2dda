from __future__ import annotations

import pytest
import torch

from audiogen.nn.noise_and_style import NoiseAndStyle


def test_no_style_is_a_zero_style_and_another_style_is_not():
    torch.manual_seed(0)
    layer, like, level = NoiseAndStyle(16, 6), torch.zeros(3, 2), torch.tensor([-0.5, 0.0, 0.9])
    none = layer(level, None, like=like)
    assert torch.equal(none, layer(level, torch.zeros(3, 6), like=like))
    assert (layer(level, torch.randn(3, 6), like=like) - none).abs().mean() > 1e-3


def test_levels_one_percent_apart_are_told_apart_smoothly():
    """Neighbours differ, but by less than strangers do: the embedding is a curve and not a hash."""
    torch.manual_seed(0)
    layer = NoiseAndStyle(64, 0)
    level = torch.linspace(-1, 1, 201)
    with torch.no_grad():
        embedding = layer(level, None, like=torch.zeros(201, 1))
    near = (embedding[1:] - embedding[:-1]).norm(dim=1)
    far = (embedding[100:] - embedding[:101]).norm(dim=1).mean()
    assert near.min() > 0.02 * far
    assert near.max() < far


def test_a_style_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 5\) where \(3, 6\)"):
        NoiseAndStyle(8, 6)(None, torch.zeros(3, 5), like=torch.zeros(3, 1))

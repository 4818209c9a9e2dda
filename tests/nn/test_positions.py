from __future__ import annotations

import math

import pytest
import torch

from audiogen.nn.positions import sinusoids


def test_they_are_the_sines_and_cosines_of_the_paper():
    made = sinusoids(torch.tensor([0, 3, 700]), 6)
    for row, place in enumerate((0, 3, 700)):
        angles = [place / 10_000 ** (2 * i / 6) for i in range(3)]
        wanted = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
        torch.testing.assert_close(made[row], wanted, atol=1e-4, rtol=0)


def test_a_shift_is_a_rotation_so_distances_can_be_read_off():
    a, b = sinusoids(torch.arange(0, 50), 16), sinusoids(torch.arange(7, 57), 16)
    products = (a * b).sum(1)
    torch.testing.assert_close(products, products[:1].expand(50), atol=1e-4, rtol=0)


def test_an_odd_dim_is_refused():
    with pytest.raises(ValueError, match="dim=5"):
        sinusoids(torch.arange(3), 5)

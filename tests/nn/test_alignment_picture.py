from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from audiogen.nn.alignment_picture import save_alignment


def test_the_picture_is_brightest_where_the_weights_are(tmp_path):
    weights = torch.full((8, 8), 0.01)
    weights[2, 5] = 1.0
    save_alignment(weights, tmp_path / "map.png", given=[f"in{i}" for i in range(8)], title="test")
    other = weights.T.contiguous()
    save_alignment(other, tmp_path / "other.png", given=[f"in{i}" for i in range(8)], title="test")
    first, second = (imread(tmp_path / name)[..., :3] for name in ("map.png", "other.png"))

    # What differs between the two pictures are the two places alone.
    differs = np.argwhere(np.abs(first - second).sum(-1) > 0.5)
    rows, columns = differs[:, 0], differs[:, 1]
    bright = first.sum(-1)
    left = (columns < (columns.min() + columns.max()) / 2)
    assert bright[rows[left], columns[left]].mean() < bright[rows[~left], columns[~left]].mean()
    assert rows[~left].max() < rows[left].min()  # row 2 lies above row 5


def test_long_maps_are_drawn_without_names_and_no_map_is_refused(tmp_path):
    save_alignment(torch.rand(400, 300), tmp_path / "long.png", given=["x"] * 300, written=["y"] * 400)
    assert (tmp_path / "long.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="weights of shape"):
        save_alignment(torch.rand(0, 3), tmp_path / "none.png")

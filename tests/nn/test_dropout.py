from __future__ import annotations

import torch

from audiogen.core.rng import SampleRng
from audiogen.nn.dropout import drop_channels


def test_a_share_of_channels_is_dropped_at_every_token_and_the_mean_stays():
    x = torch.ones(4, 6, 5000)
    made = drop_channels(x, 0.25, SampleRng(0, ids=range(4)))
    assert set(made.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert torch.equal(made, made[:, :1].expand_as(made)) and not torch.equal(made[0], made[1])
    assert abs(float((made == 0).float().mean()) - 0.25) < 0.02 and abs(float(made.mean()) - 1) < 0.02


def test_a_sample_is_dropped_alike_in_any_batch_and_without_an_rng_nothing_is():
    x = torch.randn(2, 3, 50)
    together = drop_channels(x, 0.5, SampleRng(3, ids=[8, 9]))
    assert torch.equal(together[1:], drop_channels(x[1:], 0.5, SampleRng(3, ids=[9])))
    assert drop_channels(x, 0.5, None) is x and drop_channels(x, 0.0, SampleRng(3, ids=[8, 9])) is x

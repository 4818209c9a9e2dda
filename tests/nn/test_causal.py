"""Oracles: the masks by their definition, the cache by plain concatenation."""

from __future__ import annotations

import pytest
import torch

from audiogen.nn.causal import KeyValueCache, check_heads, earlier


@pytest.mark.parametrize("queries, keys, reach", [(4, 4, None), (2, 5, None), (3, 6, 1), (1, 4, 0), (5, 5, 9)])
def test_a_query_sees_itself_and_what_is_within_reach_before_it(queries, keys, reach):
    seen = earlier(queries, keys, reach=reach)
    for row in range(queries):
        place = keys - queries + row
        for key in range(keys):
            assert bool(seen[row, key]) == (0 <= place - key <= (keys if reach is None else reach))


def test_the_cache_gives_back_everything_in_order_over_many_enlargements():
    cache, source = KeyValueCache(), torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 2, 3, 300, 4, generator=source)
    for first, last in [(0, 1), (1, 70), (70, 71), (71, 200), (200, 300)]:
        kept = cache.extend(k[:, :, first:last], v[:, :, first:last])
        assert torch.equal(kept[0], k[:, :, :last]) and torch.equal(kept[1], v[:, :, :last])
    assert cache.tokens == 300


def test_token_by_token_most_tokens_are_not_copied_again():
    cache, copies, storage = KeyValueCache(), 0, None
    for _ in range(2000):
        kept, _ = cache.extend(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
        copies, storage = copies + (kept.data_ptr() != storage), kept.data_ptr()
    assert copies <= 7  # room for 64, 130, 262, ... tokens


def test_uneven_heads_are_refused():
    assert check_heads(12, 3) == 4
    with pytest.raises(ValueError, match="heads=5"):
        check_heads(12, 5)

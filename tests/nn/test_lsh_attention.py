"""Oracle: for every token the set of tokens that it sees, collected by loops over buckets; a softmax over that set."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.rng import SampleRng
from audiogen.nn.lsh_attention import LSHAttention, chunked


def drawn(tokens, buckets, rounds, *, batch=2, heads=2, dim=5, seed=0):
    source = torch.Generator().manual_seed(seed)
    q, v = torch.randn(2, batch, heads, tokens, dim, generator=source, dtype=torch.float64)
    k = q / q.norm(dim=-1, keepdim=True)
    return q, k, v, torch.randint(buckets, (batch, heads, rounds, tokens), generator=source)


def by_hand(q, k, v, buckets, chunk):
    out = torch.zeros_like(v)
    batch, heads, rounds, tokens = buckets.shape
    for b in range(batch):
        for h in range(heads):
            for i in range(tokens):
                seen = set()
                for r in range(rounds):
                    mates = [j for j in range(i) if buckets[b, h, r, j] == buckets[b, h, r, i]]
                    seen |= set(mates[-chunk:])
                seen = sorted(seen) or [i]
                weights = torch.stack([q[b, h, i] @ k[b, h, j] for j in seen]).softmax(0)
                out[b, h, i] = weights @ v[b, h, seen]
    return out


@pytest.mark.parametrize("tokens, buckets, rounds, chunk", [
    (1, 2, 1, 4), (5, 2, 2, 4), (16, 4, 1, 4), (23, 4, 3, 3), (30, 8, 2, 8), (12, 1, 2, 1), (17, 6, 4, 32),
])
def test_sorted_and_chunked_it_is_the_softmax_over_what_each_token_sees(tokens, buckets, rounds, chunk):
    q, k, v, hashed = drawn(tokens, buckets, rounds)
    torch.testing.assert_close(chunked(q, k, v, hashed, chunk), by_hand(q, k, v, hashed, chunk))


@pytest.mark.parametrize("buckets, chunk", [(1, 19), (1, 64)])
def test_when_one_bucket_holds_all_it_is_full_attention_with_shared_queries_and_keys(buckets, chunk):
    torch.manual_seed(0)
    layer = LSHAttention(12, 2, buckets=buckets, chunk=chunk, rounds=2).double()
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    qk, v = (x @ layer.into.weight.T + layer.into.bias).reshape(2, 20, 2, 2, 6).permute(2, 0, 3, 1, 4)
    logits = qk @ torch.nn.functional.normalize(qk, dim=-1).transpose(-1, -2)
    hidden = torch.ones(20, 20).triu().bool()
    hidden[0, 0] = False  # the first token has nothing but itself
    full = logits.masked_fill(hidden, float("-inf")).softmax(-1) @ v
    wanted = full.transpose(1, 2).reshape(2, 20, 12) @ layer.out.weight.T + layer.out.bias
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted)


def test_more_rounds_come_nearer_to_full_attention():
    torch.manual_seed(0)
    x = torch.randn(4, 96, 16)
    errors = []
    for rounds in (1, 2, 8):
        torch.manual_seed(1)
        layer = LSHAttention(16, 2, buckets=8, chunk=96, rounds=rounds)
        torch.manual_seed(1)
        full = LSHAttention(16, 2, buckets=1, chunk=96, rounds=1)
        with torch.no_grad():
            errors.append(float((layer(x) - full(x)).square().mean()))
    assert errors[0] > 1.3 * errors[1] > 1.3 * 1.3 * errors[2] > 0


def test_near_vectors_share_buckets_and_opposite_ones_never_do():
    layer = LSHAttention(32, 1, buckets=16, chunk=4, rounds=8)
    source = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 200, 32, generator=source)
    near = x + 0.1 * torch.randn(x.shape, generator=source)
    def same(a, b):
        return float((layer.hash(a, layer.rotations) == layer.hash(b, layer.rotations)).float().mean())
    assert same(x, near) > 0.75
    assert same(x, torch.roll(x, 1, 2)) < 0.12  # by chance: 1/16
    assert same(x, -x) == 0
    assert same(x, 5 * x) == 1  # only the direction counts


def test_a_later_token_changes_nothing_before_it():
    torch.manual_seed(0)
    layer = LSHAttention(12, 2, buckets=4, chunk=3, rounds=2).double()
    x = torch.randn(1, 40, 12, dtype=torch.float64)
    with torch.no_grad():
        before = layer(x)
        for place in (1, 17, 39):
            changed = x.clone()
            changed[:, place] = torch.randn(12, dtype=torch.float64)
            after = layer(changed)
            torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
            assert not torch.equal(after[:, place], before[:, place])


def test_rotations_come_from_the_rng_and_a_sample_hashes_alike_in_any_batch():
    torch.manual_seed(0)
    layer = LSHAttention(12, 2, buckets=8, chunk=2, rounds=1)
    x = torch.randn(2, 30, 12)
    with torch.no_grad():
        together = layer(x, rng=SampleRng(1, ids=[4, 5]))
        alone = layer(x[1:], rng=SampleRng(1, ids=[5]))
        other = layer(x, rng=SampleRng(2, ids=[4, 5]))
        torch.testing.assert_close(together[1:], alone)
        assert not torch.allclose(together, other)
        assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("bad", [dict(buckets=3), dict(buckets=0), dict(chunk=0), dict(rounds=0)])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="="):
        LSHAttention(8, 2, **{"buckets": 4, "chunk": 4, "rounds": 1, **bad})

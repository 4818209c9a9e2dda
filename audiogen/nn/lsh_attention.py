"""Causal attention among tokens that hash alike (Reformer, Kitaev, Kaiser and Levskaya 2020, arXiv 2001.04451).

Queries and keys are one projection; a key is its query at length 1. A random rotation R hashes x to the bucket
argmax([xR; -xR]), so that near vectors mostly meet in one. Tokens are sorted by bucket, then by place; the sorted row
is cut into chunks, and each chunk looks at itself and at the chunk before: O(tokens x chunk) in place of O(tokens²).
This is done in `rounds` with rotations of their own; a key that is met in several rounds counts once (their equation
4). A token looks at itself only where there is nothing else.

    rounds     R R'              .----. own chunk and the one before
    sorted     a a a b b | b b c c c | c d d ...

One thing differs from the published form. There a token sees all of its bucket that its two chunks hold, and as later
tokens move the chunks' borders, what it sees depends on the future, and cannot be had token by token. Here it sees the
last `chunk` earlier tokens of its bucket. They always lie in the two chunks, so the work is the same; attention becomes
causal to the bit, and generation gives the numbers of the whole sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from audiogen.core.rng import SampleRng
from audiogen.nn.causal import KeyValueCache, check_heads, earlier, heads_joined, heads_of

ALONE = -1e5  # added to the logit of a token with itself: it counts only where nothing else does


@dataclass
class HashedTokens:
    """Keys, values, buckets and ranks (how many earlier tokens share the bucket) of all tokens so far."""

    cache: KeyValueCache
    buckets: Tensor | None = None  # (batch, heads, rounds, tokens)
    ranks: Tensor | None = None


class LSHAttention(nn.Module):
    """`buckets`: 1, or an even number. `chunk`: the most tokens of its bucket, beside itself, that a token sees in a
    round."""

    def __init__(self, width: int, heads: int, *, buckets: int, chunk: int, rounds: int) -> None:
        super().__init__()
        dim = check_heads(width, heads)
        if (buckets % 2 and buckets != 1) or min(buckets, chunk, rounds) < 1:
            raise ValueError(f"buckets={buckets} must be 1 or even, chunk={chunk} and rounds={rounds} at least 1")
        self.heads, self.chunk, self.rounds = heads, chunk, rounds
        self.into = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.shape = (heads, rounds, dim, max(buckets // 2, 1))
        self.one = buckets == 1
        # Training draws rotations anew at every step; else they are these, so that a sequence has one value.
        self.register_buffer("rotations", SampleRng(0, stream="lsh").randn(*self.shape), persistent=False)

    def begin(self) -> HashedTokens:
        """The state before the first token (audiogen/nn/causal.py)."""
        return HashedTokens(KeyValueCache())

    def forward(self, x: Tensor, state: HashedTokens | None = None, *, rng: SampleRng | None = None) -> Tensor:
        """x (batch, tokens, width) -> like x. `rng`: draws the rotations; None: always the same ones."""
        qk, v = heads_of(self.into, x, 2, self.heads)
        rotations = self.rotations if rng is None else rng.randn(*self.shape, device=x.device)
        buckets = self.hash(qk, rotations)
        k = F.normalize(qk, dim=-1)
        if state is None:
            return self.out(heads_joined(chunked(qk, k, v, buckets, self.chunk)))
        return self.out(heads_joined(self._go_on(qk, k, v, buckets, state)))

    def hash(self, qk: Tensor, rotations: Tensor) -> Tensor:
        """qk (batch, heads, tokens, dim) -> buckets (batch, heads, rounds, tokens) int64."""
        turned = torch.einsum("bhtd,bhrdn->bhrtn", qk.detach(), rotations.to(qk.dtype).expand(len(qk), *self.shape))
        if self.one:
            return turned.new_zeros(turned.shape[:-1], dtype=torch.long)
        return torch.cat((turned, -turned), dim=-1).argmax(dim=-1)

    def _go_on(self, q: Tensor, k: Tensor, v: Tensor, buckets: Tensor, state: HashedTokens) -> Tensor:
        """Few queries, many keys: every logit is computed, and those of other buckets are hidden."""
        k, v = state.cache.extend(k, v)
        new, tokens = q.shape[2], k.shape[2]
        if state.buckets is not None:
            buckets = torch.cat((state.buckets, buckets), dim=-1)
        before = earlier(new, tokens, device=q.device)
        alike = (buckets[..., -new:, None] == buckets[..., None, :]) & before  # (batch, heads, rounds, new, tokens)
        ranks = alike.sum(dim=-1) - 1
        if state.ranks is not None:
            ranks = torch.cat((state.ranks, ranks), dim=-1)
        state.buckets, state.ranks = buckets, ranks
        seen = (alike & (ranks[..., -new:, None] - ranks[..., None, :] <= self.chunk)).any(dim=2)
        logits = (q @ k.transpose(-1, -2)).masked_fill(~seen, float("-inf"))
        itself = torch.arange(tokens - new, tokens, device=q.device)[:, None] == torch.arange(tokens, device=q.device)
        return (logits + ALONE * itself).softmax(dim=-1) @ v


def chunked(q: Tensor, k: Tensor, v: Tensor, buckets: Tensor, chunk: int) -> Tensor:
    """q, k, v (batch, heads, tokens, dim), buckets (batch, heads, rounds, tokens) -> like v."""
    rounds, tokens = buckets.shape[2:]
    places = torch.arange(tokens, device=q.device)
    order = (buckets * tokens + places).argsort(dim=-1)  # (batch, heads, rounds, tokens): sorted place -> place
    sorted_place = torch.empty_like(order).scatter_(-1, order, places.expand_as(order))  # and back

    def cut(x: Tensor) -> Tensor:
        """(batch, heads, tokens, dim) -> sorted and cut, (batch, heads, rounds, chunks, chunk, dim)."""
        index = order[..., None].expand(*order.shape, x.shape[-1])
        row = x[:, :, None].expand(-1, -1, rounds, -1, -1).gather(3, index)
        return rearrange(F.pad(row, (0, 0, 0, -tokens % chunk)), "b h r (c m) d -> b h r c m d", m=chunk)

    # Of every token, in every round: its bucket, where it was sorted to, and its place. Padding is a bucket of its own.
    marks = torch.stack((buckets, sorted_place), dim=-1) + 1
    marks = cut(rearrange(marks, "b h r t two -> b h t (r two)")).unflatten(-1, (rounds, 2))
    bucket, place = marks.unbind(dim=-1)  # (batch, heads, rounds, chunks, chunk, rounds)

    def alike(other: int) -> Tensor:
        """(batch, heads, rounds, chunks, chunk, 2 chunk) bool: pairs that meet in the round `other`."""
        mine, theirs = bucket[..., other], _and_before(bucket[..., other])
        far = place[..., other].unsqueeze(-1) - _and_before(place[..., other]).unsqueeze(-2)
        return (mine.unsqueeze(-1) == theirs.unsqueeze(-2)) & (far >= 0) & (far <= chunk) & (theirs > 0).unsqueeze(-2)

    met = [alike(other) for other in range(rounds)]
    own = torch.stack([pairs[:, :, other] for other, pairs in enumerate(met)], dim=2)
    logits = cut(q) @ _and_before(cut(k)).transpose(-1, -2)  # (batch, heads, rounds, chunks, chunk, 2 chunk)
    if rounds > 1:
        times = sum(pairs.to(q.dtype) for pairs in met)
        logits = logits - times.clamp(min=1).log()
    itself = torch.eye(chunk, dtype=torch.bool, device=q.device)
    itself = torch.cat((torch.zeros_like(itself), itself), dim=1)
    # Padding sees itself, as a softmax over nothing is NaN; it is cut off below.
    logits = (logits + ALONE * itself).masked_fill(~(own | itself), float("-inf"))
    weight = logits.logsumexp(dim=-1, keepdim=True)
    mixed = (logits - weight).exp() @ _and_before(cut(v))

    def back(x: Tensor) -> Tensor:
        """The inverse of `cut`, with the rounds kept: (batch, heads, rounds, tokens, dim)."""
        row = x.flatten(3, 4)
        return row.gather(3, sorted_place[..., None].expand(*sorted_place.shape, x.shape[-1]))

    share = back(weight).softmax(dim=2)
    return (share * back(mixed)).sum(dim=2)


def _and_before(x: Tensor) -> Tensor:
    """(b, h, r, chunks, chunk, ...) -> every chunk after the one before it, (b, h, r, chunks, 2 chunk, ...).

    Before the first lie zeros, which are no token's marks."""
    before = torch.cat((torch.zeros_like(x[:, :, :, :1]), x[:, :, :, :-1]), dim=3)
    return torch.cat((before, x), dim=4)

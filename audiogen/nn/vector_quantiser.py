"""Residual vector quantisation: vectors -> a few integers each, and back.

    x is about vectors[0, codes[0]] + vectors[1, codes[1]] + ...: each book has the nearest to what those before left

van den Oord et al. 2017 (arXiv 1711.00937): the nearest vector, a gradient that goes straight through, and in appendix
A vectors that follow their members by moving averages, which need no gradient. Zeghidour et al. 2021 (SoundStream,
arXiv 2107.03312, section III-C): a book after another, k-means on the first batch, and vectors that nothing chooses are
put where something is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng, generator

ROUNDS = 8  # of k-means, on the first batch


@dataclass(frozen=True)
class QuantiserConfig:
    books: int = 6
    size: int = 256
    """Vectors of a book: 256 are 8 bits a book and step."""
    decay: float = 0.98
    """Of the moving averages, a batch."""
    smoothing: float = 1e-5
    """Added to every vector's count (Laplace), so that one without members is no division by 0."""
    dead: float = 0.2
    """A vector that is chosen less often than this share of the mean is put where something is."""

    def __post_init__(self) -> None:
        if self.books < 1 or self.size < 2:
            raise UserError(f"quantiser: books={self.books} must be at least 1, size={self.size} at least 2")
        if not (0 <= self.decay < 1 and self.smoothing > 0 and 0 <= self.dead < 1):
            raise UserError(f"quantiser: decay={self.decay} and dead={self.dead} must be in 0 ... 1 (not 1), "
                            f"smoothing={self.smoothing} above 0")


class Quantised(NamedTuple):
    values: Tensor  # (batch, dim, steps): what the codes stand for; its gradient goes straight to x
    codes: Tensor  # (batch, books, steps) int64
    commitment: Tensor  # (batch, books, steps): mean squared distance of what a book was given to what it chose


class ResidualQuantiser(nn.Module):
    """Has no parameter: `learn` moves its vectors, and nothing else does. Works in float32."""

    def __init__(self, config: QuantiserConfig, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        books, size = config.books, config.size
        # Until the first batch, something: a model that was never trained can be run too.
        self.register_buffer("vectors", torch.randn(books, size, dim) / 2 ** torch.arange(books)[:, None, None])
        self.register_buffer("counts", torch.ones(books, size))  # members a batch, moving average
        self.register_buffer("sums", self.vectors.clone())  # of the members, likewise
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor, *, books: Tensor | None = None) -> Quantised:
        """x (batch, dim, steps). `books` (batch,): how many of the books count for `values`; None: all."""
        rest = x.float().transpose(1, 2)  # (batch, steps, dim)
        values, codes, commitment = torch.zeros_like(rest), [], []
        for book, vectors in enumerate(self.vectors):
            code = nearest(rest.detach(), vectors)
            chosen = vectors[code]
            commitment.append((rest - chosen).square().mean(dim=2))
            share = 1.0 if books is None else (books > book).float()[:, None, None]
            values = values + share * chosen
            rest = rest - chosen
            codes.append(code)
        values = values.transpose(1, 2)
        straight = x + (values - x).detach()
        return Quantised(straight, torch.stack(codes, dim=1), torch.stack(commitment, dim=1))

    def decode(self, codes: Tensor) -> Tensor:
        """codes (batch, books or fewer, steps) -> (batch, dim, steps)."""
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.config.books:
            raise ValueError(f"codes {tuple(codes.shape)} where (batch, 1 to {self.config.books}, steps) are needed")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.size:
            raise ValueError(f"codes {int(codes.min())} to {int(codes.max())}: a book has 0 to {self.config.size - 1}")
        return sum(self.vectors[book][code] for book, code in enumerate(codes.unbind(1))).transpose(1, 2)

    def perplexity(self) -> Tensor:
        """(books,): as many vectors, all chosen equally often, would be as hard to tell. 1: one is always chosen."""
        share = self.counts / self.counts.sum(dim=1, keepdim=True)
        return torch.exp(-torch.xlogy(share, share).sum(dim=1))

    # ------------------------------------------------------------------ learning

    @torch.no_grad()
    def learn(self, x: Tensor, mask: Tensor, rng: SampleRng) -> Tensor:
        """One batch of moving averages, over all processes: x (batch, dim, steps), mask (batch, 1, steps) 1 where a
        vector counts. -> how many vectors of each book were dead and put elsewhere, (books,) float.

        With N members a batch on average, and M their sum, a vector is M / N, N being smoothed. Which members the first
        vectors and the dead ones are put on is drawn by sample, so it does not depend on how the batch is dealt out to
        processes.
        """
        config, steps = self.config, x.shape[2]
        rest, real = x.detach().float().transpose(1, 2).flatten(0, 1), mask[:, 0].flatten() > 0
        revived = torch.zeros(config.books, device=x.device)
        if not summed(real.sum().float()):
            return revived  # silence and padding alone, in all processes
        for book in range(config.books):
            members = Members(rest, real, rng.fork(f"book {book}"), steps)
            if not self.begun:
                self._put(book, slice(None), k_means(members, config.size))
            codes = nearest(rest, self.vectors[book])
            rest = rest - self.vectors[book][codes]
            count, total = members.sums(codes, config.size)
            self.counts[book].lerp_(count, 1 - config.decay)
            self.sums[book].lerp_(total, 1 - config.decay)
            smooth = self.counts[book] + config.smoothing
            smooth = smooth / smooth.sum() * self.counts[book].sum()
            self.vectors[book] = self.sums[book] / smooth[:, None]
            dead = self.counts[book] < config.dead * self.counts[book].mean()
            revived[book] = dead.sum()
            if dead.any():
                self._put(book, dead, members.drawn(int(dead.sum())))
        self.begun.fill_(True)
        return revived

    def _put(self, book: int, where: Tensor | slice, vectors: Tensor) -> None:
        """Vectors with as many members as is usual, so that they are not dead at once."""
        self.counts[book, where] = self.counts[book].mean()
        self.vectors[book, where] = vectors
        self.sums[book, where] = vectors * self.counts[book, where][:, None]


def nearest(x: Tensor, vectors: Tensor) -> Tensor:
    """x (..., dim), vectors (size, dim) -> (...) int64: which one is nearest; of equals the first."""
    return (vectors.square().sum(dim=1) - 2 * x @ vectors.T).argmin(dim=-1)


# ---------------------------------------------------------------------- over all processes


class Members(NamedTuple):
    """What one book is given in a batch."""

    x: Tensor  # (vectors of this process, dim), `steps` of each sample
    real: Tensor  # (vectors of this process,) bool: False in padding
    rng: SampleRng  # a source for each sample
    steps: int

    def sums(self, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """How many members each code has in all processes, (size,), and their sum, (size, dim)."""
        x, codes = self.x[self.real], codes[self.real]
        both = x.new_zeros(size, x.shape[1] + 1)
        both.index_add_(0, codes, torch.cat((x, x.new_ones(len(x), 1)), dim=1))
        both = summed(both)
        return both[:, -1], both[:, :-1]

    def drawn(self, count: int) -> Tensor:
        """(count, dim): different members of all processes, or, if there are fewer, each several times but for a
        little noise, which tells them apart.

        Every member draws a number, and the largest win: the same ones, however the samples are dealt out.
        """
        lot = self.rng.fork("lot").rand(self.steps, device=self.x.device).flatten()
        lot = torch.where(self.real, lot, -1.0)
        top = lot.topk(min(count, len(lot)))
        x, lot = self.x.new_zeros(count, self.x.shape[1]), lot.new_full((count,), -1.0)
        x[: len(top.indices)], lot[: len(top.indices)] = self.x[top.indices], top.values
        x, lot = gathered(x), gathered(lot)
        top = lot.topk(count)
        x, there = x[top.indices], int((top.values >= 0).sum())
        if there < count:
            place = torch.arange(count, device=x.device)
            spread = x[:there].std(dim=0, correction=0).clamp(min=1e-3)
            source = generator(self.rng.seed, self.rng.step, self.rng.stream, "noise")
            noise = torch.randn(x.shape, generator=source).to(x) * (place >= there)[:, None]
            x = x[place % there] + 0.05 * spread * noise
        return x


def k_means(members: Members, size: int) -> Tensor:
    """(size, dim): some of the members, each moved to the mean of those nearest to it, a few times (Lloyd 1982)."""
    vectors = members.drawn(size)
    for _ in range(ROUNDS):
        count, total = members.sums(nearest(members.x, vectors), size)
        vectors = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], vectors)
    return vectors


def summed(x: Tensor) -> Tensor:
    """The sum over all processes."""
    if processes() > 1:
        torch.distributed.all_reduce(x)
    return x


def gathered(x: Tensor) -> Tensor:
    """(n, ...) of every process -> (processes * n, ...), the same in all."""
    if processes() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(processes())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def processes() -> int:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1

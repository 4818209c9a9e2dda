"""What autoencoders are made of, as pure functions: likelihoods and distances, ways between latents, cosine terms."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiogen.generators.mel_model import masked_mean

LIKELIHOODS = ("laplace", "gaussian")
MMD_SCALES = (0.5, 1.0, 2.0)  # of the kernels, in units of the mean squared distance of two standard normal vectors


class Gaussian(NamedTuple):
    """A normal distribution of every latent value, (batch, latent_dim, latent frames) each."""

    mean: Tensor
    log_std: Tensor

    def detach(self) -> Gaussian:
        return Gaussian(self.mean.detach(), self.log_std.detach())


def gaussian_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) in nats, of every value by itself (Kingma & Welling 2014, appendix B, for any p)."""
    ratio = torch.exp(2 * (q.log_std - p.log_std))
    distance = (q.mean - p.mean).square() * torch.exp(-2 * p.log_std)
    return p.log_std - q.log_std + 0.5 * (ratio + distance - 1)


def negative_log_likelihood(error: Tensor, log_spread: Tensor, kind: str) -> Tensor:
    """-log p in nats of every value: Laplace of scale exp(log_spread), or Gaussian of that deviation."""
    if kind == "laplace":
        return error.abs() * torch.exp(-log_spread) + log_spread + math.log(2)
    return 0.5 * error.square() * torch.exp(-2 * log_spread) + log_spread + 0.5 * math.log(2 * math.pi)


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two samples (n, dim) and (m, dim), n, m >= 2: the unbiased estimate (Gretton
    et al. 2012, eq. 3; it can be below 0), mean over Gaussian kernels of the widths MMD_SCALES."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        # From products and not by cdist, whose gradient at distance 0 is none.
        squared = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
        return sum(torch.exp(-squared / (2 * dim * scale)) for scale in MMD_SCALES) / len(MMD_SCALES)

    def within(a: Tensor) -> Tensor:
        k, n = kernel(a, a), a.shape[0]
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    dim = x.shape[1]
    return within(x) + within(y) - 2 * kernel(x, y).mean()


def slerp(a: Tensor, b: Tensor, at: float) -> Tensor:
    """From a to b (batch, dim, frames) on the arc between the two vectors of each frame, and evenly in length.

    A straight line between two draws of N(0, 1) in many dimensions passes through lengths that are never drawn
    (Shoemake 1985; White 2016, arXiv 1609.04468). Where there is no arc, it is the straight line.
    """
    length_a, length_b = (x.norm(dim=1, keepdim=True) for x in (a, b))
    cosine = (a * b).sum(dim=1, keepdim=True) / (length_a * length_b).clamp(min=1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    sine = angle.sin()
    length = (1 - at) * length_a + at * length_b
    arc = (length / length_a.clamp(min=1e-12)) * (torch.sin((1 - at) * angle) / sine) * a
    arc = arc + (length / length_b.clamp(min=1e-12)) * (torch.sin(at * angle) / sine) * b
    straight = (sine.abs() < 1e-4) | (length_a < 1e-6) | (length_b < 1e-6)
    return torch.where(straight, (1 - at) * a + at * b, arc)


def edges(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of the slopes of two mels (batch, n_mels, frames), along time and across bands."""
    difference = x - y
    both = mask[..., 1:] * mask[..., :-1]
    return masked_mean(difference.diff(dim=2).abs(), both) + masked_mean(difference.diff(dim=1).abs(), mask)


def bounded(x: Tensor, most: float) -> Tensor:
    """x near 0, never beyond -most..most."""
    return most * torch.tanh(x / most)


def cosines(n_mels: int, frames: int, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` terms of a two-dimensional cosine transform of a patch of mel, (count, n_mels, frames),
    orthonormal; and how large each is in real sound in deviations, (count,), roughly.

    Sound varies more slowly in time than across bands: order (k + 1) (l + 1)^3 for k waves over the bands and l in
    time keeps nearly as much of a patch as its principal components do.
    """

    def transform(size: int) -> Tensor:
        wave, place = torch.arange(size)[:, None], torch.arange(size) + 0.5
        terms = torch.cos(math.pi * wave * place / size) * math.sqrt(2 / size)
        terms[0] /= math.sqrt(2)
        return terms

    order = (torch.arange(1, n_mels + 1)[:, None] * torch.arange(1.0, frames + 1) ** 3).flatten()
    first = order.sort(stable=True)
    terms = torch.einsum("km,lt->klmt", transform(n_mels), transform(frames)).flatten(0, 1)[first.indices[:count]]
    return terms, 0.7 * math.sqrt(n_mels * frames) / first.values[:count] ** 0.75


class Levels(NamedTuple):
    """Frames and masks (batch, 1, frames) or None of every rate, the full one first."""

    frames: tuple[int, ...]
    masks: tuple[Tensor | None, ...]


def levels(frames: int, count: int, lengths: Tensor | None = None) -> Levels:
    """Each level has half the frames of the one above, rounded up. `lengths` (batch,): real frames of every sample."""
    sizes, masks = [], []
    for _ in range(count):
        sizes.append(frames)
        if lengths is None:
            masks.append(None)
        else:
            masks.append((torch.arange(frames, device=lengths.device) < lengths[:, None]).unsqueeze(1).float())
            lengths = (lengths + 1) // 2
        frames = (frames + 1) // 2
    return Levels(tuple(sizes), tuple(masks))


def through(blocks: nn.ModuleList, x: Tensor, modulation: Tensor, mask: Tensor | None) -> Tensor:
    """Residual blocks one after another, with silence in padding between them."""
    for block in blocks:
        x = kept(block(x, modulation, mask), mask)
    return x


def kept(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (batch, channels, frames) with zeros in padding, where there is a mask (batch, 1, frames)."""
    return x if mask is None else x * mask

"""Which tokens may be drawn, and how often: temperature, top-k (Fan et al. 2018), top-p (nucleus, Holtzman et al. 2020,
arXiv 1904.09751)."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(logits: Tensor, *, temperature: float | Tensor = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """logits (batch, ..., vocabulary), -inf where nothing may be drawn -> probabilities, likewise, in float64.

    temperature: a number or (batch,); 0 leaves the likeliest token alone. Then only the `top_k` likeliest stay (0: all;
    a tie at the border stays in), then only the likeliest that together have the probability `top_p`.
    """
    logits = logits.double()
    if isinstance(temperature, Tensor):
        temperature = temperature.to(logits).reshape(-1, *[1] * (logits.dim() - 1))
    else:
        temperature = logits.new_tensor(temperature)
    likeliest = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    if not temperature.any():
        return likeliest
    logits = logits / torch.where(temperature > 0, temperature, 1.0)
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    chances = logits.softmax(-1)
    if top_p < 1:
        ordered, order = chances.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # the likeliest token has nothing before it, so it always stays
        chances = chances.scatter(-1, order, ordered.masked_fill(before >= top_p, 0.0))
        chances = chances / chances.sum(-1, keepdim=True)
    return torch.where(temperature > 0, chances, likeliest)


def drawn(chances: Tensor, uniform: Tensor) -> Tensor:
    """chances (..., vocabulary), uniform (...) in [0, 1) -> (...) int64: the token at that place of the probability."""
    below = chances.cumsum(-1).contiguous()
    where = (uniform.to(below).unsqueeze(-1) * below[..., -1:]).contiguous()
    return torch.searchsorted(below, where, right=True).squeeze(-1)

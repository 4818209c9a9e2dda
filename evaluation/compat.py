"""How published tools compute their numbers, so that theirs can be met. Ours are not computed so, and here is why not.

| preset | preprocessing | Fréchet distance for N → ∞ | kernel distance |
|---|---|---|---|
| google | no resampling, divided by max(0.1, largest sample), VGGish every 0.5 s | none | none |
| gudgud96 | mean of channels, Kaiser sinc, VGGish every 0.96 s without its last ReLU | none | none |
| fadtk | the same, rounded to 16 bits | 25 sizes, rows drawn WITH replacement | none |
| kadtk | the same, rounded to 16 bits | the same | bandwidth of the EVALUATED set, float32 |

A resample of n rows out of N with replacement has a bias of about c (1/n + 1/N), so the line through such points meets
1/n = 0 at c/N: the "infinite" distance keeps the bias that it should be rid of. A kernel whose bandwidth comes from the
evaluated set grows wider with a worse set, and forgives it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from audiogen.core import rng
from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from evaluation.estimate import checked
from evaluation.frechet import frechet_of_moments
from evaluation.kernel_distance import SCALE, squared_distances
from evaluation.moments import Moments
from evaluation.preprocessing import Preprocessing

SIZES = 25  # subsets of fadtk's extrapolation
SMALLEST = 500  # rows of the smallest


@dataclass(frozen=True)
class Compat:
    """A published tool's way."""

    preprocessing: Preprocessing
    embedder: str = "vggish"
    infinity: bool = False  # it extrapolates, with replacement
    kernel: bool = False  # it has a kernel distance, with the evaluated set's bandwidth


COMPAT: dict[str, Compat] = {
    "google": Compat(Preprocessing(resampler="none", level="google"), embedder="vggish_google"),
    "gudgud96": Compat(Preprocessing(resampler="kaiser")),
    "fadtk": Compat(Preprocessing(resampler="kaiser", level="int16"), infinity=True),
    "kadtk": Compat(Preprocessing(resampler="kaiser", level="int16"), infinity=True, kernel=True),
}


def find_compat(name: str) -> Compat:
    """The preset of that name."""
    if name not in COMPAT:
        raise UserError(f"no compatibility preset is called {name!r}{did_you_mean(name, COMPAT)}")
    return COMPAT[name]


def infinity_with_replacement(reference: Moments, rows: Tensor, *, seed: int = 0) -> float:
    """fadtk's "FAD-inf": the generated rows (n, dim) are drawn anew with replacement at 25 sizes from 500 to n.

    The draws are ours (fadtk's are unseeded), so the value agrees within its scatter only.
    """
    rows = checked(rows)
    if len(rows) < SMALLEST:
        raise UserError(f"fadtk extrapolates from {SMALLEST} rows on; there are {len(rows)}")
    source = rng.generator("with replacement", seed)
    factor = reference.factor()
    points = []
    for size in torch.linspace(SMALLEST, len(rows), SIZES).int().tolist():
        drawn = rows[torch.randint(len(rows), (size,), generator=source)]
        points.append((1.0 / size, frechet_of_moments(reference, Moments.of(drawn), factor_x=factor)))
    x, y = torch.tensor(points, dtype=torch.float64).T
    if float(x.max() - x.min()) == 0.0:
        return float(y.mean())
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return float(y.mean() - slope * x.mean())


def kernel_distance_kadtk(x: Tensor, y: Tensor) -> float:
    """kadtk's kernel distance of the reference x (n, dim) and the evaluated y (m, dim): unbiased, times 100, float32.

    Its bandwidth is the median distance within y, where the paper says x.
    """
    x, y = checked(x).float(), checked(y).float()
    if min(len(x), len(y)) < 2:
        raise UserError(f"a kernel distance needs at least two rows a side, not {len(x)} and {len(y)}")
    width = torch.nn.functional.pdist(y).median()
    scale = -1.0 / (2.0 * width.square() + 1e-8)

    def total(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(scale * squared_distances(a, b)).sum()

    n, m = len(x), len(y)
    within = (total(x, x) - n) / (n * (n - 1)) + (total(y, y) - m) / (m * (m - 1))
    return SCALE * float(within - 2.0 * total(x, y) / (n * m))

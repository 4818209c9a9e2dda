"""Honest scores: every number with its N, its interval, its noise floor and what measured it.

>>> import torch
>>> from evaluation import frechet_distance
>>> x = torch.randn(500, 8)
>>> round(frechet_distance(x, x + 3.0), 6)  # the same covariance, means 3 apart in each of 8 dimensions: 8 * 3²
72.0
"""

from evaluation.frechet import frechet_distance

# Metrics: functions of two feature tensors (rows = windows or clips) -> a number, or a named tuple of numbers.
TABLE = {
    "frechet": "evaluation.frechet:frechet_distance",
    "kernel": "evaluation.kernel_distance:kernel_distance",
    "precision_recall": "evaluation.precision_recall:precision_recall",
    "mauve": "evaluation.mauve:mauve_distance",
}

__all__ = ["TABLE", "frechet_distance"]

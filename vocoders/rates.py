"""Upsampling rates and kernels of a convolutional vocoder, for any sample rate and hop.

A vocoder makes hop_length samples of each mel frame by transposed convolutions, one after the other. Their rates must
multiply to the hop. A kernel that is a multiple of its rate gives every output step equally many inputs, else the
clip carries a tone at the step rate (Odena, Dumoulin and Olah 2016, "Deconvolution and checkerboard artifacts"); a
kernel whose difference to the rate is even can be cropped round its middle, else the clip lies half a step off.

>>> suggest(22050)
Rates(hop_length=256, rates=(8, 8, 2, 2), kernels=(16, 16, 4, 4))
>>> suggest(48000, hop_length=480)
Rates(hop_length=480, rates=(12, 10, 2, 2), kernels=(24, 20, 4, 4))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from audiogen.core.errors import UserError

LARGEST = 12  # a single step that adds 12 times as many samples has little to make them from


class Rates(NamedTuple):
    hop_length: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]


def suggest(sample_rate: int, hop_length: int | None = None, *, stages: int | None = None) -> Rates:
    """What suits this sample rate (Hz) and hop (samples; None: about 11.6 ms, as published models have it).

    stages: how many transposed convolutions; None: 4, fewer below a hop of 64, more where 4 cannot reach it.
    The large rates come first, as in HiFi-GAN V1: its 8, 8, 2, 2 is what a hop of 256 gets.
    """
    if sample_rate <= 0:
        raise UserError(f"sample_rate={sample_rate} must be positive")
    if hop_length is None:
        hop_length = suggest_hop(sample_rate)
    if hop_length < 1:
        raise UserError(f"hop_length={hop_length} must be positive")
    usual = 2 if hop_length < 16 else 3 if hop_length < 64 else 4
    tried = [stages] if stages is not None else [*range(usual, 9), *range(usual - 1, 0, -1)]
    for count in tried:
        if choices := list(_products(hop_length, count)):
            # HiFi-GAN's shape: the first half of the stages makes three quarters of the (logarithmic) way.
            first = (count + 1) // 2
            goal = [0.75 / first] * first + [0.25 / max(count - first, 1)] * (count - first)
            rates = min(choices, key=lambda rates: sum(
                abs(math.log(rate) - part * math.log(hop_length)) for rate, part in zip(rates, goal, strict=True)
            ))
            return Rates(hop_length, rates, tuple(suggest_kernel(rate) for rate in rates))
    near = next(n for step in itertools.count(1) for n in (hop_length - step, hop_length + step) if _smooth(n))
    number = f"{stages} rates" if stages is not None else "rates"
    usual_hop = suggest_hop(sample_rate)
    others = f", or {usual_hop}, which is usual at {sample_rate} Hz" if usual_hop != near else ""
    others += ", or other stages" if stages is not None else ""
    raise UserError(
        f"hop_length={hop_length} is no product of {number} of 2 to {LARGEST}: take hop_length={near}{others}"
    )


def suggest_hop(sample_rate: int) -> int:
    """A hop near 256 samples at 22.05 kHz (11.6 ms) that halves often: 256 to 24 kHz, 512 at 44.1 and 48 kHz."""
    wanted = sample_rate * 256 / 22050
    powers = [2**n * odd for n in range(1, 16) for odd in (1, 3, 5)]
    return min(powers, key=lambda hop: abs(math.log(hop / wanted)) + (0.0 if hop & (hop - 1) == 0 else 0.3))


def suggest_kernel(rate: int) -> int:
    """Twice an even rate, three times an odd one: a multiple of the rate, and kernel - rate is even."""
    return rate * (2 if rate % 2 == 0 else 3)


def check_rates(hop_length: int, rates: Sequence[int], kernels: Sequence[int], *, sample_rate: int) -> None:
    """Raise `UserError` where a vocoder with these would not make hop_length samples a frame, naming what would."""
    rates, kernels = tuple(rates), tuple(kernels)
    problem = None
    if len(rates) != len(kernels):
        problem = f"{len(rates)} rates {rates} need as many kernels, not {len(kernels)} {kernels}"
    elif any(rate < 1 for rate in rates):
        problem = f"rates {rates} must be positive"
    elif math.prod(rates) != hop_length:
        problem = f"rates {rates} multiply to {math.prod(rates)}, not to hop_length={hop_length}"
    else:
        for rate, kernel in zip(rates, kernels, strict=True):
            if kernel < rate:
                problem = f"kernel {kernel} leaves gaps at rate {rate}"
            elif (kernel - rate) % 2 and kernel != 2 * rate:  # twice an odd rate: as published by ParallelWaveGAN
                problem = f"kernel {kernel} cannot be centred at rate {rate}: their difference must be even"
    if problem is None:
        return
    try:
        good = suggest(sample_rate, hop_length)
        hint = f"for hop_length={hop_length} take rates={good.rates}, kernels={good.kernels}"
    except UserError as reason:
        hint = str(reason)
    raise UserError(f"{problem}; {hint}")


def _products(number: int, count: int, largest: int = LARGEST) -> Iterator[tuple[int, ...]]:
    """All ways to write `number` as a product of `count` factors of 2 to `largest`, each way falling."""
    if count == 1:
        if 2 <= number <= largest:
            yield (number,)
        return
    for factor in range(min(largest, number), 1, -1):
        if number % factor == 0:
            for rest in _products(number // factor, count - 1, factor):
                yield (factor, *rest)


def _smooth(number: int) -> bool:
    """Whether a product of rates can make it."""
    if number < 2:
        return False
    for prime in (2, 3, 5, 7, 11):
        while number % prime == 0:
            number //= prime
    return number == 1

"""What is suggested works, is what the published models have, and what does not work is refused with what does."""

from __future__ import annotations

import math

import pytest

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from vocoders.hifigan import HiFiGANConfig
from vocoders.rates import LARGEST, check_rates, suggest, suggest_hop


@pytest.mark.parametrize(
    "sample_rate, hop_length",
    [(rate, hop) for rate in (8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
     for hop in (None, 80, 100, 160, 200, 220, 240, 256, 275, 300, 320, 441, 480, 512, 600, 882, 960, 1024)],
)
def test_what_is_suggested_makes_the_hop_with_centred_kernels(sample_rate: int, hop_length: int | None) -> None:
    found = suggest(sample_rate, hop_length)
    assert hop_length in (None, found.hop_length)
    assert math.prod(found.rates) == found.hop_length and max(found.rates) <= LARGEST
    assert list(found.rates) == sorted(found.rates, reverse=True)
    for rate, kernel in zip(found.rates, found.kernels, strict=True):
        assert kernel % rate == 0 and (kernel - rate) % 2 == 0 and kernel > rate
    check_rates(found.hop_length, found.rates, found.kernels, sample_rate=sample_rate)


@pytest.mark.parametrize("hop_length", range(2, 400))
def test_every_hop_is_either_solved_or_answered_with_one_that_is(hop_length: int) -> None:
    try:
        assert math.prod(suggest(22050, hop_length).rates) == hop_length
    except UserError as error:
        near = int(str(error).split("take hop_length=")[1].split(",")[0])
        assert math.prod(suggest(22050, near).rates) == near
        factors = [n for n in range(2, hop_length + 1) if hop_length % n == 0]
        assert any(n > LARGEST and all(n % m for m in range(2, n)) for n in factors)  # a prime that is too large


def test_the_published_models_get_what_they_have() -> None:
    assert suggest(22050)[:2] == (256, (8, 8, 2, 2)) and suggest(22050).kernels == (16, 16, 4, 4)
    assert suggest(22050, 256, stages=3).rates == (8, 8, 4)  # HiFi-GAN V3
    assert (suggest_hop(24000), suggest_hop(16000), suggest_hop(44100), suggest_hop(48000)) == (256, 256, 512, 512)


def test_a_config_for_any_sample_rate_builds_from_a_suggestion() -> None:
    found = suggest(32000, 320)
    config = HiFiGANConfig(mel=MelFormat(sample_rate=32000, hop_length=320), rates=found.rates, kernels=found.kernels)
    assert config.rates == (10, 8, 2, 2)


@pytest.mark.parametrize(
    "hop_length, rates, kernels, named",
    [(300, (8, 8, 2, 2), (16, 16, 4, 4), r"multiply to 256, not to hop_length=300.*take rates=\(10, 5, 3, 2\)"),
     (16, (8, 2), (15, 4), "kernel 15 cannot be centred at rate 8"), (16, (8, 2), (4, 4), "kernel 4 leaves gaps"),
     (16, (8, 2), (16,), "2 rates"), (16, (-8, -2), (16, 4), "positive"),
     (257, (257,), (3,), "257.*take hop_length=256")],
)
def test_what_cannot_work_is_refused_with_what_can(hop_length: int, rates: tuple, kernels: tuple, named: str) -> None:
    with pytest.raises(UserError, match=named):
        check_rates(hop_length, rates, kernels, sample_rate=24000)


def test_nonsense_is_refused() -> None:
    for arguments in ({"sample_rate": 0}, {"sample_rate": 22050, "hop_length": 0},
                      {"sample_rate": 22050, "hop_length": 256, "stages": 1}):
        with pytest.raises(UserError):
            suggest(**arguments)

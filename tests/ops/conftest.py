"""What the tests of native kernels share: the kernels themselves, at each level of instructions that this CPU has."""

from __future__ import annotations

import os

import pytest

import audiogen.ops  # noqa: F401 (loads the kernels)
from audiogen.ops import build, library

LEVELS = list(build.LEVELS)


@pytest.fixture
def native() -> None:
    """The CPU kernels are loaded; skipped where they cannot be built or are switched off."""
    if os.environ.get("AUDIOGEN_KERNELS") == "off":
        pytest.skip("AUDIOGEN_KERNELS=off")
    try:
        build.compiler()
    except build.CannotBuild as reason:
        pytest.skip(str(reason))
    assert library.loaded("cpu"), "the CPU kernels are not built: python -m audiogen.ops.build (make test does it)"


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, native: None):
    """Runs the test at one level of instructions."""
    if request.param not in library.levels():
        pytest.skip(f"this CPU has no {request.param}")
    before = library.level()
    library.set_level(request.param)
    assert library.level() == request.param
    yield request.param
    library.set_level(before)

"""The processes of a run, before its training begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState


def processes() -> PartialState:
    """accelerate's view of them: the one that `fit` will have.

    Who asks first decides for the whole process, and `PartialState()` by itself overlooks that the environment asks for
    CPUs: each process would believe that it is alone.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))

"""Recipes whose fields and defaults depend on `--preset`, or on the checkpoint that `--init` names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from audiogen.cli import said
from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError


def chosen_preset(words: Sequence[str], known: Iterable[str], default: str) -> str:
    """The preset that the command line names, else the family of the checkpoint after --init, else `default`."""
    preset, init = said(list(words), "--preset"), said(list(words), "--init")
    if preset is None and init is not None and (Path(init) / "config.json").is_file():  # else the recipe says so
        from audiogen.core.checkpoint import read_config

        preset = read_config(init)["name"]
    preset = preset or default
    if preset not in known:
        raise UserError(f"no preset is called {preset!r}{did_you_mean(preset, known)}")
    return preset


def preset_field(known: Iterable[str], preset: str) -> tuple[Any, str]:
    """The field `preset` itself, whose help lists them all."""
    from tyro.conf import arg

    text = f"A family (its small form) or a configuration by name: {', '.join(known)}."
    return Annotated[str, arg(help=text)], preset


def with_fields(recipe: type, fields: Mapping[str, tuple[Any, Any]]) -> type:
    """The dataclass `recipe` with other types and defaults of some fields, name -> (type, default)."""
    made = dataclasses.make_dataclass(
        recipe.__name__, [(name, kind, field(default=value)) for name, (kind, value) in fields.items()],
        bases=(recipe,), frozen=True, namespace={"__doc__": recipe.__doc__},
    )
    made.__module__ = recipe.__module__
    return made

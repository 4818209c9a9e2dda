"""Configurations are frozen dataclasses; here they become JSON and come back, strictly."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, TypeVar

from audiogen.core.errors import UserError

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """Dataclass -> plain JSON values (tuples become lists)."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    return config


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """Plain JSON values -> the dataclass `kind`. An unknown field is an error that names the nearest known one."""
    if not isinstance(values, dict):
        raise UserError(f"{kind.__name__}: expected an object of fields, got {values!r}")
    known = {field.name for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise UserError(f"{kind.__name__} has no field {name!r}{did_you_mean(name, known)}")
    hints = typing.get_type_hints(kind)
    fields = {name: _restore(hints[name], value) for name, value in values.items()}
    try:
        return kind(**fields)
    except TypeError as reason:  # a field is missing, or its own checks meet a value of another type
        raise UserError(f"{kind.__name__}: {reason}") from None


def did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    """'; did you mean "x"?' or, where nothing is near, the whole list."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(repr(word) for word in near) + "?"
    return "; known: " + ", ".join(known) if known else ""


def _restore(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for choice in typing.get_args(hint):
            if isinstance(choice, type) and dataclasses.is_dataclass(choice) and isinstance(value, dict):
                return from_dict(choice, value)
            if typing.get_origin(choice) is tuple and isinstance(value, list):
                return _restore(choice, value)
        return value
    if origin is tuple and isinstance(value, list):
        inner = typing.get_args(hint)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_restore(inner[0], item) for item in value)
        return tuple(_restore(kind, item) for kind, item in zip(inner, value, strict=True))
    return value

"""Names of models -> classes. Each room keeps a TABLE of "name": "module:Class"; nothing is imported until asked for.

This is the only way upstairs: `audiogen` knows the rooms' names and imports none of them itself.
"""

from __future__ import annotations

import importlib
from typing import Any

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError

ROOMS = {
    "composer": "audiogen.composers",
    "generator": "audiogen.generators",
    "vocoder": "vocoders",
    "metric": "evaluation",
    "embedder": "evaluation.embedders",
}


def table(room: str) -> dict[str, str]:
    """name -> "module:Class" of one room."""
    if room not in ROOMS:
        raise UserError(f"no room {room!r}{did_you_mean(room, ROOMS)}")
    return importlib.import_module(ROOMS[room]).TABLE


def resolve(room: str, name: str) -> Any:
    """The class that `name` stands for, e.g. resolve("vocoder", "parallel_wavegan")."""
    entries = table(room)
    if name not in entries:
        raise UserError(f"no {room} is called {name!r}{did_you_mean(name, entries)}")
    module, _, attribute = entries[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def name_of(room: str, cls: type) -> str:
    """The table name of a class: the inverse of `resolve`."""
    target = f"{cls.__module__}:{cls.__qualname__}"
    for name, entry in table(room).items():
        if entry == target:
            return name
    raise UserError(f"{target} has no entry in the TABLE of {ROOMS[room]}")

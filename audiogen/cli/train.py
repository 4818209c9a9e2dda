"""audiogen train RECIPE: what `python recipes/RECIPE.py` does, found by name."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from audiogen.cli import parse_recipe
from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError

USAGE = """\
usage: audiogen train RECIPE [options]      (audiogen train RECIPE --help tells its options)

RECIPE is one of these names, or the path of your own recipe file. On several devices or processes:
accelerate launch recipes/RECIPE.py [options]

recipes:
{recipes}"""


def train(args: list[str]) -> int:
    """The verb: the first word names the recipe, the others are its options."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE.format(recipes=_table()))
        return 0 if args else 2
    name, *rest = args
    if name.startswith("-"):
        raise UserError(f"the recipe comes first: audiogen train RECIPE {name} ...; recipes: {', '.join(recipes())}")
    return parse_recipe(load_recipe(name), rest, prog=f"audiogen train {name}").run()


def recipes() -> dict[str, Path]:
    """Name -> file of every recipe: what defines a class `Recipe`. Other files there are programs that make data."""
    folder = Path(importlib.import_module("recipes").__file__).parent
    return {path.stem: path for path in sorted(folder.glob("*.py"))
            if re.search(r"(?m)^class Recipe\b", path.read_text(encoding="utf-8"))}


def load_recipe(name: str) -> type:
    """The `Recipe` of a recipe's name or file."""
    known = recipes()
    if name in known:
        module = importlib.import_module(f"recipes.{name}")
    elif name.endswith(".py"):
        module = _from_file(Path(name))
    else:
        raise UserError(f"no recipe is called {name!r}{did_you_mean(name, known)}")
    recipe = getattr(module, "Recipe", None)
    if not dataclasses.is_dataclass(recipe) or not callable(getattr(recipe, "run", None)):
        raise UserError(f"{name} is no recipe: it has no dataclass Recipe with a method run")
    return recipe


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    if path in (file.resolve() for file in recipes().values()):
        return importlib.import_module(f"recipes.{path.stem}")
    if not path.is_file():
        raise UserError(f"no recipe file at {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and tyro look their module up here
    try:
        spec.loader.exec_module(module)
    except SyntaxError as reason:
        raise UserError(f"{path}:{reason.lineno} is no Python: {reason.msg}") from None
    return module


def _table() -> str:
    rows = {name: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            for name, path in recipes().items()}
    width = max(map(len, rows), default=0)
    return "\n".join(f"  {name:<{width}}  {line}" for name, line in rows.items())

"""Every recipe tells its options, and the lines in its docstring are lines that it understands."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys

import pytest

from audiogen.cli import parse_recipe
from audiogen.cli.train import load_recipe, recipes

NAMES = list(recipes())
PROGRAMS = sorted(
    path for path in next(iter(recipes().values())).parent.glob("*.py") if path.stem not in (*NAMES, "__init__")
)


def lines(name: str) -> list[list[str]]:
    """The options of each command in the recipe's docstring that calls the recipe itself."""
    found = []
    text = ast.get_docstring(ast.parse(recipes()[name].read_text(encoding="utf-8"))).replace("\\\n", " ")
    for line in text.splitlines():
        line = line.strip().partition("    ")[0].removeprefix("Smoke:").strip().strip("`")
        for start in (f"audiogen train {name}", f"accelerate launch recipes/{name}.py", f"python recipes/{name}.py"):
            if line.startswith(start):
                found.append(shlex.split(line.removeprefix(start), comments=True))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_help_names_what_it_makes_and_its_options(name, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_recipe(load_recipe(name), ["--help"], prog=name)
    said = capsys.readouterr().out
    assert caught.value.code == 0 and "options" in said
    assert ast.get_docstring(ast.parse(recipes()[name].read_text(encoding="utf-8"))).splitlines()[0] in said


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_has_a_launch_line_and_all_its_lines_parse(name):
    found = lines(name)
    assert found, "the docstring of a recipe shows how it is called"
    for words in found:
        recipe = parse_recipe(load_recipe(name), words, prog=name)
        assert callable(recipe.run)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_programs_that_make_data_tell_their_options_and_how_they_are_run(path):
    """Such a program may need an environment of its own, so it runs by itself, and its lines are checked there."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert f"python recipes/{path.name}" in docstring and "Smoke" in docstring
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, cwd=path.parents[1],
                          env={"PYTHONPATH": str(path.parents[1]), "PATH": "/usr/bin:/bin", "COLUMNS": "100"})
    assert done.returncode == 0, done.stderr
    options = {word.rstrip(",").partition("=")[0] for word in done.stdout.split() if word.startswith("--")}
    for line in docstring.splitlines():
        if f"recipes/{path.name}" in line:
            assert {word for word in line.split() if word.startswith("--")} <= options, line

"""Every command in the README and in docs/ is understood by the command line; its Python compiles and resolves."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from audiogen.cli import VERBS, parse, parse_recipe
from audiogen.cli.train import load_recipe, recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"))


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page, "(?:bash|sh|console)"):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.removeprefix("$ ").strip()
                if line and not line.startswith("#"):
                    found.append((page.name, line))
    return found


@pytest.mark.parametrize("page, line", commands(), ids=lambda value: value if isinstance(value, str) else None)
def test_a_command_is_understood(page, line):
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[0] in (".venv/bin/audiogen", "audiogen"):
        understood(words[1:])
    elif words[:2] == ["accelerate", "launch"]:
        recipe = next(word for word in words if word.endswith(".py"))
        understood(["train", str(ROOT / recipe), *words[words.index(recipe) + 1 :]])
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in (word for word in words[1:] if "=" not in word):
            assert re.search(rf"(?m)^{target}:", makefile), f"make has no target {target}"
    elif words[0].endswith("python") and len(words) > 1 and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] in ("git", "cd", "pip", "python3", "lint-imports", "ruff", "pytest", "tensorboard"), line


def understood(words: list[str]) -> None:
    """Parses the words as the command would, without running it."""
    if words[:1] in (["--help"], ["--version"]):
        return
    verb, *rest = words
    assert verb in VERBS
    if verb == "train":
        if rest and "--help" in rest:
            assert rest[0] in recipes()
        elif rest:
            parse_recipe(load_recipe(rest[0]), rest[1:], prog="audiogen train")
        return
    module, _, name = VERBS[verb].target.partition(":")
    assert callable(parse(getattr(__import__(module, fromlist=[name]), name), rest, prog=f"audiogen {verb}").run)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_it_compiles_and_imports_names_that_exist(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = __import__(node.module, fromlist=["x"])
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    __import__(alias.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

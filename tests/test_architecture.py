"""The house stands as docs/architecture.md says: floors, lazy imports, size of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("audiogen", "vocoders", "evaluation", "recipes")
HEAVY = {"torch", "torchaudio", "librosa", "transformers", "matplotlib", "accelerate", "soundfile", "scipy", "numpy"}
LIMIT = 550  # lines: about what one reads in a sitting


def sources(root: Path) -> list[Path]:
    return [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]


def test_imports_go_downstairs(root, monkeypatch):
    """The contracts in pyproject.toml, by import-linter."""
    from importlinter.cli import lint_imports

    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    assert lint_imports(no_cache=True, is_debug_mode=False, show_timings=False) == 0, "run lint-imports to see which"


def test_every_room_stands_on_a_floor(root):
    """A new package below audiogen/ must be given a floor, or the contracts would not see it."""
    contracts = (root / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.importlinter]")[2]
    rooms = [f"audiogen.{path.parent.name}" for path in (root / "audiogen").glob("*/__init__.py")]
    rooms += [f"audiogen.{path.stem}" for path in (root / "audiogen").glob("*.py") if not path.stem.startswith("__")]
    layers = contracts.partition("layers = [")[2].partition("]")[0].replace("(", "").replace(")", "")
    standing = layers.replace('"', " ").replace("|", " ").replace(",", " ").split()
    assert [room for room in rooms if room not in standing] == []


def loaded_by(statement: str, root: Path) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import audiogen", "import audiogen.cli", "import audiogen.core.registry",
                                       "import vocoders, recipes"])
def test_the_front_doors_load_nothing_heavy(root, statement):
    assert loaded_by(statement, root) & HEAVY == set()


def test_help_of_the_command_does_not_wait_for_torch(root):
    assert "torch" not in loaded_by("from audiogen.cli import main; main(['generate', '--help'])", root)


def test_importing_all_modules_prints_nothing_and_leaves_optional_packages_unloaded(root, tmp_path):
    """One process imports every module: no output, no file, no random draw, no setting changed."""
    names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in sources(root)]
    code = f"""
import importlib, os, random, sys, warnings
import numpy, torch
state = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
settings = torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
environment, cwd, filters = dict(os.environ), os.getcwd(), list(warnings.filters)
for name in {names!r}:
    importlib.import_module(name)
assert torch.equal(state[0], torch.get_rng_state()), "torch drew"
assert (state[1], state[2]) == (random.getstate(), numpy.random.get_state()[1].tolist()), "random or numpy drew"
assert settings == (torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled())
loaded = {{name.partition(".")[0] for name in sys.modules}} & {{"librosa", "torchaudio", "transformers", "matplotlib"}}
assert not loaded, f"loaded when nobody asked: {{loaded}}"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                          env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_files_can_be_read_in_a_sitting_and_say_what_they_are(root):
    for path in sources(root):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= LIMIT, f"{path} has more than {LIMIT} lines: split it"
        assert path.name != "utils.py"
        tree = ast.parse(text)
        assert ast.get_docstring(tree) or not tree.body, f"{path} does not say what it is"


def test_nothing_is_left_unfinished(root):
    for path in sources(root):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for word in ("NotImplementedError", "TO" + "DO", "FIX" + "ME", "XXX"):
                assert word not in line, f"{path}:{number}: {word}"


def test_torch_is_the_first_pin_and_every_requirement_has_one(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    assert lines[0] == "torch==2.13.0"
    pins = [line for line in lines[1:] if line and not line.startswith("#")]
    names = {pin.partition("==")[0] for pin in pins} | {"torch"}
    assert all("==" in pin and "://" not in pin and "+" not in pin.partition(";")[0] for pin in pins)
    project = ast.literal_eval(_section(root, "dependencies = [")) + ast.literal_eval(_section(root, "dev = ["))
    for requirement in project:
        name = requirement.split(">")[0].split("=")[0].split("[")[0].strip().replace("_", "-").lower()
        assert name in names, f"{requirement} has no pin in constraints.txt"


def _section(root: Path, start: str) -> str:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    return "[" + text.partition(start)[2].partition("]")[0] + "]"

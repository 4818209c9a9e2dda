"""Processes that load librosa at once make its compiled functions one after the other."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from audiogen.core import librosa_once

# A stand-in that takes a moment to "compile" when the first of its functions is asked for, and says when.
STAND_IN = """
import os, time
def __getattr__(name):
    with open(os.environ["LOG"], "a") as log:
        log.write("begin\\n")
        log.flush()
        time.sleep(0.3)
        log.write("end\\n")
    globals().update(estimate_tuning=1, pyin=1, stft=1, zero_crossings=1)
    return 1
"""
LOAD = "from audiogen.core.librosa_once import load_librosa; assert load_librosa() is load_librosa()"


@pytest.fixture
def site(tmp_path):
    """A folder with the stand-in, to go first on the path."""
    package = tmp_path / "site" / "librosa"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    return package


def environment(root, site, **more):
    return {"PYTHONPATH": f"{site.parent}{os.pathsep}{root}", "LOG": str(site.parent / "log"), "HOME": str(site.parent),
            "PATH": os.environ["PATH"], **more}


def test_three_processes_compile_one_after_the_other(root, site):
    started = [subprocess.Popen([sys.executable, "-c", LOAD], env=environment(root, site)) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert (site.parent / "log").read_text().split() == ["begin", "end"] * 3


def test_the_lock_lies_beside_the_cache_that_it_guards(root, site, tmp_path):
    subprocess.run([sys.executable, "-c", LOAD], env=environment(root, site), check=True)
    assert (site / "__pycache__" / "audiogen_librosa.lock").exists()
    named = tmp_path / "named"
    subprocess.run([sys.executable, "-c", LOAD], env=environment(root, site, NUMBA_CACHE_DIR=str(named)), check=True)
    assert (named / "audiogen_librosa.lock").exists()


def test_an_installation_that_cannot_be_written_is_locked_in_the_users_cache(root, site, tmp_path):
    (site / "__pycache__").write_text("in the way, for root may write anywhere")
    subprocess.run([sys.executable, "-c", LOAD], env=environment(root, site, AUDIOGEN_CACHE=str(tmp_path / "mine")),
                   check=True)
    assert (tmp_path / "mine" / "audiogen_librosa.lock").exists()


def test_a_lock_that_nobody_gives_back_is_not_waited_for_for_ever(root, site):
    from filelock import FileLock

    patience = "from audiogen.core import librosa_once; librosa_once.PATIENCE = 0.2; "
    (site / "__pycache__").mkdir()
    with FileLock(site / "__pycache__" / "audiogen_librosa.lock"):
        subprocess.run([sys.executable, "-c", patience + LOAD], env=environment(root, site), check=True, timeout=60)
    assert (site.parent / "log").read_text().split() == ["begin", "end"]


def test_the_real_one_has_compiled_when_it_is_there(librosa):
    assert "librosa.core.pitch" in sys.modules and librosa is librosa_once.load_librosa()


def test_nobody_imports_librosa_another_way(root):
    own = root / "audiogen" / "core" / "librosa_once.py"
    for folder in ("audiogen", "vocoders", "evaluation", "recipes", "benchmarks", "tests"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [
                    node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if path != own:
                    assert not any(name.split(".")[0] == "librosa" for name in names), \
                        f"{path}:{node.lineno}: load_librosa() instead (in tests: the fixture `librosa`)"

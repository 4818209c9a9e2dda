"""Building and loading: what is there is not made again, and what is not there is told and does no harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from audiogen.core.errors import UserError
from audiogen.ops import build, library


@pytest.fixture
def nothing_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As on a machine where nothing has been built or loaded yet."""
    monkeypatch.setattr(build, "folders", lambda: [tmp_path])
    monkeypatch.setattr(library, "_loaded", {})
    monkeypatch.delenv("AUDIOGEN_KERNELS", raising=False)
    return tmp_path


def test_what_is_built_is_not_built_again(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_run", lambda command: pytest.fail(f"ran {command}"))
    assert build.build("cpu") == library.loaded("cpu")


def test_a_library_is_named_after_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    (tmp_path / "cpu").mkdir()
    source = tmp_path / "cpu" / "one.cpp"
    source.write_text("int one;")
    first = build.file_name("cpu")
    assert build.file_name("cpu") == first
    source.write_text("int two;")
    second = build.file_name("cpu")
    source.rename(source.with_name("two.cpp"))
    assert len({first, second, build.file_name("cpu")}) == 3


def test_a_small_library_is_built_for_every_level_and_replaces_the_older_one(
    native: None, monkeypatch: pytest.MonkeyPatch, nothing_built: Path
) -> None:
    sources = nothing_built / "csrc"
    (sources / "cpu").mkdir(parents=True)
    (sources / "cpu" / "one.isa.cpp").write_text("namespace AUDIOGEN_ISA { int one() { return 1; } }")
    monkeypatch.setattr(build, "SOURCES", sources)
    (nothing_built / "audiogen_cpu.0123456789ab.so").write_bytes(b"old")
    made = build.build("cpu")
    assert list(nothing_built.glob("*.so")) == [made]
    assert build.build("cpu") == made
    assert build.main(["cpu"]) == 0


def test_without_a_compiler_plain_pytorch_serves_and_it_is_told(
    nothing_built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.CannotBuild, match="no C\\+\\+ compiler \\(no-such-compiler\\)"):
        build.build("cpu")
    assert build.main(["cpu", "--if-possible"]) == 0
    assert "plain PyTorch serves instead: no C++ compiler" in capsys.readouterr().err
    assert build.main(["cpu"]) == 2
    library.load()
    assert library.loaded("cpu") is None and "reference" in library.state() and library.levels() == []


def test_a_compiler_that_fails_says_why(nothing_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = nothing_built / "broken"
    broken.write_text("#!/bin/sh\necho 'a.cpp:1: error: it is too old' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(UserError, match="broken failed: a.cpp:1: error: it is too old"):
        build.build("cpu")
    assert not list(nothing_built.glob("*.so"))


def test_kernels_that_are_required_must_be_there(nothing_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOGEN_KERNELS", "require")
    with pytest.raises(UserError, match="python -m audiogen.ops.build"):
        library.load()
    monkeypatch.setenv("AUDIOGEN_KERNELS", "sometimes")
    with pytest.raises(UserError, match="AUDIOGEN_KERNELS=sometimes must be one of off, auto, require"):
        library.load()


def test_a_library_that_does_not_load_is_an_error(nothing_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nothing_built / build.file_name("cpu")).write_bytes(b"not a library")
    with pytest.raises(UserError, match="does not load: .*AUDIOGEN_KERNELS=off"):
        library.load()
    monkeypatch.setenv("AUDIOGEN_KERNELS", "off")
    library.load()
    assert library.loaded("cpu") is None


def test_switched_off_the_ops_are_plain_pytorch(native: None) -> None:
    import torch

    assert library.state().startswith("cpu ")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("audiogen::gated_dilated_layer", "CPU")
    code = (
        "import torch, audiogen.ops as ops; from audiogen.ops import library; print(library.state());"
        "print(torch._C._dispatch_has_kernel_for_dispatch_key('audiogen::gated_dilated_layer', 'CPU'))"
    )
    said = subprocess.run([sys.executable, "-c", code], env={**os.environ, "AUDIOGEN_KERNELS": "off"}, check=True,
                          capture_output=True, text=True).stdout.split("\n")
    assert said[:2] == ["reference (plain PyTorch; AUDIOGEN_KERNELS=off)", "False"]


def test_a_level_that_this_cpu_lacks_is_refused(native: None) -> None:
    with pytest.raises(ValueError, match="no CPU kernels for z80"):
        library.set_level("z80")
    assert library.level() == library.levels()[-1]

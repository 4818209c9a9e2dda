"""Builds the native kernels: `python -m audiogen.ops.build [cpu] [cuda] [--if-possible]`.

The compilers are called directly, on torch's stable ABI headers: seconds a file, and the result loads into any torch
from 2.10 on. A library is named after the hash of its sources and flags, so building again does nothing, and a library
older than its sources is never loaded. It goes beside this file or, where that folder is read-only, into the user's
cache.

Sources in csrc/cpu: `name.cpp` is compiled once; `name.isa.cpp` once for each level below, with -DAUDIOGEN_ISA=<level>
as the namespace of all that it defines. Such files use no templates of the standard library: the linker keeps one copy
of an inline function, and it might keep the one with the instructions that this CPU lacks.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.util
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from audiogen.core.errors import UserError
from audiogen.core.files import cache_folder, first_writable

SOURCES = Path(__file__).parent / "csrc"
PARTS = ("cpu", "cuda")
X86 = platform.machine().lower() in ("x86_64", "amd64")
LEVELS = {
    "portable": (),
    **({
        "avx2": ("-mavx2", "-mfma", "-mf16c"),
        "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
    } if X86 else {}),
}
# AUDIOGEN_EMULATE=avx512 builds, finds and loads another library, whose kernels for AVX-512 run on AVX2: the compiler
# makes each vector of 64 bytes of two, and csrc/cpu/emulated.h the instructions that are named. For tests; it is slow.
EMULATED = X86 and os.environ.get("AUDIOGEN_EMULATE") == "avx512"
if EMULATED:
    LEVELS["avx512"] = (*LEVELS["avx2"], "-DAUDIOGEN_EMULATION")
CPU_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno",
             "-fno-trapping-math", "-Wall", "-Wno-psabi", "-DTORCH_TARGET_VERSION=0x020a000000000000")
CUDA_ARCHITECTURES = ("80", "90a", "100")  # those that nvcc knows; what is newer gets the first one's PTX
CUDA_FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-DUSE_CUDA",
              "-DTORCH_TARGET_VERSION=0x020a000000000000")


class CannotBuild(UserError):
    """This machine lacks what it takes; plain PyTorch serves instead."""


def sources(part: str) -> list[Path]:
    return sorted(path for path in (SOURCES / part).rglob("*") if path.suffix in (".cpp", ".cu", ".h", ".cuh"))


def file_name(part: str) -> str:
    """Name of the library that today's sources and flags make."""
    flags = (LEVELS, CPU_FLAGS) if part == "cpu" else (_architectures(), CUDA_FLAGS)
    digest = hashlib.sha256(repr((flags, sys.platform, platform.machine())).encode())
    for path in sources(part):
        digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{_stem(part)}.{digest.hexdigest()[:12]}.so"


def _stem(part: str) -> str:
    return f"audiogen_{part}_emulated" if EMULATED and part == "cpu" else f"audiogen_{part}"


def folders() -> list[Path]:
    """Where libraries may lie, the first choice first."""
    return [Path(__file__).parent, cache_folder() / "kernels"]


def find(part: str) -> Path | None:
    """The library of today's sources, where it has been built."""
    name = file_name(part)
    return next((folder / name for folder in folders() if (folder / name).is_file()), None)


def build(part: str, *, folder: Path | None = None) -> Path:
    """-> the library; a built one is found and not built again. CannotBuild: no compiler, no torch headers, no folder.

    folder: where it goes, for tests; else the first of `folders()` that can be written to.
    """
    found = find(part) if folder is None else None
    if found:
        return found
    folder, name = folder or _writable(), file_name(part)  # now: sources may be edited while they are compiled
    with tempfile.TemporaryDirectory(prefix="audiogen-build-") as scratch:
        commands, link = (_cpu_commands if part == "cpu" else _cuda_commands)(Path(scratch))
        with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        _run(link)
        made = Path(link[link.index("-o") + 1])
        hidden = folder / f".{name}.{os.getpid()}"
        shutil.copyfile(made, hidden)
        final = hidden.replace(folder / name)
    for old in folder.glob(f"{_stem(part)}.*.so"):
        if old != final:
            old.unlink(missing_ok=True)
    return final


def compiler() -> str:
    """The C++ compiler: $CXX, else the first of g++, clang++, c++."""
    named = os.environ.get("CXX")
    for name in [named] if named else ["g++", "clang++", "c++"]:
        path = shutil.which(name)
        if path:
            return path
    raise CannotBuild(f"no C++ compiler ({named or 'g++, clang++ or c++'}): install one, or name it with CXX=")


def nvcc() -> str:
    """CUDA's compiler: $CUDA_HOME/bin, the path, or its usual place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    for place in (Path(home) / "bin" if home else None, None, Path("/usr/local/cuda/bin")):
        path = shutil.which("nvcc", path=str(place) if place else None)
        if path:
            return path
    raise CannotBuild("no nvcc: install the CUDA toolkit, or name its folder with CUDA_HOME=")


def torch_cuda() -> str | None:
    """The CUDA version that torch was built for, without importing torch."""
    return runpy.run_path(str(_torch() / "version.py")).get("cuda")


def _torch() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise CannotBuild("torch is not installed")
    return Path(spec.submodule_search_locations[0])


def _headers() -> list[str]:
    include = _torch() / "include"
    if not (include / "torch/csrc/stable/library.h").is_file():
        raise CannotBuild(f"torch at {include.parent} comes without its C++ headers")
    return ["-isystem", str(include)]


def _cpu_commands(scratch: Path) -> tuple[list[list[str]], list[str]]:
    if sys.platform not in ("linux", "darwin"):
        raise CannotBuild(f"kernels are built on Linux and macOS, not on {sys.platform}")
    found, headers = compiler(), _headers()
    include = ["-I", str(SOURCES / "cpu")]
    commands, objects = [], []
    for source in sources("cpu"):
        if source.suffix != ".cpp":
            continue
        levels = LEVELS if source.name.endswith(".isa.cpp") else {"": ()}
        for level, flags in levels.items():
            objects.append(str(scratch / f"{source.stem}.{level}.o"))
            isa = [f"-DAUDIOGEN_ISA={level}", *flags] if level else ["-DAUDIOGEN_X86" if X86 else "-DAUDIOGEN_PORTABLE"]
            isa += ["-DAUDIOGEN_EMULATION"] if EMULATED and not level else []
            commands.append([found, *CPU_FLAGS, *isa, *include, *headers, "-c", str(source), "-o", objects[-1]])
    torch = ["-L", str(_torch() / "lib"), "-ltorch_cpu"]
    return commands, [found, "-shared", *objects, *torch, "-o", str(scratch / "audiogen_cpu.so")]


def _architectures() -> tuple[str, ...]:
    """What CUDA code is made for: AUDIOGEN_CUDA_ARCHITECTURES=90a, or 80,90a and so on; a minute each on one core."""
    named = os.environ.get("AUDIOGEN_CUDA_ARCHITECTURES")
    return tuple(named.split(",")) if named else CUDA_ARCHITECTURES


def _cuda_commands(scratch: Path) -> tuple[list[list[str]], list[str]]:
    found, headers = nvcc(), _headers()
    known = subprocess.run([found, "--list-gpu-code"], capture_output=True, text=True, check=False).stdout.split()
    architectures = [name for name in _architectures() if f"sm_{name.rstrip('a')}" in known]  # sm_90a is not listed
    if not architectures:
        raise CannotBuild(f"{found} makes no code for sm_{', sm_'.join(_architectures())}")
    code = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
    code.append(f"-gencode=arch=compute_{architectures[0]},code=compute_{architectures[0]}")
    commands, objects = [], []
    for source in sources("cuda"):
        if source.suffix in (".cu", ".cpp"):
            objects.append(str(scratch / f"{source.stem}.o"))
            commands.append([found, *CUDA_FLAGS, *code, "--threads=0", "-I", str(SOURCES / "cuda"), *headers,
                             "-c", str(source), "-o", objects[-1]])
    # torch's libraries are in the process, but not for all to see: without their names here nothing of theirs is found.
    # A CPU torch, against which the files compile as well, lacks libtorch_cuda; what is made there loads nowhere else.
    libraries = _torch() / "lib"
    torch = ["-L", str(libraries), "-Xlinker", "--no-as-needed", "-ltorch_cpu"]
    torch += ["-ltorch_cuda"] if (libraries / "libtorch_cuda.so").is_file() else []
    return commands, [found, "-shared", "-cudart", "static", *objects, *torch, "-o", str(scratch / "audiogen_cuda.so")]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        first = next((line for line in said.splitlines() if "error" in line), said[:200])
        if os.environ.get("AUDIOGEN_BUILD_VERBOSE"):
            print(" ".join(command), said, sep="\n", file=sys.stderr)
        raise UserError(f"{Path(command[0]).name} failed: {first.strip()} (AUDIOGEN_BUILD_VERBOSE=1 prints all)")


def _writable() -> Path:
    folder = first_writable(folders())
    if folder is None:
        raise CannotBuild(f"none of {', '.join(map(str, folders()))} can be written to")
    return folder


def main(arguments: list[str]) -> int:
    """Builds the parts that are named, else what this machine can use. --if-possible: a failure is told, the code 0."""
    lenient = "--if-possible" in arguments
    parts = [argument for argument in arguments if argument != "--if-possible"]
    if set(parts) - set(PARTS):
        print(f"usage: python -m audiogen.ops.build [{'] ['.join(PARTS)}] [--if-possible]", file=sys.stderr)
        return 2
    code = 0
    for part in parts or (PARTS if torch_cuda() else ("cpu",)):
        if not sources(part):
            continue
        try:
            there = find(part)
            if not there:
                print(f"Building the {part} kernels (once; some seconds) ...", flush=True)
                print(f"Built {build(part)}")
            elif not lenient:
                print(f"Nothing to do: {there}")
        except UserError as reason:
            print(f"No {part} kernels, plain PyTorch serves instead: {reason}", file=sys.stderr)
            code = code if lenient else 2
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

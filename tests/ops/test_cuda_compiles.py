"""Every .cu file compiles for Ampere, Hopper and Blackwell, against the headers of whichever torch is installed."""

from __future__ import annotations

import subprocess

import pytest
from ops.emulation.emulated import CUDA, cached, sources

from audiogen.ops import build

# One type a chip, and no optimisation: each line is compiled by each compiler back end, assembler included, in seconds.
CHIPS = {"80": 1, "90a": 2, "100": 3}


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", sorted(path.stem for path in CUDA.glob("*.cu")))
def test_compiles(name: str, chip: str) -> None:
    try:
        nvcc, headers = build.nvcc(), build._headers()
    except build.CannotBuild as reason:
        pytest.skip(str(reason))
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    if f"sm_{chip.rstrip('a')}" not in known:  # of sm_90a the list says sm_90
        pytest.skip(f"this nvcc does not know sm_{chip}")
    command = [nvcc, *build.CUDA_FLAGS, *headers, "-G", "-w", f"-DAUDIOGEN_ONE_TYPE={CHIPS[chip]}", f"-arch=sm_{chip}",
               "-cubin", str(CUDA / f"{name}.cu"), "-o"]
    made = cached(f"{name}.sm_{chip}", [path for path in sources() if path.suffix == ".cuh" or path.stem == name],
                  command, ".cubin")
    assert made.read_bytes()[:4] == b"\x7fELF"

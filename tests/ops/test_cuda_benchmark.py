"""benchmarks/kernels_cuda.py as far as a CPU goes: every case runs there, on the ops' CPU implementations, in small."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from ops.cuda_kernels import place
from ops.emulation.emulated import CUDA


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "kernels_cuda.py"
    spec = importlib.util.spec_from_file_location("kernels_cuda_benchmark", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SMALL = {"device": "cpu", "size": 64}


def test_rows_count_the_work_of_the_op_and_measure_each_variant(benchmark: ModuleType) -> None:
    rows = benchmark.gated(torch.float32, 8, batch=1, time=64, hop=16, compiled=False, **SMALL)
    assert [row["variant"] for row in rows] == ["mma", "mma", "eager", "eager"]
    # Three taps of 8 x 16, two 1x1 of 8 x 8, two operations each, 64 steps; x and skip come and go.
    assert rows[0]["flop"] == 64 * 2 * (3 * 8 * 16 + 2 * 8 * 8) and rows[0]["bytes"] == 4 * 64 * 8 * 4
    assert rows[1]["op"].endswith("with backward") and rows[1]["flop"] == 3 * rows[0]["flop"]
    assert all(row["seconds"] > 0 and row["share"] > 0 for row in rows)
    rows = benchmark.convolution(torch.float32, 8, batch=1, time=64, compiled=False, **SMALL)
    assert rows[0]["flop"] == 64 * 2 * 3 * 8 * 8 and rows[0]["bytes"] == 2 * 64 * 8 * 4
    rows = benchmark.snake(torch.float32, batch=1, channels=2, time=64, **SMALL)
    assert len(rows) == 8 and {row["variant"] for row in rows} == {"kernel", "eager"}


def test_generation_measures_streams_and_tiles(benchmark: ModuleType) -> None:
    assert [row["variant"] for row in benchmark.generation("float32", layers=2, skip=16, time=3, device="cpu",
                                                           runs=1)] == ["streams"]
    rows = benchmark.generation("int8", layers=2, skip=16, batch=2, time=3, device="cpu", runs=1)
    assert [row["variant"] for row in rows] == ["streams", "tiles"] and rows[1]["agreement"] == 1.0


def test_a_wrong_result_is_not_timed(benchmark: ModuleType) -> None:
    with pytest.raises(AssertionError):
        benchmark.compared("a wrong op", lambda x: x + 1, lambda x: x, torch.zeros(1, 8, 4), flop=1, moved=1,
                           tolerance=0.1, compiled=False, limits=(1.0, 1.0))


def test_ways_are_set_for_the_kernels_and_put_back(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables are those that the kernels read, each way one that they know."""
    monkeypatch.setenv("AUDIOGEN_TENSOR_CORES", "mma")
    with benchmark.chosen("AUDIOGEN_TENSOR_CORES", "wgmma"):
        assert os.environ["AUDIOGEN_TENSOR_CORES"] == "wgmma"
    assert os.environ["AUDIOGEN_TENSOR_CORES"] == "mma"
    monkeypatch.delenv("AUDIOGEN_TENSOR_CORES")
    with benchmark.chosen("AUDIOGEN_TENSOR_CORES", "mma"):
        pass
    assert "AUDIOGEN_TENSOR_CORES" not in os.environ
    source = "".join(path.read_text() for path in CUDA.glob("*.cu*"))
    assert all(f'getenv("{name}")' in source for name in ("AUDIOGEN_TENSOR_CORES", "AUDIOGEN_GENERATION"))


def test_a_chip_without_wgmma_is_told_apart_from_a_failure(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words by which the benchmark knows "not on this chip" are those that the kernel says."""
    where = place("emulated", "dilated_conv1d")
    monkeypatch.setenv("AUDIOGEN_TENSOR_CORES", "wgmma")
    monkeypatch.setenv("AUDIOGEN_EMULATION_CAPABILITY", "80")
    x, weight = torch.zeros(1, 8, 4).half(), torch.zeros(8, 8, 1).half()
    with pytest.raises(RuntimeError, match="needs sm_90"):
        where.run("dilated_conv1d", x, weight, None, 1, True)
    assert '"needs sm_90"' in Path(benchmark.__file__).read_text()

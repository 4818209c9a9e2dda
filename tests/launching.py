"""`accelerate launch` with several processes on CPUs.

accelerate itself starts several only for GPUs (`--cpu` starts one, or needs MPI), so it is told to use its launcher for
those and, in the environment, to keep off the GPUs.

    launching.py PROCESSES VERB ...    behind that launcher: audiogen VERB ..., if so many processes have really started
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def launch(processes: int, *, zero: bool = False) -> list[str]:
    """The command that a program, or -m and a module, are put behind. zero: as recipes/launch/deepspeed.yaml says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kind = ["--config_file", str(ROOT / "recipes" / "launch" / "deepspeed.yaml")] if zero else ["--multi_gpu"]
    return [sys.executable, "-m", "accelerate.commands.launch", *kind, "--num_processes", str(processes),
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", str(port)]


def on_cpus(*, zero: bool = False) -> dict[str, str]:
    """The environment of that command. zero: accelerate must not know that these are CPUs, and DeepSpeed must."""
    kind = {"DS_ACCELERATOR": "cpu"} if zero else {"ACCELERATE_USE_CPU": "true"}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **kind, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


if __name__ == "__main__":
    import accelerate

    assert accelerate.Accelerator().num_processes == int(sys.argv[1])
    from audiogen.cli import main

    sys.exit(main(sys.argv[2:]))

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


def launch(processes: int) -> list[str]:
    """The command that a program, or -m and a module, are put behind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes),
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", str(port)]


def on_cpus() -> dict[str, str]:
    """The environment of that command."""
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[1])}


if __name__ == "__main__":
    import accelerate

    assert accelerate.Accelerator().num_processes == int(sys.argv[1])
    from audiogen.cli import main

    sys.exit(main(sys.argv[2:]))

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


def launch(processes: int, how: str = "ddp") -> list[str]:
    """The command that a program, or -m and a module, are put behind. how: ddp, or as recipes/launch/HOW.yaml says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kind = ["--multi_gpu"] if how == "ddp" else ["--config_file", str(ROOT / "recipes" / "launch" / f"{how}.yaml")]
    return [sys.executable, "-m", "accelerate.commands.launch", *kind, "--num_processes", str(processes),
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", str(port)]


def on_cpus(how: str = "ddp") -> dict[str, str]:
    """The environment of that command. For FSDP2 and DeepSpeed accelerate must not know that these are CPUs, which is
    what training/cpus_as_devices.py is for."""
    kind = {"ACCELERATE_USE_CPU": "true"} if how == "ddp" else {"DS_ACCELERATOR": "cpu"}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **kind, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


if __name__ == "__main__":
    import accelerate

    assert accelerate.Accelerator().num_processes == int(sys.argv[1])
    from audiogen.cli import main

    sys.exit(main(sys.argv[2:]))

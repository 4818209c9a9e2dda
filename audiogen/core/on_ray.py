"""Run a function over many tasks on a Ray cluster: the other backend of `core/parallel.py`.

Ray starts a process for each task's core, moves work off nodes that die, and says which task killed its process. Every
node needs this package, and sees the files under the same paths.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from audiogen.core.errors import UserError

AHEAD = 4  # tasks that wait for each core of the cluster: enough to keep it busy, few enough for the driver's memory
KNOCK = 10.0  # seconds that a cluster's address has to answer
RETRIES = 2  # of a task whose node or process died; after them its result is `crashed`


def on_ray(
    function: Callable[[Any], Any], tasks: Sequence[Any], *, address: str, crashed: Any,
    done: Callable[[int, Any], None] = lambda index, result: None,
) -> list[Any]:
    """[function(task) for task in tasks], in this order; one core a task.

    address: "auto" (the cluster that this machine belongs to), "host:port", or "local" (a cluster of this machine
    alone, started and stopped here). done: called with (index, result), in order of completion. What `function` raises
    is raised here, and stops the rest. Raises `UserError` where Ray or the cluster is not there.
    """
    with cluster(address) as ray:
        remote = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(_call)
        results: list[Any] = [None] * len(tasks)
        waiting = iter(enumerate(tasks))
        running: dict[Any, int] = {}
        lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError)
        while True:
            for index, task in waiting:
                running[remote.remote(function, task)] = index
                if len(running) >= AHEAD * max(int(ray.cluster_resources().get("CPU", 1)), 1):
                    break
            if not running:
                return results
            for reference in ray.wait(list(running), num_returns=1)[0]:
                index = running.pop(reference)
                try:
                    results[index] = ray.get(reference)
                except lost:
                    results[index] = crashed
                except ray.exceptions.RayTaskError as reason:
                    for other in running:
                        ray.cancel(other, force=True)
                    raise (reason.cause if isinstance(reason.cause, Exception) else reason) from None
                done(index, results[index])


def _call(function: Callable[[Any], Any], task: Any) -> Any:
    return function(task)


@contextmanager
def cluster(address: str) -> Iterator[ModuleType]:
    """Ray's module, connected to the cluster; one that is connected already stays so."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # says nothing of devices that nobody asked for
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs the package ray: pip install 'audiogen[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    host, colon, port = address.rpartition(":")
    if colon and "/" not in address:  # Ray itself would knock for minutes
        try:
            socket.create_connection((host, int(port)), timeout=KNOCK).close()
        except (OSError, ValueError) as reason:
            raise _nobody(address, reason) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False
                 if address == "local" else None)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as reason:
        raise _nobody(address, reason) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _nobody(address: str, reason: Exception) -> UserError:
    said = [line for line in str(reason).strip().splitlines() if line] or [type(reason).__name__]
    return UserError(f"--ray {address}: no Ray cluster answers there ({said[0].rstrip('.')}); start one with: "
                     "ray start --head, or name its address")

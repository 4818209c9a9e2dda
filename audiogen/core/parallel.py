"""Run a function over many tasks on all cores, or on a Ray cluster; survive a task that kills its process, and Ctrl-C.

One interface, two backends: `parallel(..., workers=4)` and `parallel(..., ray="auto")` (core/on_ray.py).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel(
    function: Callable[[Any], Any], tasks: Sequence[Any], *, workers: int = 1, crashed: Any,
    done: Callable[[int, Any], None] = lambda index, result: None, preload: Sequence[str] = (),
    ray: str | None = None,
) -> list[Any]:
    """[function(task) for task in tasks], in this order, by `workers` processes (1: in this one).

    function: a module-level one, for the processes are new. done: called with (index, result), in order of completion.
    A task whose process dies (a decoder may crash on a malicious file) has the result `crashed`: what was running at
    that moment is run again one by one, to find out which task it was. preload: modules that the workers need, loaded
    once for all of them where the system allows it. ray: the address of a cluster that does the work in place of this
    machine, however many `workers`.
    """
    if ray is not None:
        from audiogen.core.on_ray import on_ray

        return on_ray(function, tasks, address=ray, crashed=crashed, done=done)
    results: list[Any] = [None] * len(tasks)

    def finish(index: int, result: Any) -> None:
        results[index] = result
        done(index, result)

    if workers <= 1:
        for index, task in enumerate(tasks):
            finish(index, function(task))
        return results
    waiting, suspects = deque(range(len(tasks))), deque()
    while waiting or suspects:
        queue, width, ahead = (suspects, 1, 1) if suspects else (waiting, workers, 4 * workers)
        running: dict[Any, int] = {}
        before = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(width, _context([function.__module__, *preload]), initializer=_start_worker,
                                   initargs=(dict(os.environ),))
        try:
            while queue or running:
                while queue and len(running) < ahead:
                    with _without_script(function):
                        future = pool.submit(function, tasks[queue[0]])  # a broken pool raises: the task stays queued
                    running[future] = queue.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()  # raises where a process died: the task stays among the running
                    finish(running.pop(future), result)
            pool.shutdown()
        except BrokenProcessPool:
            if width == 1:
                for index in running.values():
                    finish(index, crashed)
            else:
                suspects.extend(sorted(running.values()))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()  # Ctrl-C: do not finish an hour's file first
            raise
    return results


_template: set[str] = set()  # modules that the fork server was told to load


def warm() -> bool:
    """Whether a template of the workers is loaded, so that new ones start within a tenth of a second."""
    return bool(_template)


def _context(modules: Sequence[str]) -> Any:
    """How processes start: on Linux as copies of one clean process that has loaded the modules (torch takes seconds),
    which is no copy of this one with its threads; elsewhere anew."""
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    if not _template:
        _template.update(modules)
        context.set_forkserver_preload([name for name in modules if name not in ("builtins", "__main__")])
    return context


@contextmanager
def _without_script(function: Callable[[Any], Any]) -> Iterator[None]:
    """New processes started meanwhile do not run the user's script, as they otherwise do before all else.

    A script of three lines that calls `evaluate` has no `if __name__ == "__main__"`; every worker would evaluate again,
    and die of it. Only a function of the script itself needs the script.
    """
    script = sys.modules["__main__"]
    if function.__module__ == "__main__":
        yield
        return
    hidden = {name: getattr(script, name) for name in ("__file__", "__spec__") if hasattr(script, name)}
    try:
        script.__spec__ = None
        if "__file__" in hidden:
            del script.__file__
        yield
    finally:
        for name, value in hidden.items():
            setattr(script, name, value)


def _start_worker(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)  # the template's may be older
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write to stderr about every damaged frame


def _leave_with_parent() -> None:
    """A parent that was killed outright cannot end its workers, which would wait for its next task for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

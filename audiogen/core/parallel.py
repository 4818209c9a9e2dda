"""Run a function over many tasks on all cores; survive a task that kills its process, and Ctrl-C, cleanly."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel(
    function: Callable[[Any], Any], tasks: Sequence[Any], *, workers: int, crashed: Any,
    done: Callable[[int, Any], None] = lambda index, result: None,
) -> list[Any]:
    """[function(task) for task in tasks], in this order, by `workers` processes (1: in this one).

    function: a module-level one, for processes are spawned. done: called with (index, result), in order of completion.
    A task whose process dies (a decoder may crash on a malicious file) has the result `crashed`: what was running at
    that moment is run again one by one, to find out which task it was.
    """
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
        pool = ProcessPoolExecutor(width, multiprocessing.get_context("spawn"), initializer=_start_worker)
        try:
            while queue or running:
                while queue and len(running) < ahead:
                    future = pool.submit(function, tasks[queue[0]])  # may find the pool broken: the task stays queued
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


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write to stderr about every damaged frame

"""A run that stands still says so: every process writes down where it stands, and the slowest one is named.

Each process has a heartbeat file, RUN/heartbeats/rank_N, with its step and what it is doing, and a thread that looks
at the clock. Where nothing has moved for `stall` seconds the thread writes the stacks of all threads to
RUN/stalls/rank_N.txt, without help from the (stuck) main thread, and tells which process is furthest behind: the others
wait for it. After twice as long the process ends itself, since whoever waits in a collective cannot be woken: a
scheduler can start the run again, from its last state.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from pathlib import Path

from audiogen.core.files import whole_file

STALLED = 75  # exit code, EX_TEMPFAIL of sysexits.h: try again
# In the order of a step: of two processes in the same step, the one that does the earlier thing is behind.
PHASES = ("start", "data", "forward", "synchronise", "save", "demo")


class Watchdog:
    """`beat(step, phase)` from the main thread; `close()` at the end. `stall` seconds, 0 for none."""

    def __init__(self, run: Path, *, rank: int, world: int, stall: float) -> None:
        self.run, self.rank, self.world, self.stall = run, rank, world, stall
        self.at: tuple[int, str] = (0, "start")
        self.since = time.monotonic()
        self.told = False
        self._written = 0.0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if stall > 0:
            self._write()
            self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
            self._thread.start()

    def beat(self, step: int, phase: str) -> None:
        """Something moves."""
        self.at, self.since, self.told = (step, phase), time.monotonic(), False
        if self._thread is not None and self.since - self._written > min(5.0, self.stall / 10):
            self._write()

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            self._file().unlink(missing_ok=True)

    def _file(self) -> Path:
        return self.run / "heartbeats" / f"rank_{self.rank}"

    def _write(self) -> None:
        self._written = time.monotonic()
        try:
            with whole_file(self._file()) as part:
                part.write_text(json.dumps({"step": self.at[0], "phase": self.at[1], "pid": os.getpid()}))
        except OSError:  # a full disk must not end a run that only wants to say that it is alive
            pass

    def _look(self) -> None:
        while not self._closed.wait(min(1.0, self.stall / 10)):
            still = time.monotonic() - self.since
            if still > self.stall and not self.told:
                self.told = True
                self._write()
                self._dump(still)
            if still > 2 * self.stall:
                print(f"process {self.rank} ends itself: nothing has moved for {still:.0f} s. The same command goes on "
                      "from the last state", file=sys.stderr, flush=True)
                os._exit(STALLED)

    def _dump(self, still: float) -> None:
        folder = self.run / "stalls"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / f"rank_{self.rank}.txt", "w") as file:
                file.write(f"process {self.rank}: nothing has moved for {still:.0f} s, at step {self.at[0]}, "
                           f"{self.at[1]}\n\n")
                file.flush()
                faulthandler.dump_traceback(file=file, all_threads=True)
        except OSError as reason:
            print(f"process {self.rank} cannot write its stacks: {reason}", file=sys.stderr, flush=True)
        time.sleep(min(2.0, self.stall / 5))  # the others write their heartbeats now
        print(f"nothing has moved for {still:.0f} s; {self._slowest()}. Where each process stands: {folder}/",
              file=sys.stderr, flush=True)

    def _slowest(self) -> str:
        places = []
        for rank in range(self.world):
            try:
                values = json.loads((self.run / "heartbeats" / f"rank_{rank}").read_text())
                places.append((values["step"], PHASES.index(values["phase"]), rank, values["phase"]))
            except (OSError, ValueError, KeyError):
                return f"process {rank} has left no sign of life"
        step, _, rank, phase = min(places)
        return f"process {rank} is furthest behind, at step {step}, {phase}"

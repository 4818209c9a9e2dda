"""All tasks come back in their order, whatever dies or is interrupted on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from audiogen.core.parallel import parallel


def test_a_task_that_kills_its_process_is_found_and_the_others_are_done():
    tasks = ["1 + 1", "__import__('os')._exit(1)", "2 + 2", "3 + 3"]
    seen = {}
    assert parallel(eval, tasks, workers=2, crashed="crashed", done=seen.__setitem__) == [2, "crashed", 4, 6]
    assert seen == {0: 2, 1: "crashed", 2: 4, 3: 6}


def test_ctrl_c_ends_at_once_with_all_its_processes():
    program = (
        "from audiogen.core.parallel import parallel\n"
        "if __name__ == '__main__':\n"
        "    tasks = ['__import__(\"os\").getpid()'] + ['__import__(\"time\").sleep(60)'] * 4\n"
        "    parallel(eval, tasks, workers=2, crashed=None, done=lambda i, pid: print(pid, flush=True))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdout.readline()  # the pool is at work
    started = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)  # returns when every process that holds the pipe is gone
    assert time.monotonic() - started < 20 and child.returncode != 0 and "KeyboardInterrupt" in said


def test_a_script_without_a_guard_is_not_run_again_by_its_workers(tmp_path):
    script = tmp_path / "short.py"
    script.write_text("from audiogen.core.parallel import parallel\n"
                      "print('once', parallel(eval, ['1 + 1', '2 + 2', '3 + 3'], workers=2, crashed='crashed'))\n"
                      "print(__file__, __spec__)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.stdout.splitlines() == ["once [2, 4, 6]", f"{script} None"], done.stderr


def test_workers_of_a_parent_that_was_killed_leave_too():
    program = (
        "from audiogen.core.parallel import parallel\n"
        "tasks = ['__import__(\"os\").getpid()'] + ['__import__(\"time\").sleep(60)'] * 4\n"
        "parallel(eval, tasks, workers=2, crashed=None, done=lambda i, pid: print(pid, flush=True))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child.stdout.readline()  # the pool is at work
    started = time.monotonic()
    child.kill()
    child.communicate(timeout=50)  # returns when every process that holds the pipe is gone
    assert time.monotonic() - started < 40

from __future__ import annotations

import dataclasses
import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

import audiogen.cli as cli
from audiogen.cli import VERBS, Verb, guarded, main, parse, recipe_main
from audiogen.core.errors import UserError


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], []])
def test_help_lists_every_verb_and_examples_that_name_real_verbs(audiogen, words):
    said = audiogen(*words)
    assert said.code == (0 if words else 2) and said.err == ""
    for name, verb in VERBS.items():
        assert f"  {name}" in said.out and verb.help in said.out
    examples = [line.split() for line in cli.EXAMPLES.splitlines()]
    assert len(examples) > 3 and all(line[0] == "audiogen" and line[1] in VERBS for line in examples)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_its_options_with_examples(audiogen, verb):
    for words in ([verb, "--help"], ["help", verb]):
        said = audiogen(*words)
        assert said.code == 0 and said.err == ""
        assert f"usage: audiogen {verb}" in said.out
        assert verb == "train" or f"audiogen {verb} " in said.out.split("options")[0].partition("usage")[2], "examples"


def test_version(audiogen):
    assert audiogen("--version").out.startswith("audiogen 0.")


@pytest.mark.parametrize("words, said", [
    (["generat"], "there is no verb 'generat'; did you mean generate"),
    (["xyzzy"], "there is no verb 'xyzzy'; the verbs are generate, "),
    (["--hlp"], "there is no option '--hlp'"),
    (["generate", "rain", "--secnds", "8"], "has no option --secnds; did you mean --seconds"),
    (["generate", "rain", "--check_point=x"], "did you mean --checkpoint"),
    (["generate", "rain", "--zzz"], "has no option --zzz; see audiogen generate --help"),
    (["generate", "rain", "--seconds", "eight"], "--seconds: 'eight' is no FLOAT (see audiogen generate --help)"),
    (["generate", "rain", "--seconds"], "--seconds"),
    (["again"], "CLIP"),
    (["info", "extra"], "does not know what to do with 'extra'"),
    (["train", "--steps", "3"], "the recipe comes first"),
])
def test_what_cannot_be_understood_is_one_line_and_exit_code_2(audiogen, words, said):
    result = audiogen(*words)
    assert result.code == 2 and result.out == ""
    assert result.err.startswith("audiogen: ") and result.err.count("\n") == 1
    assert said in result.err
    assert not set("╭╮╰╯│") & set(result.err)


@dataclass(frozen=True)
class Inner:
    width: int = 1

    def __post_init__(self):
        if self.width < 1:
            raise UserError(f"width={self.width} must be positive")


@dataclass(frozen=True)
class Options:
    """What it does.

    examples:
      options --inner.width 3
    """

    size_ms: float
    inner: Inner = dataclasses.field(default_factory=Inner)
    loud: bool = False


def test_options_come_from_the_fields_of_a_dataclass():
    values = parse(Options, ["--size-ms", "2.5", "--inner.width", "3", "--loud"], prog="options")
    assert values == Options(2.5, Inner(3), True)


@pytest.mark.parametrize("words, said", [
    ([], "size-ms"),
    (["--size-ms", "1", "--inner.wdith", "3"], "no option --inner.wdith; did you mean --inner.width"),
    (["--size-ms", "1", "--inner.width", "-3"], "width=-3 must be positive"),
])
def test_errors_of_nested_options_name_them(words, said):
    with pytest.raises(UserError) as caught:
        parse(Options, words, prog="options")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_help_keeps_the_examples_of_the_docstring(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(Options, ["--help"], prog="options")
    assert caught.value.code == 0
    assert "examples:\n  options --inner.width 3" in capsys.readouterr().out


def _raising(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize("error, code, said", [
    (UserError("bpm=-1: choose 20 to 400"), 2, "audiogen: bpm=-1: choose 20 to 400\n"),
    (UserError("two\nlines"), 2, "audiogen: two lines\n"),
    (OSError(errno.ENOSPC, "No space left on device", "/out/a.wav"), 1, "/out/a.wav: No space left on device; free"),
    (PermissionError(errno.EACCES, "Permission denied", "/out/a.wav"), 1, "audiogen: /out/a.wav: Permission denied\n"),
    (KeyboardInterrupt(), 130, "audiogen: interrupted"),
    (MemoryError(), 1, "out of memory; ask for fewer --seconds"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 1, "out of memory"),
    (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division by zero (--debug"),
    (BrokenPipeError(), 0, ""),
    (SystemExit(3), 3, ""),
    (SystemExit(None), 0, ""),
])
def test_every_failure_has_its_exit_code_and_one_line(capfd, error, code, said):
    assert guarded(_raising(error)) == code
    err = capfd.readouterr().err
    assert said in err and err.count("\n") == (1 if said else 0)


@pytest.mark.parametrize("error", [UserError("x"), OSError("x"), ZeroDivisionError("x")])
def test_debug_lets_the_traceback_through(error):
    with pytest.raises(type(error)):
        guarded(_raising(error), debug=True)


def test_debug_works_in_any_place(monkeypatch):
    monkeypatch.setitem(VERBS, "generate", Verb("audiogen.no_such_module:X", ""))
    for words in (["--debug", "generate"], ["generate", "--debug"]):
        with pytest.raises(ModuleNotFoundError):
            main(words)


def test_letters_that_the_terminal_lacks_do_not_stop_the_work(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert guarded(lambda: print("Größe 琴") or 0) == 0
    assert raw.getvalue() == b"Gr\\xf6\\xdfe \\u7434\n"


def test_a_recipe_file_is_a_program_with_its_docstring_as_help(tmp_path):
    recipe = tmp_path / "my_recipe.py"
    recipe.write_text(textwrap.dedent('''
        """My recipe makes numbers.

        Smoke: python my_recipe.py --steps 2
        """
        from dataclasses import dataclass
        from audiogen.cli import recipe_main

        @dataclass(frozen=True)
        class Recipe:
            steps: int = 1
            def run(self) -> int:
                print("steps", self.steps)
                return 0 if self.steps < 9 else 5

        if __name__ == "__main__":
            recipe_main(Recipe)
    ''').lstrip())

    def call(*words):
        return subprocess.run([sys.executable, recipe, *words], capture_output=True, text=True, env=ENV)

    assert (call("--steps", "3").stdout, call("--steps", "3").returncode) == ("steps 3\n", 0)
    assert call("--steps", "9").returncode == 5
    assert "Smoke: python my_recipe.py --steps 2" in call("--help").stdout
    wrong = call("--step", "3")
    assert wrong.returncode == 2 and wrong.stderr.startswith("audiogen: my_recipe.py has no option --step")


def test_recipe_main_reads_the_command_line_and_exits(monkeypatch, capsys):
    @dataclass(frozen=True)
    class Recipe:
        steps: int = 1

        def run(self) -> int:
            raise UserError(f"steps={self.steps}")

    monkeypatch.setattr(sys, "argv", ["recipes/x.py", "--steps", "4"])
    with pytest.raises(SystemExit) as caught:
        recipe_main(Recipe)
    assert caught.value.code == 2 and capsys.readouterr().err == "audiogen: steps=4\n"


ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

SLOW_WRITER = """
import sys, time
from audiogen.cli import guarded
from audiogen.core.files import whole_file
def run():
    with whole_file(sys.argv[1]) as part:
        part.write_text("half")
        print("writing", flush=True)
        time.sleep(30)
sys.exit(guarded(run))
"""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_terminate_leave_nothing_half_written(tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, tmp_path / "a.txt"], env=ENV, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == "writing\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == code and "Traceback" not in err and err.count("\n") <= 1
    assert os.listdir(tmp_path) == []


def test_a_reader_that_leaves_early_is_no_error():
    code = "import sys; from audiogen.cli import guarded; sys.exit(guarded(lambda: print('x\\n' * 10**6) or 0))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(timeout=10) == 0
    process.stderr.close()

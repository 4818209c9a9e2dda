"""The command line: verbs are frozen dataclasses with `run() -> int`; tyro reads their fields as options.

A verb's module is imported when the verb is called, so `audiogen --help` is there at once. What goes wrong ends here:
one clear line and an exit code (2: something the person can put right, 1: the machine or a bug, 130: Ctrl-C).
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import importlib
import inspect
import io
import os
import re
import signal
import sys
import threading
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from audiogen import __version__
from audiogen.core.errors import UserError


class Verb(NamedTuple):
    target: str  # "module:Class", a dataclass with run(); or a function of the remaining arguments
    help: str


VERBS = {
    "generate": Verb("audiogen.cli.generate:Generate", "make clips from prompts"),
    "again": Verb("audiogen.cli.again:Again", "make a clip again from what is written inside it"),
    "edit": Verb("audiogen.cli.edit:Edit", "a part of a recording made anew"),
    "extend": Verb("audiogen.cli.edit:Extend", "a recording that goes on after its end, or begins earlier"),
    "enhance": Verb("audiogen.cli.enhance:Enhance", "a noisy or dull recording made clean and full"),
    "vocode": Verb("audiogen.cli.vocode:Vocode", "audio or mel spectrograms through the vocoder"),
    "mix": Verb("audiogen.cli.mix:Mix", "a sound between two sounds, by an autoencoder's latents"),
    "convert": Verb("audiogen.cli.convert:Convert", "a vocoder as its authors published it -> a checkpoint"),
    "export": Verb("audiogen.cli.export:Export", "a vocoder as ONNX or as a torch.export program"),
    "compose": Verb("audiogen.cli.compose:Compose", "write the score of a prompt as MIDI"),
    "scan": Verb("audiogen.cli.scan:Scan", "list a folder of audio for training: durations, loudness, labels, rejects"),
    "pack": Verb("audiogen.cli.pack:Pack", "a manifest -> shards of audio, mels or latents for fast training"),
    "render": Verb("audiogen.cli.render:Render", "play scores with real instruments: pairs of notes and audio"),
    "train": Verb("audiogen.cli.train:train", "train a generator or a vocoder by a recipe"),
    "evaluate": Verb("audiogen.cli.evaluate:Evaluate", "score generated audio against a reference folder"),
    "compare": Verb("audiogen.cli.compare:Compare", "which of two sets of clips is nearer to a reference"),
    "embed": Verb("audiogen.cli.embed:Embed", "embed a folder, or a shard of it, into a file that evaluate takes"),
    "merge": Verb("audiogen.cli.embed:Merge", "add up embedded shards"),
    "weights": Verb("audiogen.cli.weights:Weights", "published weights of the embedders: list, fetch, convert"),
    "info": Verb("audiogen.cli.info:Info", "versions, machine, checkpoints and their styles"),
}

EXAMPLES = """\
  audiogen generate "slow felt piano, melancholic" --seconds 8
  audiogen generate rain "lively bagpipe jig" -n 3 --seed 7 -o clips/
  audiogen again clips/rain-7.wav
  audiogen scan my_sounds/ -o manifest.jsonl
  audiogen evaluate real/ clips/"""


def main(args: Sequence[str] | None = None) -> int:
    """The `audiogen` command. Returns the exit code; errors of the person or the machine are one line on stderr."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    return guarded(lambda: _dispatch([word for word in words if word != "--debug"]), debug=debug)


def recipe_main(recipe: type, args: Sequence[str] | None = None) -> NoReturn:
    """What a recipe file calls when it is run as a program: options from the dataclass `recipe`, then its `run()`."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    sys.exit(guarded(lambda: parse_recipe(recipe, words, prog=os.path.basename(sys.argv[0])).run(), debug=debug))


def said(words: list[str], option: str) -> str | None:
    """The value of an option on the command line; tyro takes - and _ alike."""
    words = [word.replace("_", "-") if word.startswith("--") and "=" not in word else word for word in words]
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def parse_recipe(recipe: type, args: Sequence[str], *, prog: str) -> Any:
    """A recipe from its options; its module's docstring (what it makes, launch and smoke lines) is the help text.

    Where fields and defaults depend on an option (a preset), the recipe's `specialise(words)` gives the class to fill.
    """
    if hasattr(recipe, "specialise"):
        recipe = recipe.specialise(args)
    return parse(recipe, args, prog=prog, description=inspect.getdoc(sys.modules[recipe.__module__]))


def parse(
    kind: type, args: Sequence[str], *, prog: str, description: str | None = None, markers: Sequence[Any] = ()
) -> Any:
    """The dataclass `kind` from command-line words. Raises `UserError` of one line; --help prints and exits with 0."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            values, unknown = tyro.cli(
                kind, prog=prog, description=description or inspect.getdoc(kind), args=list(args),
                return_unknown_args=True, config=(tyro.conf.FlagCreatePairsOff, *markers),
            )
    except SystemExit as exit:
        if not exit.code:
            raise
        raise UserError(f"{_one_line(said.getvalue())} (see {prog} --help)") from None
    sys.stderr.write(said.getvalue())
    options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    if options:
        spelt, asked = dict(_options(kind)), options[0].replace("_", "-")
        near = [asked] if asked in spelt else difflib.get_close_matches(asked, list(spelt), n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(spelt[name] for name in near)}?" if near else f"see {prog} --help"
        raise UserError(f"{prog} has no option {options[0]}; {hint}")
    if unknown:
        raise UserError(f"{prog} does not know what to do with {unknown[0]!r}; see {prog} --help")
    return values


def guarded(run: Callable[[], int], *, debug: bool = False) -> int:
    """Run, and turn what goes wrong into one line on stderr and an exit code. `debug` lets the traceback through."""
    try:
        with _terminated_cleanly(), warnings.catch_warnings():
            _say_anything(sys.stdout, sys.stderr)
            if not debug:
                warnings.showwarning = _warn
            code = run()
            sys.stdout.flush()
            return code
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BrokenPipeError:  # `audiogen ... | head`: nobody reads on, which is no error
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        if debug:
            raise
        return _fail("interrupted; nothing half-written was left behind", 130)
    except UserError as reason:
        if debug:
            raise
        return _fail(" ".join(str(reason).split()), 2)
    except OSError as reason:
        if debug:
            raise
        return _fail(_os_error(reason), 1)
    except Exception as reason:
        if debug:
            raise
        return _fail(_unexpected(reason), 1)


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"audiogen {__version__}")
        return 0
    name, *rest = words
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the verbs are {', '.join(VERBS)}"
        raise UserError(f"there is no {'option' if name.startswith('-') else 'verb'} {name!r}; {hint}")
    module, _, attribute = VERBS[name].target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if dataclasses.is_dataclass(target):
        from tyro.conf import DisallowNone  # an option of a verb is left out, never given as "None"

        return parse(target, rest, prog=f"audiogen {name}", markers=(DisallowNone,)).run()
    return target(rest)


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items())
    return (
        f"audiogen {__version__}: your folder of sounds -> your generator -> your vocoder -> honest scores.\n\n"
        f"usage: audiogen VERB [options]      (audiogen VERB --help tells its options)\n\n"
        f"verbs:\n{verbs}\n\nexamples:\n{EXAMPLES}\n\n"
        f"--debug with any verb shows the traceback of an error; --version the version."
    )


def _options(kind: type, prefix: str = "", behind: str = "") -> Iterator[tuple[str, str]]:
    """The long options of a dataclass, nested ones with dots (--data.root), and how each is written: those of a part
    that may be absent stand behind the word that chooses it, as in `model.coarse:gated-config --model.coarse.width`."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, hint = f"{prefix}{field.name.replace('_', '-')}", hints[field.name]
        parts = [part for part in typing.get_args(hint) if dataclasses.is_dataclass(part)]
        if dataclasses.is_dataclass(hint):
            yield from _options(hint, f"{name}.", behind)
        elif len(parts) == 1:
            chosen = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", parts[0].__name__).lower()
            yield f"--{name}", f"{name}:{chosen}"
            yield from _options(parts[0], f"{name}.", f"{behind}{name}:{chosen} ")
        else:
            yield f"--{name}", f"{behind}--{name}"


def _one_line(box: str) -> str:
    """tyro's framed error as one line: without the frame, the title and the help text of the argument."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    said = []
    for line in lines[1:]:
        if line.startswith(("For full helptext", "Argument helptext")):
            break
        said.append(line)
    text = " ".join(" ".join(said).split()) or " ".join(box.split())
    return re.sub(r"no type matching (\S+) could be instantiated from \['(.*?)'\].*", r"'\2' is no \1", text)


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"audiogen: {message}", file=sys.stderr, flush=True)
    return code


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    text = " ".join(str(message).split())
    print(f"audiogen: warning: {text}" if category is UserWarning else f"audiogen: {category.__name__}: {text}",
          file=sys.stderr, flush=True)


def _os_error(reason: OSError) -> str:
    where = f"{reason.filename}: " if reason.filename else ""
    if reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{where}{reason.strerror}; free some space, or write somewhere else, and run it again"
    return f"{where}{reason.strerror or reason}"


def _unexpected(reason: Exception) -> str:
    text = " ".join(str(reason).split())
    memory = isinstance(reason, MemoryError) or type(reason).__name__ == "OutOfMemoryError"
    if memory or "can't allocate memory" in text or "not enough memory" in text:
        return "out of memory; ask for fewer --seconds, a smaller batch, or close other programs"
    return f"unexpected {type(reason).__name__}: {text[:300]} (--debug shows where; please report it)"


def _say_anything(*streams: Any) -> None:
    """Prompts and paths may hold letters that the terminal cannot show; that must not stop the work."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """SIGTERM unwinds like an exception, so part files are removed; a training loop may install its own handler."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

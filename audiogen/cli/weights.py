"""audiogen weights: the embedders' published weights: listed, fetched, or turned from pickles into safetensors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Weights:
    """List, get or convert the published weights of the embedders.

    Nothing is fetched unless it is asked for here. Each file comes from the address of its authors, and has its name
    only when its sha256 is the one in our table; a download that broke off goes on where it was. Pickles are read as
    tensors alone, without running what they hold, and kept as safetensors.

    examples:
      audiogen weights list
      audiogen weights get yamnet musicnn
      audiogen weights convert pytorch_model.bin -o mert/model.safetensors
    """

    what: Annotated[Positional[Literal["list", "get", "convert"]], arg(metavar="list|get|convert")] = "list"
    """What to do."""
    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME|FILE ...]", help_behavior_hint="")] = ()
    """Embedders whose weights to get, or torch files to convert."""
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="PATH", help_behavior_hint="(default: see list)")] = None
    """Where they go; of converted ones, the file (default: model.safetensors beside each)."""

    def run(self) -> int:
        from evaluation.weights import convert_pickle, find_weights, get_weights, own_folder

        if self.what == "list":
            if self.names:
                raise UserError(f"audiogen weights list takes no names; to fetch, audiogen weights get {self.names[0]}")
            return _list(self.out or own_folder())
        if not self.names:
            raise UserError(f"audiogen weights {self.what}: name {'an embedder' if self.what == 'get' else 'a file'}")
        if self.what == "convert":
            if self.out is not None and len(self.names) > 1:
                raise UserError(f"{self.out} is one file, {len(self.names)} are to be converted: leave -o out")
            for name in self.names:
                target = self.out or Path(name).with_name("model.safetensors")
                print(f"{target}: {convert_pickle(Path(name), target)} tensors")
            return 0
        for name in self.names:
            find_weights(name)  # an unknown name is an error before the first is fetched
        for name in self.names:
            print(f"{name}: {find_weights(name).megabytes}, licence {find_weights(name).licence}", flush=True)
            for path in get_weights(name, self.out or own_folder(), step=_bar()):
                print(f"  {path}")
        return 0


def _list(folder: Path) -> int:
    from rich.console import Console
    from rich.table import Table

    from evaluation.weights import BY_HAND, WEIGHTS

    table = Table(title=f"published weights; here: {folder}", title_justify="left")
    for name in ("name", "size", "licence", "here", "from"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for name, weights in WEIGHTS.items():
        names = ["model.safetensors" if file.name == weights.pickle else file.name for file in weights.files]
        there = all((folder / weights.folder / file).is_file() for file in names)
        table.add_row(name, weights.megabytes, weights.licence, "yes" if there else "", weights.files[-1].url)
    for name, where in BY_HAND.items():
        table.add_row(name, "", "", "by hand", where)
    Console().print(table)
    return 0


def _bar() -> Callable[[int, int], None]:
    """A line that is written over on a terminal, nothing elsewhere."""
    def step(done: int, whole: int) -> None:
        if sys.stderr.isatty():
            print(f"\r  {done / 1e6:.1f} of {whole / 1e6:.1f} MB", end="" if done < whole else "\n", file=sys.stderr,
                  flush=True)

    return step

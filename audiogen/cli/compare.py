"""audiogen compare: which of two sets of clips is nearer to a reference, and whether the clips can show it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Compare:
    """Compare the clips of A and of B against one REFERENCE, and say which differences are real.

    Prints both Fréchet distances and their difference with its own 95 % interval: clips of the same name in A and B
    (the same prompts) are compared as pairs, which is far sharper than two intervals side by side.

    examples:
      audiogen compare run1/ run2/ --reference real/
      audiogen compare run1/ run2/ --reference real/ -e musicnn yamnet -o compared.json
    """

    a: Annotated[Positional[Path], arg(metavar="A", help_behavior_hint="")]
    """Folder of clips, or a manifest."""
    b: Annotated[Positional[Path], arg(metavar="B", help_behavior_hint="")]
    """Another folder of clips."""
    reference: Annotated[Path, arg(metavar="FOLDER", help_behavior_hint="")]
    """Folder of real audio, or a manifest."""
    embedder: Annotated[tuple[str, ...], arg(aliases=["-e"], metavar="NAME [NAME ...]")] = ("melstats",)
    """melstats, musicnn, yamnet, vggish, panns, clap, ...; several measure side by side."""
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Where the result is written as JSON."""
    weights: Annotated[tuple[str, ...], arg(metavar="[NAME=]PATH [...]",
                                            help_behavior_hint="(default: $AUDIOGEN_WEIGHTS)")] = ()
    """Folder of the embedders' weight files, or an embedder's own file or folder as NAME=PATH."""
    max_rejects: Annotated[float, arg(aliases=["--max-skip"])] = 0.01
    """The share of files that may be unusable before it is an error."""
    no_cache: bool = False
    """Do not keep embeddings in the user's cache folder."""

    def run(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from audiogen.core.files import whole_file
        from evaluation.compare import compare
        from evaluation.embedders.base import parse_weights

        result = compare(self.a, self.b, self.reference, embedders=self.embedder, weights=parse_weights(self.weights),
                         cache=None if self.no_cache else "default", max_rejects=self.max_rejects)
        clips = result["clips"]
        table = Table(title=f"Fréchet distance to {self.reference} ({clips['reference']} clips)", title_justify="left")
        for name in ("embedder", f"A ({clips['a']})", f"B ({clips['b']})", "A - B", "95 % interval", ""):
            table.add_column(name)
        for row in result["embedders"]:
            low, high = row["interval_95"] or (None, None)
            table.add_row(row["embedder"], f"{row['a']:.4g}", f"{row['b']:.4g}", f"{row['difference']:+.4g}",
                          "" if low is None else f"{low:+.4g} to {high:+.4g}", row["verdict"])
        console = Console()
        console.print(table)
        console.print("clips of the same names were compared as pairs" if result["paired"] else
                      "the two folders hold different names: compared as independent sets")
        if self.out is not None:
            with whole_file(self.out) as part:
                part.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            console.print(f"written to {self.out}")
        return 0

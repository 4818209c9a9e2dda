"""audiogen scan: a folder of audio -> a manifest to train on, with the rejects, and a page to look at and listen to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Scan:
    """Measure every audio file of a folder, collect its tags and split the files into train, valid and test.

    Reads WAV, FLAC, OGG, Opus, MP3 and AIFF of any rate; nothing in the folder is changed. Tags come from the first
    of: a .json beside the file, a .txt, a metadata.csv in its folder or above (columns file, label, caption, split,
    source_group, licence, ...), the tags inside the file, the folders' names. A MIDI file of the same name is its
    score.
    Files that cannot be used are listed with their reasons in rejects.jsonl beside the manifest.

    examples:
      audiogen scan my_sounds/
      audiogen scan my_sounds/ -o data/manifest.jsonl --html data/sounds.html
      audiogen scan recordings/ --source stem --valid 0.05 --test 0.05 --strict
    """

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """The folder of sounds; folders in it are read too, hidden ones not."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE")] = Path("manifest.jsonl")
    """The manifest. Rejects go beside it: rejects.jsonl, or NAME.rejects.jsonl for another NAME.jsonl."""
    html: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Also write a page with histograms, rejects, duplicates and players of random clips."""
    clips: Annotated[int, arg(metavar="INT")] = 24
    """Clips to listen to on the page, spread over the styles."""
    embed: bool = False
    """Put the clips' sound into the page (small OGG data), so that the page can be sent to somebody."""
    workers: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: one a core)")] = None
    """Processes."""
    ray: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="(default: this machine)")] = None
    """Address of a Ray cluster that does the work (auto: the one that is running); all its machines see the folder."""
    valid: Annotated[float, arg(metavar="SHARE")] = 0.1
    """Share of the sources for the valid split, where no metadata gives a split."""
    test: Annotated[float, arg(metavar="SHARE")] = 0.1
    """Share of the sources for the test split, likewise."""
    seed: int = 0
    """Of the split and of the choice of clips."""
    source: Literal["file", "stem", "folder"] = "file"
    """What one recording is, where no metadata has a source_group: every file, the files of a folder whose names differ
    in the number at the end only, or the whole folder. One recording is never on two sides of the split."""
    min_seconds: Annotated[float, arg(metavar="SECONDS")] = 0.05
    """Shorter files are rejected."""
    min_rate: Annotated[int, arg(metavar="HZ")] = 4000
    """Files of a lower sample rate are rejected."""
    min_peak_db: Annotated[float, arg(metavar="DBFS")] = -60.0
    """Files whose peak is lower are rejected as silent."""
    equal_only: bool = False
    """Only files with equal samples count as duplicates; skips comparing how the files sound."""
    strict: bool = False
    """Exit with an error where more than 1 % of the files are rejected (the manifest is written all the same)."""

    def run(self) -> int:
        from rich.console import Console

        from audiogen.data.measure import Limits
        from audiogen.data.scan import scan, summary

        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers {self.workers} must be at least 1")
        if self.clips < 0:
            raise UserError(f"--clips {self.clips} must not be negative")
        for file in (self.out, self.html):
            if file is not None and file.is_dir():
                raise UserError(f"{file} is a folder: name a file in it")
        console = Console(stderr=False, highlight=False)
        result = scan(
            self.folder, workers=self.workers, limits=Limits(self.min_seconds, self.min_rate, self.min_peak_db),
            valid=self.valid, test=self.test, seed=self.seed, source=self.source,
            near_duplicates=not self.equal_only, console=console if console.is_terminal else None,
            ray=self.ray,
        )
        rejects = result.write(self.out)
        for part in summary(result):
            console.print(part, soft_wrap=isinstance(part, str))
        written = f"{self.out}   rejects: {rejects}" if result.rejects else f"{self.out}"
        console.print(written, soft_wrap=True, markup=False)
        if self.html is not None:
            from audiogen.data.page import write_page

            write_page(self.html, result, clips=self.clips, embed=self.embed, seed=self.seed)
            console.print(f"{self.html}", soft_wrap=True, markup=False)
        if self.strict and result.rejected_share > 0.01:
            raise UserError(f"{len(result.rejects)} files were rejected ({result.rejected_share:.1%}, and --strict "
                            f"allows 1 %): see {rejects}")
        return 0

"""audiogen evaluate: generated audio against a reference folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Evaluate:
    """Score the clips of GENERATED against those of REFERENCE (real audio, best held out from training).

    Prints every distance with its interval, beside a floor (one half of the reference against the other half) and
    anchors (what noise, a low-pass, and silence score); -o writes all of it with its provenance as JSON, and the clips
    one by one as CSV beside it. melstats needs no weights and compares nothing but your own runs; musicnn and yamnet
    need their published weight files.

    examples:
      audiogen evaluate real/ clips/
      audiogen evaluate real/ clips/ --embedder musicnn yamnet --weights ~/weights -o result.json
      audiogen evaluate real.npz clips/ --metrics fad_inf kernel --fail-if "fad_inf.hi > 3.0"
      audiogen evaluate manifest.jsonl runs/mine/model --split test --samples 200 --seconds 8
    """

    reference: Annotated[Positional[Path], arg(metavar="REFERENCE", help_behavior_hint="")]
    """Folder of real audio, a manifest that `audiogen scan` wrote, or a file that `audiogen embed` wrote."""
    generated: Annotated[Positional[Path], arg(metavar="GENERATED", help_behavior_hint="")]
    """Folder of generated audio, a manifest, a file of embeddings, or a checkpoint to sample from (default: ours)."""
    embedder: Annotated[tuple[str, ...], arg(aliases=["-e"], metavar="NAME [NAME ...]")] = ("melstats",)
    """melstats, musicnn, yamnet, vggish, panns, clap, ...; several measure side by side."""
    metrics: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint="(default: all)")] = ()
    """frechet fad_inf kernel precision recall density coverage mauve inception kl."""
    fail_if: Annotated[tuple[str, ...], arg(metavar="CONDITION [CONDITION ...]", help_behavior_hint="")] = ()
    """Exit with 3 where a condition is true, e.g. "fad_inf.hi > 3.0" (.value .lo .hi .se)."""
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Where the result is written as JSON."""
    compat: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: ours)")] = None
    """Compute as google, gudgud96, fadtk or kadtk do, to meet published numbers (docs/evaluation.md)."""
    training: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: none)")] = None
    """What the generator was trained on: look for copied passages, and for clips that are too near to it."""
    split: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: all)")] = None
    """Of a manifest as REFERENCE: train, valid or test."""
    samples: int = 64
    """Clips to sample from a checkpoint; they are kept in the user's cache folder."""
    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the styles)")] = None
    """What to sample a checkpoint with, as of audiogen generate; else the reference's styles that it knows."""
    seconds: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: 8)")] = None
    """Length of sampled clips."""
    html: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Where a page is written, with charts and players of the best and worst clips; one file, no network."""
    weights: Annotated[tuple[str, ...], arg(metavar="[NAME=]PATH [...]",
                                            help_behavior_hint="(default: $AUDIOGEN_WEIGHTS)")] = ()
    """Folder of the embedders' weight files, or an embedder's own file or folder as NAME=PATH."""
    short: Literal["reject", "pad"] = "reject"
    """Clips of less than one window of the embedder: reject and list them, or pad them with silence."""
    max_rejects: Annotated[float, arg(aliases=["--max-skip"])] = 0.01
    """The share of files that may be unusable before it is an error."""
    paired: bool = False
    """GENERATED are copies of REFERENCE's clips of the same names (by a vocoder, a codec): score pair by pair."""
    speech: bool = False
    """With --paired: PESQ, STOI and DNSMOS too, which mean nothing for other sounds."""
    listen: bool = False
    """Measure tempo and key of clips that carry what was asked for (clips made by audiogen do)."""
    no_anchors: bool = False
    """Do not score known damage to the reference."""
    no_cache: bool = False
    """Do not keep embeddings in the user's cache folder ($AUDIOGEN_CACHE), where they are found again by content."""
    threads: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """CPU cores to use (default: all)."""

    def run(self) -> int:
        import torch
        from rich.console import Console

        from evaluation.conditions import Condition
        from evaluation.embedders.base import parse_weights
        from evaluation.report import evaluate, print_result, write_result
        from evaluation.score import METRICS

        if not 0.0 <= self.max_rejects <= 1.0:
            raise UserError(f"--max-rejects {self.max_rejects} must be a share between 0 and 1")
        if self.threads is not None:
            if self.threads < 1:
                raise UserError(f"--threads {self.threads} must be at least 1")
            torch.set_num_threads(self.threads)
        if self.paired:
            return self._pairs()
        if self.speech:
            raise UserError("--speech belongs to --paired")
        conditions = [Condition.parse(text) for text in self.fail_if]
        notes = Console(stderr=True)
        reference, generated = self._sets(lambda line: notes.print(line, style="dim", markup=False))
        result = evaluate(
            reference, generated, embedders=self.embedder, weights=parse_weights(self.weights),
            short=self.short, max_rejects=self.max_rejects, metrics=self.metrics or tuple(METRICS),
            anchors=not self.no_anchors, cache=None if self.no_cache else "default", training=self.training,
            compat=self.compat, listen=self.listen, workers=self.threads,
            say=lambda line: notes.print(line, style="dim", markup=False),
        )
        print_result(result)
        if self.out is not None:
            write_result(result, self.out)
            print(f"written to {self.out}")
        if self.html is not None:
            from evaluation.page import write_page

            write_page(result, self.html, generated=generated)
            print(f"written to {self.html}")
        failures = [line for condition in conditions for line in condition.met(result)]  # after all is written
        for line in failures:
            print(f"audiogen: failed: {line}", file=sys.stderr)
        return 3 if failures else 0

    def _sets(self, say: Callable[[str], None]) -> tuple[Any, Any]:
        """What is compared: listings of files, or paths of summaries; a checkpoint is sampled first."""
        from audiogen.cli.sampled import is_checkpoint, sample_clips
        from evaluation.listing import Listing

        if self.reference.suffix == ".npz" and self.split is not None:
            raise UserError(f"--split {self.split} belongs to a manifest, and {self.reference} is none")
        reference = (self.reference if self.reference.suffix == ".npz" else
                     Listing.of(self.reference, split=self.split))
        if is_checkpoint(self.generated):
            styles = reference.styles.values() if isinstance(reference, Listing) else ()
            return reference, sample_clips(self.generated, prompts=self.prompts, count=self.samples,
                                           seconds=self.seconds, wanted=tuple(styles), say=say)
        for name, value in (("--prompts", self.prompts), ("--seconds", self.seconds)):
            if value is not None:
                raise UserError(f"{name} belongs to a checkpoint to sample from, and {self.generated} is none")
        return reference, self.generated

    def _pairs(self) -> int:
        import json

        from rich.console import Console

        from audiogen.core.files import whole_file
        from evaluation.embedders.base import parse_weights
        from evaluation.paired import evaluate_pairs, print_pairs

        for name, value in (("--fail-if", self.fail_if), ("--metrics", self.metrics), ("--html", self.html),
                            ("--compat", self.compat), ("--training", self.training), ("--listen", self.listen),
                            ("--split", self.split), ("--prompts", self.prompts)):
            if value:
                raise UserError(f"{name} has no meaning with --paired")
        notes = Console(stderr=True)
        result = evaluate_pairs(
            self.reference, self.generated, speech=self.speech, weights=parse_weights(self.weights),
            max_rejects=self.max_rejects, workers=self.threads,
            say=lambda line: notes.print(line, style="dim", markup=False),
        )
        print_pairs(result)
        if self.out is not None:
            with whole_file(self.out) as part:
                part.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"written to {self.out}")
        return 0

"""audiogen embed and merge: a folder's embeddings as one small file that adds up, for sets spread over machines."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Embed:
    """Embed the clips of FOLDER, or of a manifest, and write what every distance needs as one file (.npz, a few MB).

    `audiogen evaluate` takes such files in place of folders. With --shard i/n only every n-th clip is embedded: run the
    n shards wherever you like, then `audiogen merge` them. The result does not depend on n. Under `accelerate launch`
    every process embeds a part, and the first writes the sum.

    examples:
      audiogen embed real/ -o real.npz
      accelerate launch -m audiogen embed real/ -o real.npz
      audiogen embed real/ -o real.npz --ray auto
      audiogen embed real/ --shard 1/4 -o real-1.npz
      audiogen merge real-1.npz real-2.npz real-3.npz real-4.npz -o real.npz
      audiogen evaluate real.npz clips/
    """

    folder: Annotated[Positional[Path], arg(metavar="FOLDER", help_behavior_hint="")]
    """Folder of audio, or a manifest that `audiogen scan` wrote."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.npz", help_behavior_hint="")]
    """Where the embeddings go."""
    embedder: Annotated[str, arg(aliases=["-e"], metavar="NAME")] = "melstats"
    """melstats, musicnn, yamnet, vggish, panns, clap, ..."""
    shard: Annotated[str, arg(metavar="I/N")] = "1/1"
    """Which part of the folder, counted from 1."""
    weights: Annotated[tuple[str, ...], arg(metavar="[NAME=]PATH [...]",
                                            help_behavior_hint="(default: $AUDIOGEN_WEIGHTS)")] = ()
    """Folder of the embedders' weight files, or an embedder's own file or folder as NAME=PATH."""
    short: Literal["reject", "pad"] = "reject"
    """Clips of less than one window of the embedder: reject and list them, or pad them with silence."""
    max_rejects: Annotated[float, arg(aliases=["--max-skip"])] = 0.01
    """The share of files that may be unusable before it is an error."""
    ray: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="(default: this machine)")] = None
    """A Ray cluster that does the work: auto, HOST:PORT, or local. Its nodes read FOLDER under the same path."""
    no_cache: bool = False
    """Do not keep embeddings in the user's cache folder."""

    def run(self) -> int:
        from evaluation.cache import EmbeddingCache, default_cache
        from evaluation.clips import check_clips
        from evaluation.embedders.base import load_embedder, parse_weights
        from evaluation.processes import joined, together
        from evaluation.report import summarise
        from evaluation.summary import Summary

        match = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"--shard {self.shard} must be I/N with 1 <= I <= N, e.g. 2/4")
        _npz(self.out)
        weights = parse_weights(self.weights)
        if self.ray is not None:
            return self._on_ray(weights)
        model = load_embedder(self.embedder, weights=weights)
        index, shards = int(match[1]) - 1, int(match[2])
        with joined() as (rank, world), EmbeddingCache(":memory:" if self.no_cache else default_cache()) as store:
            def part() -> Summary:
                clips = check_clips(
                    self.folder, shortest=model.window if self.short == "reject" else 0.0,
                    max_rejects=self.max_rejects, shard=(index * world + rank, shards * world), store=store,
                    embedders=(model,), pad=self.short == "pad", weights=weights)
                return summarise(clips, model, store, pad=self.short == "pad")

            summary = together(part)
        if rank == 0:
            summary.save(self.out)
            _say(self.out, summary)
        return 0

    def _on_ray(self, weights: dict[str, Path] | None) -> int:
        from evaluation.cluster import embed_on_ray

        if self.shard != "1/1":
            raise UserError("--shard has no meaning with --ray, which cuts the folder into parts itself")
        summary = embed_on_ray(
            self.folder, self.out, address=self.ray, embedder=self.embedder, weights=weights, pad=self.short == "pad",
            max_rejects=self.max_rejects, say=lambda line: print(line, file=sys.stderr, flush=True))
        _say(self.out, summary)
        return 0


@dataclass(frozen=True)
class Merge:
    """Add up the files that `audiogen embed` wrote, in any order: shards of one set, or several sets.

    examples:
      audiogen merge part-*.npz -o all.npz
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE [FILE ...]", help_behavior_hint="")]
    """Files of the same embedder."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.npz", help_behavior_hint="")]
    """Where the sum goes."""

    def run(self) -> int:
        from evaluation.summary import Summary, merged

        _npz(self.out)
        total = merged(Summary.load(path) for path in self.files)
        total.save(self.out)
        print(f"{self.out}: {int(total.counts['clips'])} clips, {int(total.counts['windows'])} windows")
        return 0


def _say(out: Path, summary: Any) -> None:
    print(f"{out}: {int(summary.counts['clips'])} clips, {int(summary.counts['windows'])} windows, "
          f"{len(summary.rejects)} rejected")


def _npz(path: Path) -> None:
    if path.suffix != ".npz":
        raise UserError(f"-o {path} must end in .npz")

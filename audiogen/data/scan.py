"""A folder of sounds -> a manifest: measured, tagged, split by source, and nothing dropped without its reason."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiogen.core.errors import UserError
from audiogen.core.files import whole_file
from audiogen.core.parallel import cores, parallel
from audiogen.data import duplicates
from audiogen.data.manifest import Entry, Manifest, write_manifest
from audiogen.data.measure import SUFFIXES, BadFile, Limits, Measured, measure
from audiogen.data.tags import Cascade, Said

if TYPE_CHECKING:
    from rich.console import Console

OTHER_AUDIO = (".m4a", ".aac", ".wma", ".mp4", ".mka", ".webm", ".ape", ".wv", ".ac3", ".dsf", ".amr")
BYTES_FOR_A_POOL = 4_000_000  # less than this is scanned before a pool of processes has started


@dataclass(frozen=True)
class Reject:
    path: str
    reason: str


@dataclass
class ScanResult:
    """What a scan found. `manifest` has its entries in the order of their paths, whatever the number of workers."""

    manifest: Manifest
    rejects: list[Reject]
    problems: list[str] = field(default_factory=list)  # things that were ignored: a broken sidecar, an unknown split
    ignored: Counter = field(default_factory=Counter)  # suffix -> files that are no audio
    workers: int = 1
    wall_seconds: float = 0.0

    @property
    def rejected_share(self) -> float:
        return len(self.rejects) / max(1, len(self.rejects) + len(self.manifest))

    @property
    def speed(self) -> float:
        """Seconds of sound per second."""
        return self.manifest.seconds / max(self.wall_seconds, 1e-9)

    def write(self, out: str | Path) -> Path:
        """Write the manifest to `out`, and the rejects beside it (`rejects_path`). Returns the rejects' path.

        Raises `UserError` where nothing is left to write a manifest of; the rejects are written first.
        """
        path = rejects_path(out)
        with whole_file(path) as part, open(part, "w", encoding="utf-8") as file:
            for reject in self.rejects:
                file.write(json.dumps({"path": reject.path, "reason": reject.reason}, ensure_ascii=False) + "\n")
        if not self.manifest:
            first = self.rejects[0]
            raise UserError(f"all {len(self.rejects)} audio files of {self.manifest.root} were rejected "
                            f"(the first: {first.path}: {first.reason}); see {path}")
        write_manifest(out, self.manifest, root=self.manifest.root)
        return path


def rejects_path(out: str | Path) -> Path:
    """manifest.jsonl -> rejects.jsonl, piano.jsonl -> piano.rejects.jsonl, in the same folder."""
    out = Path(out)
    return out.with_name("rejects.jsonl" if out.stem == "manifest" else f"{out.stem}.rejects.jsonl")


def scan(
    folder: str | Path, *, workers: int | None = None, limits: Limits | None = None,
    valid: float = 0.1, test: float = 0.1, seed: int = 0, source: str = "file", near_duplicates: bool = True,
    console: Console | None = None, ray: str | None = None,
) -> ScanResult:
    """Measure every audio file under `folder` and say what is known about it. Files are only read.

    workers: processes; None for one a core.
    valid, test: shares of the sources for these splits, where no split is given by the files' metadata.
    source: what a recording is where no metadata tells: "file" (every file for itself), "stem" (files of one folder
        whose names differ only in a number at the end) or "folder".
    near_duplicates: also compare how files sound, not only whether their samples are equal.
    console: where a progress bar is shown; None for none.
    ray: address of a Ray cluster that measures and compares, in place of processes here; all of it sees the folder.
    Raises `UserError` where the folder is missing or has no audio in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder at {folder}" if not folder.exists() else f"{folder} is a file: give its folder")
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise UserError(f"valid={valid} and test={test} must be shares of the whole that leave something for train")
    if source not in ("file", "stem", "folder"):
        raise UserError(f"source={source!r} must be 'file', 'stem' or 'folder'")
    started = time.perf_counter()
    root = folder.absolute()
    paths, foreign, ignored = _find(root)
    if not paths and not foreign:
        seen = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in ignored.most_common(5))
        raise UserError(f"no audio files under {folder}{f' (there are {seen})' if seen else ''}; "
                        f"audio files end in {' '.join(SUFFIXES)}")
    sizes = [path.stat().st_size if path.exists() else 0 for path in paths]
    if workers is None:
        workers = cores() if sum(sizes) > BYTES_FOR_A_POOL else 1
    workers = max(1, min(workers, len(paths)))

    limits = limits or Limits()
    with _progress(console, "measuring", sizes) as done:
        found = parallel(_measure_task, [(path, limits) for path in paths], workers=workers,
                         crashed="unreadable: the decoder crashed", done=done, ray=ray)
    rejects = [Reject(_relative(path, root), reason) for path, reason in zip(paths, found, strict=True)
               if isinstance(reason, str)]
    rejects += [Reject(_relative(path, root), f"{path.suffix} files are not supported: convert it to FLAC or WAV")
                for path in foreign]
    good = [(path, measured) for path, measured in zip(paths, found, strict=True) if isinstance(measured, Measured)]

    cascade = Cascade(root)
    said = [cascade(path, measured.embedded) for path, measured in good]
    first = _duplicates(good, workers if near_duplicates else 0, console, ray)
    sources = [what.source or _source(path, root, source) for what, (path, _) in zip(said, good, strict=True)]
    seconds = [measured.seconds for _, measured in good]
    splits = _splits(sources, first, said, seconds, valid, test, seed, cascade.problems)
    entries = tuple(
        _entry(path, measured, what, root, sources[i], splits[i], good[first[i]][0] if first[i] != i else None)
        for i, ((path, measured), what) in enumerate(zip(good, said, strict=True))
    )
    return ScanResult(Manifest(entries, root), sorted(rejects, key=lambda reject: reject.path), cascade.problems,
                      ignored, workers, time.perf_counter() - started)


def _find(root: Path) -> tuple[list[Path], list[Path], Counter]:
    """Audio files, audio files of formats that cannot be read, and the suffixes of the rest; hidden ones left out."""
    audio, foreign, ignored = [], [], Counter()
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                audio.append(Path(folder, name))
            elif suffix in OTHER_AUDIO:
                foreign.append(Path(folder, name))
            else:
                ignored[suffix] += 1
    return sorted(audio, key=lambda p: p.as_posix()), sorted(foreign), ignored


def _measure_task(task: tuple[Path, Limits]) -> Measured | str:
    path, limits = task
    try:
        return measure(path, limits)
    except BadFile as reason:
        return str(reason)


def _entry(
    path: Path, measured: Measured, said: Said, root: Path, source: str, split: str, original: Path | None
) -> Entry:
    return Entry(
        path=_relative(path, root), seconds=measured.seconds, sample_rate=measured.sample_rate,
        channels=measured.channels, loudness=measured.loudness, peak_db=measured.peak_db,
        clipped=round(measured.clipped, 8), silent=round(measured.silent, 4), hash=measured.hash,
        text=said.text, tags=said.tags, styles=said.styles,
        score=_relative(Path(said.score), root) if said.score else None,
        source=source, split=split, duplicate_of=_relative(original, root) if original else None,
    )


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _source(path: Path, root: Path, how: str) -> str:
    name = path.relative_to(root)
    if how == "folder":
        return name.parent.as_posix()
    stem = name.with_suffix("").as_posix()
    if how == "stem":
        return stem.rstrip("0123456789").rstrip(" _-.(#") or stem
    return stem


def _duplicates(
    good: Sequence[tuple[Path, Measured]], workers: int, console: Console | None, ray: str | None
) -> list[int]:
    """index -> the first index whose file sounds the same (itself, where none does). workers 0: only equal samples."""
    groups = Groups(len(good))
    seen: dict[str, int] = {}
    for index, (_, measured) in enumerate(good):
        groups.join(seen.setdefault(measured.hash, index), index)
    if workers and len(good) > 1:
        pairs = duplicates.near_pairs(np.stack([measured.fingerprint for _, measured in good]))
        pairs = [(a, b) for a, b in pairs if groups.first(a) != groups.first(b)]
        size = 32  # neighbours share files, and each process keeps the waveforms that it used last
        named = [(str(good[a][0]), str(good[b][0])) for a, b in pairs]
        tasks = [named[at : at + size] for at in range(0, len(named), size)]
        with _progress(console, "comparing", [len(task) for task in tasks]) as done:
            likeness = parallel(duplicates.likenesses, tasks, workers=workers if len(pairs) > 100 else 1,
                                crashed=[0.0] * size, done=done, ray=ray if tasks else None)
        for (a, b), score in zip(pairs, (score for task in likeness for score in task), strict=False):
            if score >= duplicates.SAME:
                groups.join(a, b)
    return [groups.first(index) for index in range(len(good))]


def _splits(
    sources: Sequence[str], first: Sequence[int], said: Sequence[Said], seconds: Sequence[float],
    valid: float, test: float, seed: int, problems: list[str],
) -> list[str]:
    """The split of every file: one for all files that share a source or sound the same.

    The split that the metadata gives, else a hash of the group's first source name: a pure function of the name, so
    that a file never changes sides when others are added.
    """
    groups = Groups(len(sources))
    by_source: dict[str, int] = {}
    for index, source in enumerate(sources):
        groups.join(by_source.setdefault(source, index), index)
        groups.join(first[index], index)
    members: dict[int, list[int]] = {}
    for index in range(len(sources)):
        members.setdefault(groups.first(index), []).append(index)
    splits = [""] * len(sources)
    torn = 0
    for indices in members.values():
        given = Counter()
        for index in indices:
            if said[index].split:
                given[said[index].split] += seconds[index]
        if given:
            torn += len(given) > 1
            split = max(sorted(given), key=given.__getitem__)
        else:
            name = min(sources[index] for index in indices)
            share = int.from_bytes(blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), "big") / 2**64
            split = "test" if share < test else "valid" if share < test + valid else "train"
        for index in indices:
            splits[index] = split
    if torn:
        problems.append(f"{torn} source(s) or groups of duplicates were given to two splits: all of each is now in the "
                        "split that had most of it")
    return splits


class Groups:
    """Disjoint sets of the numbers 0 .. count - 1, each named by its smallest member."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def first(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def join(self, a: int, b: int) -> None:
        a, b = self.first(a), self.first(b)
        self._parent[max(a, b)] = min(a, b)


@contextmanager
def _progress(console: Console | None, title: str, sizes: Sequence[int]) -> Iterator[Any]:
    """Yields done(index, result) for `parallel`; shows files, files a second, × real time and the time left."""
    if console is None or not sizes:
        yield lambda index, result: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}/{task.fields[files]}"),
               TextColumn("{task.fields[pace]}"), TimeRemainingColumn()]
    started, count, sound = time.perf_counter(), 0, 0.0
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(title, total=sum(sizes) or 1, count=0, files=len(sizes), pace="")

        def done(index: int, result: Any) -> None:
            nonlocal count, sound
            count += 1
            sound += getattr(result, "seconds", 0.0)
            passed = max(time.perf_counter() - started, 1e-9)
            pace = f"{count / passed:.0f}/s" + (f", {sound / passed:.0f} x real time" if sound else "")
            progress.update(bar, advance=sizes[index], count=count, pace=pace)

        yield done


def summary(result: ScanResult) -> Iterable[Any]:
    """Rich renderables: a table of what was found, the reasons of rejects, and what was ignored."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    manifest = result.manifest
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("split", "files", "minutes", "sources", "styles", "LUFS", "text", "score", "copies"):
        table.add_column(name, justify="left" if name == "split" else "right", no_wrap=True)
    for split in ("train", "valid", "test", "all"):
        entries = [entry for entry in manifest if split in (entry.split, "all")]
        loud = [entry.loudness for entry in entries if entry.loudness is not None]
        table.add_row(
            split, str(len(entries)), f"{sum(entry.seconds for entry in entries) / 60:.1f}",
            str(len({entry.source for entry in entries})), str(len({style for e in entries for style in e.styles})),
            f"{np.percentile(loud, 5):.0f}..{np.percentile(loud, 95):.0f}" if loud else "",
            str(sum(bool(entry.text) for entry in entries)), str(sum(entry.score is not None for entry in entries)),
            str(sum(entry.duplicate_of is not None for entry in entries)), end_section=split == "test",
        )
    yield table
    yield (f"{len(manifest)} files, {manifest.seconds / 3600:.2f} h in {result.wall_seconds:.1f} s: "
           f"{result.speed:.0f} x real time with {result.workers} process{'es' if result.workers > 1 else ''}")
    if result.rejects:
        reasons = Counter(reject.reason.partition(":")[0] for reject in result.rejects)
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        style = "bold red" if result.rejected_share > 0.01 else "yellow"
        loudly = "MORE THAN 1 % OF THE FILES WERE REJECTED. " if result.rejected_share > 0.01 else ""
        yield f"[{style}]{loudly}{len(result.rejects)} of {len(result.rejects) + len(manifest)} rejected: {listed}[/]"
    for problem in result.problems[:10]:
        yield f"[yellow]{_plain(problem)}[/]"
    if len(result.problems) > 10:
        yield f"[yellow]... and {len(result.problems) - 10} more like these[/]"
    if result.ignored:
        kinds = (f"{count} {suffix or 'without suffix'}" for suffix, count in result.ignored.most_common(8))
        yield "not audio: " + ", ".join(kinds)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)

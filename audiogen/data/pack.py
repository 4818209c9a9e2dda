"""A manifest -> shards: audio cut into pieces, or their mels or latents, ready to be streamed.

Files are cut into pieces of `piece` seconds, so that an epoch that sees every piece once hears every second as often.
Files are dealt to shards in an order shuffled by their contents. Each shard is a pure function of the files, the
manifest and the settings, byte for byte: shards that are there, whole and of these settings are not made again.

    shards/.packing/source                  digest of the manifest and the settings that the folder belongs to
    shards/.packing/train-000000.json       what the index will say of a shard; written after the shard
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiogen.conditioning.piano_roll import note_table
from audiogen.core.errors import UserError
from audiogen.core.files import sha256_of, whole_file
from audiogen.core.mel_format import MelFormat
from audiogen.core.parallel import cores, parallel
from audiogen.core.score import Score
from audiogen.data.manifest import SPLITS, Entry, Manifest
from audiogen.data.segments import read_segment
from audiogen.data.shards import EXTENSIONS, Shard, ShardIndex, encode_array, write_index, write_shard
from audiogen.signal.mel import MelSpectrogram

SHORTEST = 0.25  # seconds; less than this at the end of a file is left out, but of a file that is no longer
BYTES_BESIDE = 2048  # of a sample: its .json, two headers, padding


@dataclass(frozen=True)
class PackSettings:
    """What to make of a manifest. `UserError` for what cannot be made."""

    what: str = "audio"
    mel: MelFormat = MelFormat()
    piece: float = 10.0  # seconds
    shard_mb: float = 256.0
    checkpoint: Path | None = None  # of the autoencoder, for latents
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.what not in EXTENSIONS:
            raise UserError(f"--what {self.what}: choose {', '.join(EXTENSIONS)}")
        if self.what == "latent" and self.checkpoint is None:
            raise UserError("latents need the autoencoder that makes them: --what latent --checkpoint RUN/model")
        if self.what != "latent" and self.checkpoint is not None:
            raise UserError(f"--checkpoint {self.checkpoint} is for --what latent, not {self.what}")
        if not 2 * SHORTEST <= self.piece <= 3600:
            raise UserError(f"--piece {self.piece}: choose {2 * SHORTEST} to 3600 seconds")
        if not 0.001 <= self.shard_mb <= 100_000:
            raise UserError(f"--shard-mb {self.shard_mb}: choose 0.001 to 100000")

    @property
    def bytes_a_sample(self) -> float:
        """Bytes of a shard that one sample of sound takes, about."""
        if self.what == "audio":
            return 1.1  # FLAC of 16 bits
        columns = 2 * self.mel.n_mels / self.mel.hop_length
        return columns if self.what == "mel" else columns / 4


@dataclass(frozen=True)
class _Piece:
    """A stretch of one file: `start` and `time` in samples at the mel format's rate."""

    key: str
    entry: Entry
    start: int
    time: int


@dataclass(frozen=True)
class _Job:
    """One shard to be made; small and picklable, for processes and clusters."""

    folder: Path
    name: str
    split: str
    pieces: tuple[_Piece, ...]
    root: Path
    settings: PackSettings

    @property
    def shard(self) -> Path:
        return self.folder / f"{self.name}.tar"

    @property
    def info(self) -> Path:
        return self.folder / ".packing" / f"{self.name}.json"


@dataclass(frozen=True)
class Packed:
    index: ShardIndex
    made: int  # shards that were written now; the others were there
    rejects: tuple[tuple[str, str], ...]  # (path, reason)


def pack(
    manifest: Manifest, folder: Path, settings: PackSettings, *, workers: int | None = None, ray: str | None = None,
    done: Callable[[int, int], None] = lambda count, total: None, max_skip: float = 0.01,
) -> Packed:
    """Pack every file of the manifest but duplicates. `done` is called with (shards so far, shards).

    Files that cannot be read are left out and named; more than `max_skip` of them is an error, before an index is
    written. Run it again to go on where it was stopped.
    """
    folder = folder.absolute()  # other machines stand elsewhere
    if settings.checkpoint is not None:
        settings = dataclasses.replace(settings, checkpoint=settings.checkpoint.absolute())
    entries = [entry for entry in manifest if entry.duplicate_of is None]
    jobs = [job for split in SPLITS for job in _jobs(entries, split, folder, manifest.root, settings)]
    if not jobs:
        raise UserError("the manifest has no sound to pack")
    if settings.what == "latent":
        _encoder(settings.checkpoint, settings.device)  # what is wrong with it is said now
    source = _digest(entries, settings)
    _claim(folder, source)
    waiting = [job for job in jobs if not _is_whole(job)]
    finished = len(jobs) - len(waiting)

    def tell(index: int, result: Any) -> None:
        nonlocal finished
        finished += 1
        done(finished, len(jobs))

    workers = 1 if settings.device != "cpu" else min(workers or cores(), max(1, len(waiting)))
    results = parallel(_make, waiting, workers=workers, crashed="crashed", done=tell, ray=ray)
    if "crashed" in results:
        raise UserError(f"{waiting[results.index('crashed')].name} could not be made: its process died, mostly for "
                        "want of memory; run it again with fewer --workers")
    infos = [_read(job.info) for job in jobs]
    rejects = tuple((path, reason) for info in infos for path, reason in info["rejects"])
    bad = {path for path, _ in rejects}
    if len(bad) > max_skip * len(entries):
        raise UserError(f"{len(bad)} of {len(entries)} files cannot be packed (the first: {rejects[0][1]}): scan again "
                        "and pack into another folder, or allow it by --max-skip")
    index = _index(infos, jobs, settings, source)
    write_index(folder, index)
    return Packed(index, len(waiting), rejects)


def _jobs(entries: list[Entry], split: str, folder: Path, root: Path, settings: PackSettings) -> Iterator[_Job]:
    """The shards of a split and what goes into each."""
    rate, most = settings.mel.sample_rate, settings.shard_mb * 1e6
    length, rest = round(settings.piece * rate), round(SHORTEST * rate)
    chosen = sorted((entry for entry in entries if entry.split == split), key=_shuffled)
    pieces: list[_Piece] = []
    size, number = 0.0, 0
    for place, entry in enumerate(chosen):
        total = int(entry.time * rate / entry.sample_rate)
        for part, start in enumerate(range(0, max(1, total - rest + 1), length)):
            time = min(length, total - start)
            needed = time * settings.bytes_a_sample + BYTES_BESIDE
            if pieces and size + needed > most:
                yield _Job(folder, f"{split}-{number:06d}", split, tuple(pieces), root, settings)
                pieces, size, number = [], 0.0, number + 1
            if time > 0:
                # The split's number stands first, so that keys are unique over all shards.
                pieces.append(_Piece(f"{SPLITS.index(split)}{place:08d}-{part:04d}", entry, start, time))
                size += needed
    if pieces:
        yield _Job(folder, f"{split}-{number:06d}", split, tuple(pieces), root, settings)


def _shuffled(entry: Entry) -> bytes:
    return hashlib.blake2b(f"{entry.hash} {entry.path}".encode()).digest()


def _claim(folder: Path, source: str) -> None:
    """Make the folder ours, or refuse one that holds something else."""
    mark = folder / ".packing" / "source"
    if mark.is_file():
        if mark.read_text().strip() != source:
            raise UserError(f"{folder} holds shards of other files or settings: choose another folder, or remove it")
    elif folder.is_dir() and any(folder.glob("*.tar")):
        raise UserError(f"{folder} holds tar files that audiogen pack did not write: choose another folder")
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(source + "\n")
    for part in (*folder.glob(".*.part.tar"), *mark.parent.glob(".*.part.json")):  # of one that was killed
        part.unlink(missing_ok=True)


# ------------------------------------------------------------------------- one shard


def _make(job: _Job) -> None:
    """Write one shard, and beside it what the index needs to know of it."""
    styles: Counter = Counter()
    played: set[str] = set()
    rejects: list[tuple[str, str]] = []
    rows, rate, time = 0, job.settings.mel.sample_rate, 0

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        nonlocal rows, time
        for piece in job.pieces:
            entry = piece.entry
            try:
                notes = _notes(piece, job.root, rate)
                content, rows = _encode(piece, job.root, job.settings)
            except UserError as reason:
                rejects.append((entry.path, str(reason)))
                continue
            styles.update(entry.styles)
            played.update(entry.styles if notes is not None else ())
            time += piece.time
            about = {
                "path": entry.path, "start": piece.start / rate, "seconds": piece.time / rate, "text": entry.text,
                "styles": list(entry.styles), "tags": entry.tags, "split": job.split, "notes": notes,
            }
            text = json.dumps(about, ensure_ascii=False, sort_keys=True)
            yield piece.key, {"json": text.encode(), EXTENSIONS[job.settings.what]: content}

    count, digest = write_shard(job.shard, samples())
    info = {"sha256": digest, "samples": count, "bytes": job.shard.stat().st_size, "styles": dict(styles),
            "played": sorted(played), "rejects": rejects, "rows": rows, "seconds": time / rate}
    with whole_file(job.info) as part:
        part.write_text(json.dumps(info), encoding="utf-8")


def _encode(piece: _Piece, root: Path, settings: PackSettings) -> tuple[bytes, int]:
    """-> the piece's content, and the rows of an array (0: audio)."""
    import soundfile

    mel = settings.mel
    audio = read_segment(root / piece.entry.path, piece.start, piece.time, mel.sample_rate, expected=piece.entry)
    if settings.what == "audio":
        buffer = io.BytesIO()
        soundfile.write(buffer, np.clip(audio, -1, 1), mel.sample_rate, format="FLAC", subtype="PCM_16")
        return buffer.getvalue(), 0
    hops = -(-len(audio) // mel.hop_length)
    whole = torch.from_numpy(np.pad(audio, (0, hops * mel.hop_length - len(audio))))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as every worker has it: the same bytes from one process as from eight
    try:
        with torch.inference_mode():
            frames = _front_end(mel)(whole[None])[:, :, :hops]
            if settings.what == "latent":
                frames = _encoder(settings.checkpoint, settings.device).encode(frames.to(settings.device)).cpu()
    finally:
        torch.set_num_threads(threads)
    return encode_array(frames[0].numpy()), frames.shape[1]


@lru_cache(maxsize=2)
def _front_end(mel: MelFormat) -> MelSpectrogram:
    return MelSpectrogram(mel)


@lru_cache(maxsize=1)
def _encoder(folder: Path, device: str) -> Any:
    from audiogen.core.checkpoint import load_checkpoint

    found = load_checkpoint(folder, room="generator", device=device)
    if found.name != "autoencoder":
        raise UserError(f"--checkpoint {folder} holds a {found.name}, not an autoencoder: it makes no latents")
    return found.model


def _notes(piece: _Piece, root: Path, rate: int) -> list[list[float]] | None:
    """[onset, duration, pitch, velocity] of what sounds in the piece; seconds from its start, to the microsecond."""
    if piece.entry.score is None:
        return None
    notes = _table(root / piece.entry.score)
    begin, end = piece.start / rate, (piece.start + piece.time) / rate
    heard = notes[(notes[:, 0] < end) & (notes[:, 0] + notes[:, 1] > begin)] - (begin, 0, 0, 0)
    return [[round(onset, 6), round(duration, 6), int(pitch), int(velocity)]
            for onset, duration, pitch, velocity in heard.tolist()]


@lru_cache(maxsize=64)
def _table(path: Path) -> np.ndarray:
    return note_table(Score.read(path))


# ------------------------------------------------------------------------- the whole


def _index(infos: list[dict], jobs: list[_Job], settings: PackSettings, source: str) -> ShardIndex:
    styles: dict[str, Counter] = {}
    for job, info in zip(jobs, infos, strict=True):
        styles.setdefault(job.split, Counter()).update(info["styles"])
    step, checkpoint = 1, ""
    if settings.what == "latent":
        from audiogen.core.checkpoint import checkpoint_hash

        step = _encoder(settings.checkpoint, settings.device).config.rate
        checkpoint = checkpoint_hash(settings.checkpoint)
    return ShardIndex(
        what=settings.what, mel=settings.mel, mel_hash=settings.mel.hash(),
        shards=tuple(Shard(job.shard.name, job.split, info["samples"], info["bytes"], info["sha256"])
                     for job, info in zip(jobs, infos, strict=True) if info["samples"]),
        seconds=round(sum(info["seconds"] for info in infos), 3),
        styles={split: dict(sorted(counts.items())) for split, counts in styles.items()},
        played=tuple(sorted({style for info in infos for style in info["played"]})),
        rows=max(info["rows"] for info in infos), frames_per_step=step, checkpoint=checkpoint, source=source,
    )


def _is_whole(job: _Job) -> bool:
    info = _read(job.info)
    return (bool(info) and job.shard.is_file() and job.shard.stat().st_size == info["bytes"]
            and sha256_of(job.shard) == info["sha256"])


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _digest(entries: list[Entry], settings: PackSettings) -> str:
    values: dict[str, Any] = {"what": settings.what, "mel": settings.mel.hash(), "piece": settings.piece,
                              "mb": settings.shard_mb}
    if settings.checkpoint is not None:
        from audiogen.core.checkpoint import checkpoint_hash

        values["checkpoint"] = checkpoint_hash(settings.checkpoint)
    digest = hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16)
    for entry in sorted(entries, key=lambda entry: entry.path):
        digest.update(json.dumps(dataclasses.asdict(entry), sort_keys=True, default=str).encode())
    return digest.hexdigest()

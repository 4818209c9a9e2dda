"""Checkpoints of a model hub: "owner/name", pinned by revision and hash as "owner/name@REVISION#HASH".

A tag or branch moves, and a server can give other bytes than it lists. So a revision is resolved to its commit first,
all files come from that commit, and each is compared with the digest that the hub lists for it: SHA-256 of large files,
git's blob id of small ones. HASH is what `audiogen info` prints for a folder: that it must be, whoever serves it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from audiogen.core.errors import UserError
from audiogen.core.files import sha256_of

FILES = ["*.json", "*.safetensors", "*.md"]  # nothing that could be run is fetched
DECISIVE = (".json", ".safetensors")  # what the hash of a folder is over: a card may be reworded
SHORTEST = 16  # hex digits of a hash that are enough


def is_name(text: str) -> bool:
    """Whether it could be a repository, and no path."""
    name = text.partition("#")[0].partition("@")[0]
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).parent.is_dir()


def fetch(asked: str) -> tuple[Path, str]:
    """-> the folder of a hub repository's files, and "owner/name@commit#hash", by which they are found again.

    What was fetched before is used where the hub cannot be reached. `UserError` where it has no such repository or
    revision, where a file is not what the hub lists, and where the hash is another.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    pinned, _, wanted = asked.partition("#")
    name, _, revision = pinned.partition("@")
    if "#" in asked and not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}", wanted):
        raise UserError(f"{asked!r}: a hash has {SHORTEST} to 64 hex digits; audiogen info prints it")
    try:
        try:
            info = HfApi().model_info(name, revision=revision or None, files_metadata=True)
        except HfHubHTTPError:  # the hub answered, and the answer is no
            raise
        except Exception:  # whatever the HTTP library of the client's version raises without a network
            info = None
        folder = Path(snapshot_download(name, revision=info.sha if info else revision or None, allow_patterns=FILES,
                                        local_files_only=info is None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as reason:
        text = str(reason).strip().splitlines()[0]
        raise UserError(f"{asked!r} is no folder here, and the hub did not give it ({text})") from None
    if info is not None:
        _compare(folder, {file.rfilename: file for file in info.siblings or ()}, asked, pinned=bool(wanted))
    found = folder_hash(folder)
    if not found.startswith(wanted):
        raise UserError(f"{asked!r}: the repository's files have the hash {found}: it is not what was pinned")
    return folder, f"{name}@{folder.name}#{found[:SHORTEST]}"


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's or an engine's .json and .safetensors files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in DECISIVE and path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _compare(folder: Path, listed: dict, asked: str, *, pinned: bool) -> None:
    """Every file against what the hub lists. Copies that differ are removed, so that the next attempt fetches anew.
    pinned: a hash will be compared, so that a mirror need not list digests."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        file = listed.get(name)
        large = getattr(file, "lfs", None)
        if file is not None and large is None and file.blob_id is None:
            if pinned:
                continue
            raise UserError(f"{asked!r}: this hub (a mirror?) lists no digest for {name} to compare it with; pin the "
                            "files by their hash, as owner/name@REVISION#HASH")
        if large is not None:
            same = sha256_of(path) == large.sha256
        else:
            content = path.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            same = file is not None and blob == file.blob_id
        if not same:
            path.resolve().unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(f"{asked!r}: {name} is not what the hub lists for this commit; it was removed: try again, "
                            "and do not trust a source that says this twice")

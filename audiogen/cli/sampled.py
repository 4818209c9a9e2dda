"""A checkpoint in place of a folder of clips: it is sampled, and the clips are kept, so that a stopped run goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from audiogen.core.errors import UserError

SHIPPED = "default"  # in place of a folder: the checkpoint that is shipped


def is_checkpoint(place: Path) -> bool:
    """Whether clips are to be sampled from `place`: an engine folder, a generator's checkpoint, or "default"."""
    if str(place) == SHIPPED and not place.exists():
        return True
    return (place / "generator" / "config.json").is_file() or (
        (place / "config.json").is_file() and (place / "model.safetensors").is_file())


def sample_clips(
    checkpoint: Path, *, prompts: Path | None, count: int, seconds: float | None, seed: int = 0,
    wanted: Sequence[str] = (), say: Callable[[str], None] = lambda line: None,
) -> Path:
    """-> the folder of `count` clips: the prompts of a file in turn, else the styles `wanted` (those of the reference)
    that the checkpoint knows, else all that it knows; each with a seed of its own.

    The folder lies in the user's cache and is named after all that makes the clips; those that are there stay.
    """
    from audiogen.cli.generate import load_engine, slug
    from audiogen.conditioning.prompts import read_prompt_file
    from audiogen.core.files import cache_folder
    from audiogen.core.interfaces import Prompt
    from audiogen.pipeline import check_seconds

    if count < 1:
        raise UserError(f"--samples {count}: ask for at least one clip")
    engine = load_engine(None if str(checkpoint) == SHIPPED and not checkpoint.exists() else str(checkpoint))
    if prompts is not None:
        asked = read_prompt_file(prompts)
    else:
        known = [style for style in engine.styles if style in set(wanted)] or engine.styles
        asked = [Prompt(text=style, styles=((style, 1.0),)) for style in known]
    if not asked:
        raise UserError(f"{prompts or checkpoint} gives no prompt to sample with: name some with --prompts FILE")
    if seconds is not None:
        asked = [dataclasses.replace(prompt, seconds=check_seconds(seconds)) for prompt in asked]
    makes: dict[str, Any] = {"checkpoint": engine.hashes, "prompts": [dataclasses.asdict(p) for p in asked],
                             "count": count, "seed": seed}
    name = hashlib.blake2b(json.dumps(makes, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
    folder = cache_folder() / "samples" / f"{Path(checkpoint).name}-{name}"
    made = 0
    for index in range(count):
        prompt = asked[index % len(asked)]
        path = folder / f"{index:05d}-{slug(prompt)}.wav"
        if path.is_file():
            continue
        if not made:
            say(f"sampling {count} clips into {folder}")
        engine.generate(prompt, seed=seed + index).save(path)
        made += 1
    return folder

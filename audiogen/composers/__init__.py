"""Composers write notes: prompt -> Score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiogen.core.interfaces import Composer

TABLE = {
    "rules": "audiogen.composers.rules:RuleComposer",
    "recurrent": "audiogen.composers.recurrent:RecurrentComposer",
    "seq2seq": "audiogen.composers.seq2seq:Seq2SeqComposer",
    "transformer": "audiogen.composers.transformer:TransformerComposer",
}
PRETRAINED = Path(__file__).parents[1] / "pretrained" / "composers"


def known_composers() -> tuple[str, ...]:
    """The names that `load_composer` knows: rules, and the learned ones whose weights are shipped."""
    shipped = sorted(folder.parent.name for folder in PRETRAINED.glob("*/config.json"))
    return ("rules", *shipped)


def load_composer(name_or_folder: str | Path = "rules", *, device: str = "cpu") -> Composer:
    """A composer that can write: "rules", a shipped one by its name ("lstm"), or a checkpoint folder (`RUN/model`).

    Raises `UserError` for a name that is neither.
    """
    from audiogen.core.checkpoint import load_checkpoint
    from audiogen.core.config import did_you_mean
    from audiogen.core.errors import UserError
    from audiogen.core.registry import resolve

    name = str(name_or_folder)
    if name == "rules":
        return resolve("composer", name)()
    if name in known_composers():
        return load_checkpoint(PRETRAINED / name, room="composer", device=device).model
    if Path(name_or_folder).is_dir():
        return load_checkpoint(name_or_folder, room="composer", device=device).model
    raise UserError(
        f"no composer is called {name!r}, and no checkpoint folder is there{did_you_mean(name, known_composers())}"
    )

"""What happens to a batch whose loss or gradient is not finite: it is skipped, and a run that stays so goes back.

    one bad batch                 nothing of it reaches weights, moments or average; the run says so and goes on
    `patience` of them in a row   the weights themselves have gone wrong: the last saved state is loaded, once, and the
                                  run goes on from there with the batches that come next
    as many again                 the run stops, with the samples written down
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch


@dataclass
class Guard:
    """Counts bad batches. Its fields but the first two are part of the training state."""

    folder: Path
    patience: int
    in_a_row: int = 0
    went_back: bool = False  # since the last state that was saved
    report: dict = field(default_factory=dict)

    def passed(self) -> None:
        """A batch went well."""
        self.in_a_row = 0

    def saved(self) -> None:
        """A state was saved after a batch that went well: it may be gone back to."""
        self.went_back = False

    def failed(
        self, step: int, player: str, micros: list[Batch], losses: dict[str, Tensor], norm: Tensor, *,
        write: bool = True,
    ) -> str:
        """Write the batch down to nan.json; -> one line that says what was seen."""
        self.in_a_row += 1
        values = {name: float(value) for name, value in losses.items()}
        self.report = {
            "step": step, "player": player, "sample_ids": [i for batch in micros for i in batch.ids.tolist()],
            "losses": values, "gradient": float(norm), "in_a_row": self.in_a_row,
            "prompts": [text for batch in micros for text in getattr(batch, "prompts", ())],
        }
        if write:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "nan.json").write_text(json.dumps(self.report, indent=1))
        return self._what()

    def decide(self, *, state: Path | None) -> Literal["skip", "go back"]:
        """What to do after `failed`; raises `UserError` where patience is at an end. `state`: where to go back to."""
        if self.in_a_row <= self.patience:
            return "skip"
        if state is not None and not self.went_back:
            self.in_a_row, self.went_back = 0, True
            return "go back"
        raise self.error()

    def error(self) -> UserError:
        again = f", again after going back to {self.folder / 'states'}" if self.went_back else ""
        return UserError(
            f"{self._what()}{f', number {self.in_a_row} in a row' if self.in_a_row > 1 else ''}{again}; "
            f"{self.folder / 'nan.json'} describes the batch. Lower --train.learning-rate or look at its samples; the "
            "same command goes on from the last state"
        )

    def _what(self) -> str:
        loss = self.report["losses"]["loss"]
        thing = f"the loss of {self.report['player']} is {loss}"
        if math.isfinite(loss):
            thing = f"the gradient of {self.report['player']} is {self.report['gradient']}"
        return f"{thing} at step {self.report['step']}"

    def state(self) -> dict:
        return {"in_a_row": self.in_a_row, "went_back": self.went_back}

    def load(self, values: dict) -> None:
        self.in_a_row, self.went_back = values.get("in_a_row", 0), values.get("went_back", False)

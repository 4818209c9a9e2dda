"""Conditions on a result, for scripts and continuous integration: "fad_inf.hi > 3.0"."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from evaluation.score import METRICS

_FORM = re.compile(r"^\s*(\w+(?:\.\w+){0,2})\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*$")
_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_FIELDS = {"value": lambda row: row["value"], "se": lambda row: row["se"],
           "lo": lambda row: row["interval_95"] and row["interval_95"][0],
           "hi": lambda row: row["interval_95"] and row["interval_95"][1]}


@dataclass(frozen=True)
class Condition:
    """[embedder.]metric[.value|.lo|.hi|.se] SIGN number. Without an embedder it is asked of all."""

    text: str
    embedder: str | None
    metric: str
    field: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Raises `UserError` with the form that is meant."""
        match = _FORM.match(text)
        if match is None:
            raise UserError(f"condition {text!r} is not of the form 'metric.hi > 3.0' ([embedder.]metric"
                            f"[.{'|.'.join(_FIELDS)}], one of < <= > >=, a number)")
        name, sign, number = match.groups()
        words = name.split(".")
        # Three words leave nothing open; of two, the first is the embedder where the second is a metric.
        embedder = words.pop(0) if len(words) == 3 or (len(words) == 2 and words[1] in METRICS) else None
        metric, field = [*words, "value"][:2]
        if metric not in METRICS:
            raise UserError(f"condition {text!r}: no metric is called {metric!r}{did_you_mean(metric, METRICS)}")
        if field not in _FIELDS:
            raise UserError(f"condition {text!r}: no field is called {field!r}{did_you_mean(field, _FIELDS)}")
        try:
            return cls(text, embedder, metric, field, sign, float(number))
        except ValueError:
            raise UserError(f"condition {text!r}: {number!r} is no number") from None

    def met(self, result: dict[str, Any]) -> list[str]:
        """Where it is true of a result of `evaluate`: one line each. Raises `UserError` where it cannot be said."""
        rows = {m["embedder"]: m["scores"].get(self.metric) for m in result["embedders"]
                if self.embedder in (None, m["embedder"])}
        if not rows:
            raise UserError(f"condition {self.text!r}: the result has no embedder {self.embedder!r}")
        lines = []
        for name, row in rows.items():
            value = None if row is None else _FIELDS[self.field](row)
            if value is None:
                raise UserError(f"condition {self.text!r}: {name} has no {self.metric}.{self.field}: too few clips, or "
                                "left out by --metrics")
            if _SIGNS[self.sign](value, self.bound):
                lines.append(f"{name}.{self.metric}.{self.field} is {value:.4g}, {self.sign} {self.bound:g}")
        return lines

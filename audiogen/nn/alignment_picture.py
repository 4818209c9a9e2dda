"""A picture of attention weights: what a decoder read while it wrote. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from audiogen.core.files import whole_file

READABLE = 120  # names on an axis; more would lie on top of each other


def save_alignment(
    weights: Tensor, path: str | Path, *, given: Sequence[str] = (), written: Sequence[str] = (), title: str = ""
) -> None:
    """weights (tokens, memory tokens) -> a PNG: a column for every given token, a row for every written one.

    `given` and `written` name them; empty names are not drawn, and none are where they could not be read.
    """
    # Figure and canvas without pyplot: no global state, no display, safe in threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if weights.dim() != 2 or 0 in weights.shape:
        raise ValueError(f"weights of shape {tuple(weights.shape)}: (tokens, memory tokens) is needed")
    rows, columns = weights.shape
    figure = Figure(figsize=(min(max(2 + 0.16 * columns, 4), 24), min(max(2 + 0.16 * rows, 3), 24)),
                    layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(weights.detach().float().cpu().numpy(), aspect="auto", cmap="magma", vmin=0.0)
    axes.set(xlabel="given", ylabel="written", title=title)
    for names, ticks, options in ((given, axes.set_xticks, {"rotation": 90}), (written, axes.set_yticks, {})):
        places = [place for place, name in enumerate(names) if name]
        if 0 < len(places) <= READABLE:
            ticks(places, [names[place] for place in places], fontsize=6, **options)
    figure.colorbar(image, label="weight")
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=110)

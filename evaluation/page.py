"""A result of `evaluate` as one page: scores beside their floor and anchors, and the clips to listen to. No network."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.core.files import whole_file
from evaluation.adherence import key_obeyed
from evaluation.listing import MANIFEST, Listing
from evaluation.prompt_match import prompt_rows
from evaluation.report import health_line, originality_line
from evaluation.score import METRICS

PLAYED = 5  # best and worst clips, of each embedder
CLIP_SECONDS = 12.0  # of a long clip: what is put into the page
WIDTH, HEIGHT = 460, 230  # of a chart


def write_page(result: dict[str, Any], path: str | Path, *, generated: str | Path | Listing | None = None) -> None:
    """Write the page whole or not at all. `generated`: folder or manifest of the clips, for the players (mono OGG in
    the page)."""
    folder = None
    if isinstance(generated, Listing):
        folder = generated.folder
    elif generated is not None and Path(generated).suffix == MANIFEST:
        folder = Listing.of(generated).folder
    elif generated is not None and Path(generated).is_dir():
        folder = Path(generated)
    sets = result["sets"]
    values = {
        "title": _text(_name(sets["generated"]) + " against " + _name(sets["reference"])),
        "sets": _text(" · ".join(f"{name}: {s['clips']} clips, {s['hours'] * 60:.1f} min, {len(s['rejected'])} rejected"
                                 for name, s in sets.items())),
        "notices": "".join(f'<p class="notice">{_text(warning)}</p>' for warning in result["warnings"]),
        "embedders": "\n".join(_embedder(measured, folder) for measured in result["embedders"]),
        "health": _prompts(result) + _health(result.get("health", {})),
        "originality": _originality(result.get("originality")),
        "provenance": _text(json.dumps(_without_lists(result), indent=1, ensure_ascii=False)),
    }
    page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", value)
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")


def _embedder(measured: dict[str, Any], folder: Path | None) -> str:
    parts = [
        f"<h2>{_text(measured['embedder'])}</h2><p class=quiet>{_text(measured.get('note', ''))}; {measured['dim']} "
        f"dimensions, {measured['windows']['reference']} and {measured['windows']['generated']} windows</p>",
        *(f'<p class="notice">{_text(warning)}</p>' for warning in measured["warnings"]),
        f'<div class="panel">{_table(measured)}</div>',
    ]
    charts = [
        ("How far from the reference, beside known damage", _ladder(measured)),
        ("Fréchet distance against 1 / N", _curve(measured)),
        ("Where the clips lie: two principal components", _map(measured.get("map"))),
    ]
    panels = [f'<div class="panel"><h3>{title}</h3>{chart}</div>' for title, chart in charts if chart]
    clips, players = measured.get("clips", []), []
    if clips and folder is not None:
        players = [f'<div class="panel"><h3>{title}</h3>{"".join(_clip(line, folder) for line in lines)}</div>'
                   for title, lines in (("Nearest to the reference", clips[:PLAYED]),
                                        ("Farthest from it", clips[:PLAYED - 1 :-1][:PLAYED])) if lines]
    return "\n".join(parts) + "".join(f'<div class="pair">{"".join(row)}</div>' for row in (panels, players) if row)


def _table(measured: dict[str, Any]) -> str:
    rows = []
    for name, row in measured["scores"].items():
        title, lower = METRICS[name]
        error = "" if row["se"] is None else f"{row['se']:.2g}"
        span = "{:.4g} – {:.4g}".format(*row["interval_95"]) if row["interval_95"] else ""
        floor = f"{measured['floor'][name]['value']:.4g}" if name in measured["floor"] else ""
        cells = [f"<b>{row['value']:.4g}</b>", error, span, floor, f"{row['n_reference']}, {row['n_generated']}"]
        rows.append(
            f"<tr><td>{_text(title)} <span class=quiet>{'lower' if lower else 'higher'} is better</span></td>"
            + "".join(f"<td class=n>{cell}</td>" for cell in cells) + "</tr>"
        )
    return ("<table><tr><th>score<th class=n>value<th class=n>± se<th class=n>95 % interval<th class=n>floor"
            "<th class=n>clips</tr>" + "".join(rows) + "</table>")


def _ladder(measured: dict[str, Any]) -> str:
    """Bars on a logarithmic scale: the generated set among floor and anchors."""
    if "frechet" not in measured["scores"]:
        return ""
    rungs = {"generated": measured["scores"]["frechet"]["value"]}
    if "frechet" in measured["floor"]:
        rungs["reference, one half against the other"] = measured["floor"]["frechet"]["value"]
    rungs |= {name: rows["frechet"]["value"] for name, rows in measured["anchors"].items() if "frechet" in rows}
    logs = {name: math.log(value + 1e-9) for name, value in rungs.items()}
    low, high = min(logs.values()), max(logs.values())

    return '<div class="bars">' + "".join(
        f'<div class="{"own" if name == "generated" else ""}"><span>{_text(name)}</span>'
        f'<i style="--w:{0.06 + 0.94 * (logs[name] - low) / max(high - low, 1e-9):.3f}"></i><b>{value:.3g}</b></div>'
        for name, value in sorted(rungs.items(), key=lambda rung: rung[1])
    ) + "</div>"


def _curve(measured: dict[str, Any]) -> str:
    """The distances of smaller and smaller subsets, the line through them, and where it meets 1/N = 0."""
    points = [(1.0 / p["windows"], p["frechet"]) for p in measured.get("curve", [])]
    end = measured["scores"].get("fad_inf")
    if len(points) < 2 or end is None:
        return ""
    low, high = end["interval_95"] or (end["value"], end["value"])
    right, half = points[-1][0] * 1.05, (high - low) / 2
    mean_x = sum(p for p, _ in points) / len(points)
    mean_y = sum(v for _, v in points) / len(points)
    slope = sum((p - mean_x) * (v - mean_y) for p, v in points) / sum((p - mean_x) ** 2 for p, _ in points)
    start = mean_y - slope * mean_x
    at_end = start + slope * right
    values = [*(v for _, v in points), low, high, start + half, start - half, at_end + half, at_end - half]
    bottom, top = min(*values, 0.0), max(values) * 1.05 or 1.0

    def x(value: float) -> float:
        return 56 + (WIDTH - 68) * value / right

    def y(value: float) -> float:
        return 12 + (HEIGHT - 44) * (top - value) / (top - bottom)

    dots = "".join(f'<circle class="point" cx="{x(p):.1f}" cy="{y(v):.1f}" r="4"><title>N = {round(1 / p)} windows: '
                   f"{v:.4g}</title></circle>" for p, v in points)
    ticks = "".join(f'<text x="50" y="{y(v) + 4:.1f}" text-anchor="end">{v:.2g}</text>'
                    for v in (bottom, (bottom + top) / 2, top))
    marks = "".join(f'<text x="{x(p):.1f}" y="{HEIGHT - 14}" text-anchor="middle">1/{round(1 / p)}</text>'
                    for p, _ in points if p > right / 12)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Fréchet distance against one over N">'
        f'<line class="axis" x1="56" y1="{y(bottom):.1f}" x2="{WIDTH - 8}" y2="{y(bottom):.1f}"/>{ticks}{marks}'
        f'<polygon class="band" points="{x(0):.1f},{y(start - half):.1f} {x(0):.1f},{y(start + half):.1f} '
        f'{x(right):.1f},{y(at_end + half):.1f} {x(right):.1f},{y(at_end - half):.1f}"/>'
        f'<line class="fit" x1="{x(0):.1f}" y1="{y(start):.1f}" x2="{x(right):.1f}" y2="{y(at_end):.1f}"/>{dots}'
        f'<line class="inf" x1="{x(0):.1f}" y1="{y(low):.1f}" x2="{x(0):.1f}" y2="{y(high):.1f}"/>'
        f'<circle class="inf" cx="{x(0):.1f}" cy="{y(end["value"]):.1f}" r="4"><title>N → ∞: {end["value"]:.4g}, 95 % '
        f"interval {low:.4g} – {high:.4g}</title></circle></svg>"
        '<p class="quiet">The pink point is where infinitely many clips would lie (the reference\'s own bias taken off '
        "too), with its 95 % interval.</p>"
    )


def _map(points: dict[str, Sequence] | None) -> str:
    if not points or not points["reference"] or not points["generated"]:
        return ""
    everything = [*points["reference"], *points["generated"]]
    spans = [(min(p[axis] for p in everything), max(p[axis] for p in everything)) for axis in (0, 1)]

    def place(point: Sequence) -> str:
        at = [(point[axis] - low) / max(high - low, 1e-12) for axis, (low, high) in enumerate(spans)]
        return f'cx="{8 + (WIDTH - 16) * at[0]:.1f}" cy="{8 + (HEIGHT - 16) * (1 - at[1]):.1f}"'

    circles = "".join(f'<circle class="{kind}" {place(p)} r="3"><title>{_text(p[2])}</title></circle>'
                      for kind, name in (("real", "reference"), ("made", "generated")) for p in points[name])
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="map of the clips">{circles}</svg>'
            '<p class="quiet">Grey: reference. Pink: generated. Point at one to see its name.</p>')


def _clip(line: dict[str, Any], folder: Path) -> str:
    try:
        player = f'<audio controls preload="none" src="{_sound(folder / line["path"])}"></audio>'
    except UserError as reason:
        player = f"<small class=quiet>{_text(str(reason))}</small>"
    return (f'<div class="clip"><span title="{_text(line["path"])}">{_text(line["path"])}</span>'
            f'<b>{line["frechet"]:.4g}</b>{player}</div>')


def _sound(path: Path) -> str:
    import soundfile

    audio = Audio.read(path)
    mono = audio.samples.mean(0)[: round(CLIP_SECONDS * audio.sample_rate)].clamp(-1, 1)
    encoded = io.BytesIO()
    soundfile.write(encoded, mono.numpy(), audio.sample_rate, format="OGG", subtype="VORBIS")
    return "data:audio/ogg;base64," + base64.b64encode(encoded.getvalue()).decode()


def _prompts(result: dict[str, Any]) -> str:
    lines = prompt_rows(result)
    if not lines:
        return ""
    cells = "".join(f"<tr><td>{_text(what)}</td><td><b>{_text(found)}</b></td><td class=quiet>{_text(beside)}</td></tr>"
                    for what, found, beside in lines)
    return f"<h2>Prompts</h2><div class=panel><table>{cells}</table></div>" + _tempo_chart(result)


def _tempo_chart(result: dict[str, Any]) -> str:
    """Tempo heard against tempo asked for, both on a logarithmic scale, and the keys that were missed."""
    lines = (result.get("prompts") or {}).get("lines", ())
    points = [(line["asked"]["bpm"], line["found"]["bpm"], line["path"]) for line in lines
              if line["asked"].get("bpm") and line["found"].get("bpm")]
    keys = [(line["asked"]["key"], line["found"]["key"], line["path"]) for line in lines
            if line["asked"].get("key") and line["found"].get("key")]
    parts = []
    if points:
        low, high = (f(min(p[:2]) if f is min else max(p[:2]) for p in points) for f in (min, max))
        low, high = math.log2(low / 1.15), math.log2(high * 1.15)

        def at(bpm: float) -> float:
            return (math.log2(bpm) - low) / (high - low)

        def x(bpm: float) -> float:
            return 44 + (WIDTH - 56) * at(bpm)

        def y(bpm: float) -> float:
            return 12 + (HEIGHT - 44) * (1 - at(bpm))

        ends = 2**low, 2**high
        diagonals = "".join(
            f'<line class="{kind}" x1="{x(a):.1f}" y1="{y(a * ratio):.1f}" x2="{x(b):.1f}" y2="{y(b * ratio):.1f}"/>'
            for ratio, kind in ((1.0, "fit"), (2.0, "axis"), (0.5, "axis"))
            for a, b in [(max(ends[0], ends[0] / ratio), min(ends[1], ends[1] / ratio))] if a < b)
        ticks = "".join(f'<text x="{x(t):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{t}</text><text x="38" '
                        f'y="{y(t) + 4:.1f}" text-anchor="end">{t}</text>'
                        for t in (30, 60, 90, 120, 180, 240, 360) if ends[0] < t < ends[1])
        dots = "".join(f'<circle class="made" cx="{x(a):.1f}" cy="{y(h):.1f}" r="4"><title>{_text(name)}: {a:.0f} '
                       f"asked, {h:.0f} heard</title></circle>" for a, h, name in points)
        parts.append('<div class="panel"><h3>Tempo heard against tempo asked for</h3>'
                     f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="tempo heard and asked for">'
                     f'{diagonals}{ticks}{dots}</svg>'
                     '<p class="quiet">Beats per minute. Dashed: as asked; thin: double and half.</p></div>')
    missed = [line for line in keys if not key_obeyed(line[0], line[1])]
    if keys:
        rows = "".join(f"<tr><td>{_text(name)}</td><td>{_text(asked)}</td><td>{_text(heard)}</td></tr>"
                       for asked, heard, name in missed[:12])
        more = f"<p class=quiet>and {len(missed) - 12} more</p>" if len(missed) > 12 else ""
        head = "<tr><th>clip<th>asked<th>heard</tr>"
        parts.append(f'<div class="panel"><h3>Keys: {len(keys) - len(missed)} of {len(keys)} as asked</h3>'
                     + (f"<table>{head}{rows}</table>{more}" if rows else "") + "</div>")
    return f'<div class="pair">{"".join(parts)}</div>' if parts else ""


def _health(health: dict[str, dict[str, Any]]) -> str:
    if not health:
        return ""
    odd = [(name, f"{v['clipped_share']:.2%} clipped") for name, v in health.items() if v["clipped_share"] > 0]
    odd += [(name, "mostly silent") for name, v in health.items() if v["silent_share"] > 0.5]
    odd += [(name, f"DC offset {v['dc']:+.3f}") for name, v in health.items() if abs(v["dc"]) > 0.01]
    rows = "".join(f"<tr><td>{_text(name)}</td><td>{_text(what)}</td></tr>" for name, what in odd[:50])
    return (f"<h2>Health</h2><div class=panel><p>{_text(health_line(list(health.values())))}</p>"
            + (f"<table>{rows}</table>" if rows else "") + "</div>")


def _originality(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    copies = "".join(
        f"<tr><td>{_text(c['path'])}</td><td class=n>{c['at']:.1f} s</td><td>{_text(c['source'])}</td>"
        f"<td class=n>{c['source_at']:.1f} s</td><td class=n>{c['seconds']:.1f} s</td></tr>"
        for c in found["copies"][:50]
    )
    head = "<tr><th>clip<th class=n>at<th>training clip<th class=n>at<th class=n>length</tr>"
    near = "".join(
        f"<tr><td>{_text(n['path'])}</td><td>{_text(n['nearest'])}</td><td class=n>{n['similarity']:.3f}</td>"
        f"<td class=n>{n['quantile']:.2f}</td></tr>" for n in found.get("nearest", ())[:PLAYED]
    )
    near_head = "<tr><th>nearest to the training set<th>its training clip<th class=n>cosine<th class=n>quantile</tr>"
    return (f"<h2>Originality</h2><div class=panel><p>{_text(originality_line(found))}</p>"
            + (f"<table>{head}{copies}</table>" if copies else "")
            + (f"<table>{near_head}{near}</table>" if near else "") + "</div>")


def _without_lists(result: dict[str, Any]) -> dict[str, Any]:
    """The result without what is shown elsewhere on the page."""
    shown = ("health", "embedders", "originality", "prompts")
    kept = {name: value for name, value in result.items() if name not in shown}
    kept["embedders"] = [{name: value for name, value in m.items() if name not in ("clips", "map", "curve")}
                         for m in result["embedders"]]
    return kept


def _name(described: dict[str, Any]) -> str:
    return Path(described.get("folder") or described["summary"]).name


def _text(text: str) -> str:
    return html.escape(str(text), quote=True).replace("{{", "{&#123;")

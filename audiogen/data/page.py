"""A page about a scanned folder, to look at and to listen to what one is about to train on: one file, no network."""

from __future__ import annotations

import base64
import html
import io
import math
import os
import random
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from audiogen.core.files import whole_file
from audiogen.data.manifest import Entry, Manifest
from audiogen.data.scan import ScanResult

CLIP_SECONDS = 12.0  # of a long file: what is drawn and played
PICTURE = (320, 80)  # pixels
ROWS_SHOWN = 500  # of the tables
UNPLAYABLE = (".aif", ".aiff", ".aifc")  # browsers do not: always embedded
BLACK_TO_LIGHT = [  # colours of the spectrogram, evenly spaced (after matplotlib's magma)
    (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122), (229, 80, 100), (251, 135, 97),
    (254, 194, 135), (252, 253, 191),
]


def write_page(path: str | Path, result: ScanResult, *, clips: int = 24, embed: bool = False, seed: int = 0) -> None:
    """Write the page whole or not at all.

    clips: how many random clips get a player. Their sound is linked by paths relative to the page, or with `embed` put
    into the page as mono OGG of about 8 kB a second.
    """
    path, manifest = Path(path), result.manifest
    chosen = choose(manifest, clips, seed)
    home = path.absolute().parent
    values = {
        "title": _text(manifest.root.name), "root": _text(str(manifest.root)),
        "tiles": _tiles(result), "notices": _notices(result), "split": _split_bar(manifest),
        "charts": _charts(manifest), "styles": _styles(manifest),
        "cards": "\n".join(_card(manifest, entry, home, embed, seed) for entry in chosen),
        "options": "".join(f"<option>{_text(style)}</option>" for style in sorted(Manifest(tuple(chosen)).styles)),
        "shown": str(len(chosen)), "files": f"{len(manifest):,}",
        "duplicates": _duplicates(manifest, home), "rejects": _rejects(result),
    }
    page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", value)
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")


def choose(manifest: Manifest, count: int, seed: int) -> list[Entry]:
    """`count` random entries, spread evenly over the styles."""
    rng = random.Random(seed)
    by_style: dict[str, list[Entry]] = {}
    for entry in manifest:
        by_style.setdefault(entry.styles[0] if entry.styles else "", []).append(entry)
    piles = [rng.sample(entries, len(entries)) for _, entries in sorted(by_style.items())]
    rng.shuffle(piles)
    chosen: list[Entry] = []
    while piles and len(chosen) < count:
        chosen += [pile.pop() for pile in piles[: count - len(chosen)]]
        piles = [pile for pile in piles if pile]
    return chosen


def _text(text: str) -> str:
    return html.escape(str(text), quote=True).replace("{{", "{&#123;")


def _length(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d}"


def _tiles(result: ScanResult) -> str:
    manifest = result.manifest
    hours = manifest.seconds / 3600
    copies = sum(entry.duplicate_of is not None for entry in manifest)
    clipped = sum(entry.clipped > 1e-3 for entry in manifest)
    tiles = [
        (f"{len(manifest):,}", "files", ""),
        (f"{hours:.2f} h" if hours >= 1 else f"{manifest.seconds / 60:.1f} min", "of sound", ""),
        (f"{len(manifest.styles):,}", "styles", ""),
        (f"{len({entry.source for entry in manifest}):,}", "sources", ""),
        (f"{sum(e.score is not None for e in manifest):,}", "with a score", ""),
        (f"{copies:,}", "duplicates", "#duplicates" if copies else ""),
        (f"{clipped:,}", "clipped", ""),
        (f"{len(result.rejects):,}", "rejected", "#rejects" if result.rejects else ""),
    ]
    return "".join(
        f'<a class="tile" {f"href={link}" if link else ""}><b>{value}</b><span>{name}</span></a>'
        for value, name, link in tiles
    )


def _notices(result: ScanResult) -> str:
    notices = []
    if result.rejected_share > 0.01:
        notices.append(("bad", f"{result.rejected_share:.1%} of the files were rejected: "
                               '<a href="#rejects">see why</a> before training on the rest.'))
    notices += [("", _text(problem)) for problem in result.problems[:20]]
    if len(result.problems) > 20:
        notices.append(("", f"... and {len(result.problems) - 20} more like these"))
    return "".join(f'<p class="notice {kind}">{text}</p>' for kind, text in notices)


def _split_bar(manifest: Manifest) -> str:
    parts = []
    for split in ("train", "valid", "test"):
        side = manifest.select(split=split)
        share = side.seconds / max(manifest.seconds, 1e-9)
        if not side:
            continue
        parts.append(f'<div class="{split}" style="flex:{max(share, 0.001):.4f}" title="{len(side):,} files, '
                     f'{_length(side.seconds)}"><span>{split} {share:.0%}</span></div>')
    return "".join(parts)


def _charts(manifest: Manifest) -> str:
    seconds = [entry.seconds for entry in manifest]
    loudness = [entry.loudness for entry in manifest if entry.loudness is not None]
    peaks = [entry.peak_db for entry in manifest]
    rates = Counter(f"{entry.sample_rate / 1000:g} kHz {_channels(entry)}" for entry in manifest)
    edges = np.geomspace(max(min(seconds), 0.02), max(max(seconds), min(seconds) * 1.01) * 1.0001, 29)
    charts = [
        ("Duration", *_histogram(seconds, edges, _length)),
        ("Loudness, LUFS", *_histogram(loudness, _even(loudness, 1.0), "{:.0f}".format)),
        ("Peak, dBFS", *_histogram(peaks, _even(peaks, 1.0), "{:.0f}".format)),
        ("Silence", *_histogram([100 * e.silent for e in manifest], np.linspace(0, 100, 26), "{:.0f} %".format)),
    ]
    drawn = "".join(f'<figure class="chart"><figcaption>{name}<em>{note}</em></figcaption>{svg}</figure>'
                    for name, svg, note in charts)
    return drawn + f'<figure class="chart"><figcaption>Sample rate</figcaption>{_bars(rates.most_common(6))}</figure>'


def _channels(entry: Entry) -> str:
    return {1: "mono", 2: "stereo"}.get(entry.channels, f"{entry.channels} channels")


def _even(values: Sequence[float], step: float) -> np.ndarray:
    if not values:
        return np.array([0.0, 1.0])
    low, high = math.floor(min(values) / step) * step, math.floor(max(values) / step + 1) * step
    return np.linspace(low, high, min(30, round((high - low) / step)) + 1)


def _histogram(values: Sequence[float], edges: np.ndarray, label) -> tuple[str, str]:
    """An SVG of the counts between `edges`, and its median in words."""
    counts, _ = np.histogram(values, edges)
    width, height, most = 10 * len(counts), 100, max(int(counts.max(initial=0)), 1)
    bars = []
    for index, count in enumerate(counts):
        tall = max(2.0, height * count / most) if count else 0
        words = f"{label(edges[index])} to {label(edges[index + 1])}: {count:,} files"
        bars.append(f'<g><rect class="hit" x="{10 * index}" y="0" width="10" height="{height}"/><rect class="bar" '
                    f'x="{10 * index + 1}" y="{height - tall:.1f}" width="8" height="{tall:.1f}" rx="1.5"/>'
                    f"<title>{words}</title></g>")
    svg = (f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img">{"".join(bars)}</svg>'
           f'<div class="axis"><span>{label(edges[0])}</span><span>{label(edges[len(edges) // 2])}</span>'
           f"<span>{label(edges[-1])}</span></div>")
    return svg, f"median {label(float(np.median(values)))}" if len(values) else "none"


def _bars(rows: Sequence[tuple[str, float]], words=lambda value: f"{value:,.0f}") -> str:
    most = max((value for _, value in rows), default=1) or 1
    return '<div class="bars">' + "".join(
        f'<div><span title="{_text(name)}">{_text(name)}</span><i style="--w:{value / most:.4f}"></i>'
        f"<b>{words(value)}</b></div>"
        for name, value in rows
    ) + "</div>"


def _styles(manifest: Manifest) -> str:
    seconds = Counter()
    for entry in manifest:
        for style in entry.styles:
            seconds[style] += entry.seconds
    if not seconds:
        return "<p class=quiet>No file has a style: name the folders after them, or write a metadata.csv.</p>"
    rows = seconds.most_common()
    shown = _bars(rows[:36], _length)
    if len(rows) > 36:
        shown += f"<details><summary>{len(rows) - 36} more styles</summary>{_bars(rows[36:], _length)}</details>"
    return shown


def _card(manifest: Manifest, entry: Entry, home: Path, embed: bool, seed: int) -> str:
    start, samples, rate = _excerpt(manifest.audio(entry), entry, seed)
    picture = "data:image/png;base64," + base64.b64encode(_png(spectrogram(samples, rate))).decode()
    seconds = len(samples) / rate
    if embed or Path(entry.path).suffix.lower() in UNPLAYABLE:
        sound, offset = "data:audio/ogg;base64," + base64.b64encode(_ogg(samples, rate)).decode(), 0.0
    else:
        sound, offset = _link(manifest.audio(entry), home), start
    chips = "".join(f"<i>{_text(style)}</i>" for style in entry.styles)
    loudness = "below the loudness gate" if entry.loudness is None else f"{entry.loudness:.1f} LUFS"
    facts = [_length(entry.seconds), f"{entry.sample_rate / 1000:g} kHz {_channels(entry)}", loudness,
             f"peak {entry.peak_db:.1f} dB"]
    tags = "".join(
        f"<dt>{_text(name)}</dt><dd>{_text(', '.join(value) if isinstance(value, list) else value)}</dd>"
        for name, value in [*entry.tags.items(), ("source", entry.source), ("score", entry.score or "")] if value
    )
    search = " ".join([entry.path, entry.text, *entry.styles]).lower()
    return (
        f'<article class="clip" data-styles="{_text("|".join(entry.styles))}" data-search="{_text(search)}" '
        f'data-start="{offset:.3f}" data-seconds="{seconds:.3f}">'
        f'<div class="screen" tabindex="0" role="button" aria-label="play {_text(entry.path)}">'
        f'<img src="{picture}" alt="" loading="lazy"><div class="head"></div><span class="play"></span>'
        f'<span class="side {entry.split}">{entry.split}</span></div>'
        f'<audio preload="none" src="{sound}"></audio>'
        f'<h3>{_text(entry.text or Path(entry.path).stem)}</h3><p class="chips">{chips}</p>'
        f'<p class="facts">{" · ".join(facts)}</p>'
        f'<details><summary title="{_text(entry.path)}">{_text(entry.path)}</summary><dl>{tags}</dl></details>'
        "</article>"
    )


def _excerpt(path: Path, entry: Entry, seed: int) -> tuple[float, np.ndarray, int]:
    """(start in seconds, samples (time,) mono, their rate): the file, or a random part of a long one."""
    import soundfile
    import soxr

    start = 0.0
    if entry.seconds > CLIP_SECONDS:
        start = random.Random(f"{seed} {entry.path}").uniform(0, entry.seconds - CLIP_SECONDS)
    with soundfile.SoundFile(path) as file:
        file.seek(round(start * file.samplerate))
        samples = file.read(round(CLIP_SECONDS * file.samplerate), dtype="float32", always_2d=True).mean(axis=1)
        rate = file.samplerate
    target = min(rate, 24000)
    return start, soxr.resample(samples, rate, target, quality="MQ") if rate != target else samples, target


def spectrogram(samples: np.ndarray, rate: int) -> np.ndarray:
    """samples (time,) -> brightness (height, width) uint8: mel-spaced rows, the top 70 dB."""
    width, height = PICTURE
    size = 1024
    padded = np.pad(samples, (size // 2, size))
    starts = np.linspace(0, max(len(samples) - 1, 0), width).astype(int)
    power = np.abs(np.fft.rfft(padded[starts[:, None] + np.arange(size)] * np.hanning(size))) ** 2  # (width, bins)
    mel = np.linspace(0, 2595 * math.log10(1 + rate / 2 / 700), height + 1)
    edges = 700 * (10 ** (mel / 2595) - 1) * size / rate
    # Each row averages the bins between its edges; where it is narrower than a bin, it lies between two of them.
    total = np.concatenate([np.zeros((width, 1)), np.cumsum(power, axis=1)], axis=1)
    at = np.arange(total.shape[1])
    sums = np.stack([np.interp(edges, at, row) for row in total])
    rows = np.diff(sums, axis=1) / np.diff(edges)
    level = 10 * np.log10(rows.T[::-1] + 1e-12)
    return (255 * np.clip((level - level.max()) / 70 + 1, 0, 1)).astype(np.uint8)


def _png(picture: np.ndarray) -> bytes:
    """picture (height, width) uint8 -> a PNG with the palette BLACK_TO_LIGHT."""
    height, width = picture.shape
    steps = np.linspace(0, len(BLACK_TO_LIGHT) - 1, 256)
    colours = np.array(BLACK_TO_LIGHT)
    palette = np.stack([np.interp(steps, np.arange(len(colours)), colours[:, c]) for c in range(3)], axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in picture)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
              (b"PLTE", palette.astype(np.uint8).tobytes()), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _ogg(samples: np.ndarray, rate: int) -> bytes:
    import soundfile

    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, format="OGG", subtype="VORBIS") as ogg:
        for start in range(0, len(samples), 65536):  # libvorbis puts what it is given at once on its stack
            ogg.write(samples[start : start + 65536])
    return file.getvalue()


def _link(path: Path, home: Path) -> str:
    try:
        return quote(Path(os.path.relpath(path, home)).as_posix())
    except ValueError:  # another drive
        return path.absolute().as_uri()


def _duplicates(manifest: Manifest, home: Path) -> str:
    copies = [entry for entry in manifest if entry.duplicate_of is not None]
    if not copies:
        return "<p class=quiet>None: every file sounds different.</p>"
    known = {entry.path: entry for entry in manifest}

    def sound(path: str) -> str:
        link = _link(manifest.root / path, home)
        return f'<td><button class="mini" data-src="{link}" aria-label="play"></button><code>{_text(path)}</code></td>'

    rows = "".join(
        f"<tr>{sound(entry.path)}{sound(entry.duplicate_of or '')}"
        f"<td>{'equal samples' if entry.hash == known[entry.duplicate_of].hash else 'sounds the same'}</td></tr>"
        for entry in copies[:ROWS_SHOWN]
    )
    return _table(("file", "sounds like", ""), rows, len(copies))


def _rejects(result: ScanResult) -> str:
    if not result.rejects:
        return "<p class=quiet>None: every audio file of the folder is in the manifest.</p>"
    rows = "".join(f"<tr><td><code>{_text(r.path)}</code></td><td>{_text(r.reason)}</td></tr>"
                   for r in result.rejects[:ROWS_SHOWN])
    return _table(("file", "reason"), rows, len(result.rejects))


def _table(names: Sequence[str], rows: str, count: int) -> str:
    more = f"<p class=quiet>{count - ROWS_SHOWN:,} more are in the manifest's files.</p>" if count > ROWS_SHOWN else ""
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{more}'

"""The page stands alone, escapes what it shows, and plays what is really there."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile

from audiogen.data.page import choose, spectrogram, write_page
from audiogen.data.scan import scan

RATE = 16000


class Tags(HTMLParser):
    VOID = {"meta", "img", "link", "input", "br", "rect"}

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def result(tmp_path):
    for index, name in enumerate(["bells/a <b> & 'c'.wav", "bells/d.flac", "ü/e.aiff"]):
        path = tmp_path / "sounds & more" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(RATE) / RATE
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (400 + 300 * index) * time), RATE)
    (tmp_path / "sounds & more" / "bells" / "d.txt").write_text("<script>alert(1)</script> {{cards}}")
    (tmp_path / "sounds & more" / "bad.wav").write_text("no sound")
    return scan(tmp_path / "sounds & more", workers=1)


@pytest.mark.parametrize("embed", [False, True])
def test_the_page_is_whole_and_its_players_lead_to_the_files(tmp_path, result, embed):
    page = tmp_path / "pages" / "page.html"
    write_page(page, result, embed=embed)
    text = page.read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.open == [] and not re.search(r"\{\{\w+\}\}", text)
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    links = [values.get(name) or "" for _, values in tags.seen for name in ("src", "href")]
    assert not any(re.match("(https?:)?//", link) for link in links)
    assert "bad.wav" in text and "33.3%" not in text and "25.0%" in text
    sounds = [values["src"] for tag, values in tags.seen if tag == "audio"]
    linked = [sound for sound in sounds if not sound.startswith("data:")]
    assert len(sounds) == 3 and len(linked) == (0 if embed else 2)  # a browser cannot play AIFF: always embedded
    assert all((page.parent / unquote(link)).is_file() for link in linked)


def test_thumbnails_are_pngs_of_the_sound(tmp_path, result):
    write_page(tmp_path / "page.html", result)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', (tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(pictures) == 3
    data = base64.b64decode(pictures[0])
    width, height = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT")
    length = struct.unpack(">I", data[start - 4 : start])[0]
    assert len(zlib.decompress(data[start + 4 : start + 4 + length])) == height * (width + 1)


def test_a_higher_tone_is_drawn_higher():
    time = np.arange(RATE) / RATE
    tones = [np.sin(2 * np.pi * hertz * time) for hertz in (200, 1000, 5000)]
    rows = [int(spectrogram(tone, RATE).mean(axis=1).argmax()) for tone in tones]
    assert rows[0] > rows[1] > rows[2]


def test_clips_are_spread_over_the_styles_and_the_same_for_a_seed(result):
    chosen = choose(result.manifest, 2, 0)
    assert {entry.styles for entry in chosen} == {("bells",), ("ü",)}
    assert choose(result.manifest, 2, 0) == chosen and len(choose(result.manifest, 99, 0)) == 3

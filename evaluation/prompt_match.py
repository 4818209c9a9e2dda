"""Were the prompts obeyed? Clips that carry how they were made, against what is heard in them.

    length  as many seconds as were asked for, within 0.1 ms
    tempo   within 4 % of the score's; "octaves": half, double, a third and three times it count too
    key     the score's; "relative": its relative major or minor counts too
    text    the cosine of clip and prompt, for embedders that know words (CLAP)
    style   a linear probe trained on the reference's styles (its first folders) says the style that was asked for

The estimators err on real music too, so the style probe's accuracy on held-out reference clips and chance stand beside
its number; tempo and key are to be read against what `evaluate real/ real-with-known-tempo/` would give.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import torch

from evaluation.adherence import key_obeyed, tempo_obeyed
from evaluation.clips import ClipSet
from evaluation.estimate import group_of
from evaluation.probe import fit_probe, score_probe
from evaluation.summary import ClipLine, Summary

EXACT = 1e-4  # seconds
FOLDS = 5
FEWEST = 5  # clips of a style in the reference


def prompts_obeyed(clips: ClipSet) -> dict[str, Any] | None:
    """-> {"length", "tempo", "tempo_octaves", "key", "key_relative": rate; "lines": clip by clip}, each where there
    are clips that say what was asked; None where no clip does. Tempo and key need `check_clips(..., listen=True)`.
    """
    lines = []
    for path, digest in clips.clips.items():
        asked = asked_for(clips.made_by.get(digest, {}))
        if asked:
            lines.append({"path": clips.name(path), "asked": asked,
                          "found": {"seconds": clips.lengths[digest], **clips.heard.get(digest, {})}})
    if not lines:
        return None
    heard = [line for line in lines if "bpm" in line["found"]]
    tests = {
        "length": [abs(line["found"]["seconds"] - line["asked"]["seconds"]) <= EXACT
                   for line in lines if "seconds" in line["asked"]],
        **{f"tempo{suffix}": [tempo_obeyed(line["asked"]["bpm"], line["found"]["bpm"], octaves=bool(suffix))
                              for line in heard if line["asked"].get("bpm")] for suffix in ("", "_octaves")},
        **{f"key{suffix}": [key_obeyed(line["asked"]["key"], line["found"]["key"], relative=bool(suffix))
                            for line in heard if line["asked"].get("key")] for suffix in ("", "_relative")},
    }
    return {"clips": len(lines), **{name: rate(right) for name, right in tests.items() if right}, "lines": lines}


def asked_for(made_by: Mapping[str, Any]) -> dict[str, Any]:
    """{"seconds", "bpm", "key"} that a clip carries; what was composed where nothing was asked for."""
    prompt, music = made_by.get("prompt") or {}, made_by.get("music") or {}
    said = {"seconds": prompt.get("seconds"), "bpm": music.get("bpm") or prompt.get("bpm"),
            "key": music.get("key") or prompt.get("key")}
    return {name: value for name, value in said.items() if value}


def rate(right: Sequence[bool]) -> dict[str, Any]:
    """How many of how many, with Wilson's 95 % interval."""
    n, share = len(right), sum(right) / len(right)
    z2 = 1.959964**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return {"n": n, "right": sum(right), "share": share,
            "interval_95": [max(centre - reach, 0.0), min(centre + reach, 1.0)]}


# ------------------------------------------------------------------ style


def styles_obeyed(
    reference: Summary, generated: Summary, made_by: Mapping[str, Mapping[str, Any]] | None = None, *,
    reference_styles: Mapping[str, str] | None = None, generated_styles: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """Does a probe trained on the reference hear the styles that were asked for?

    A reference clip's style is the one that a manifest says (`reference_styles`, by content hash), else its first
    folder; a generated clip's the one that it was made with, else that of its manifest, else its first folder.
    -> the rate, the probe's own rate on held-out reference clips (takes of one piece, "song_01" and "song_02", are held
    out together), and chance. None where either side has no such styles.
    """
    known = [(clip, style) for clip in reference.clips if (style := _style_of(clip, {}, reference_styles or {}))]
    counts = Counter(style for _, style in known)
    known = [(clip, style) for clip, style in known if counts[style] >= FEWEST]
    styles = {style for _, style in known}
    if len(styles) < 2:
        return None
    asked = [(clip, style) for clip in generated.clips
             if (style := _style_of(clip, (made_by or {}).get(clip.digest, {}), generated_styles or {})) in styles]
    if not asked:
        return None
    held_out: list[bool] = []
    for fold in range(FOLDS):
        inside = [(c, s) for c, s in known if group_of(_piece(c), FOLDS) != fold]
        outside = [(c, s) for c, s in known if group_of(_piece(c), FOLDS) == fold]
        if outside and len({s for _, s in inside}) > 1:
            probe = fit_probe(_means(inside), [s for _, s in inside])
            held_out += [a == b for a, (_, b) in zip(probe.predict(_means(outside)), outside, strict=True)]
    probe = fit_probe(_means(known), [s for _, s in known])
    result = score_probe(probe, _means(asked), [s for _, s in asked])
    right = [guess == style for guess, (_, style) in zip(probe.predict(_means(asked)), asked, strict=True)]
    return {"embedder": reference.made_by["embedder"], "styles": len(styles), "chance": result.chance,
            "match": rate(right), "held_out": rate(held_out) if held_out else None,
            "per_style": {style: list(pair) for style, pair in result.per_class.items()}}


def _style_of(clip: ClipLine, made_by: Mapping[str, Any], said: Mapping[str, str]) -> str | None:
    """The one style that the clip was made with, or is said to have; a mix has none."""
    styles = made_by.get("styles")
    if isinstance(styles, dict):
        return _plain(next(iter(styles))) if len(styles) == 1 else None
    if said:  # a manifest speaks for all: of several styles, or none, it says so by silence
        return _plain(said[clip.digest]) if clip.digest in said else None
    parts = PurePath(clip.path).parts
    return _plain(parts[0]) if len(parts) > 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def _piece(clip: ClipLine) -> str:
    return re.sub(r"[\s_-]*\d+$", "", str(PurePath(clip.path).with_suffix("")))


def _means(clips: Sequence[tuple[ClipLine, str]]) -> torch.Tensor:
    return torch.stack([clip.mean for clip, _ in clips])


# ------------------------------------------------------------------ text


def text_match(
    embed_text: Callable[[Sequence[str]], torch.Tensor], generated: Summary, made_by: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The CLAP score: mean cosine of a clip's embedding and its prompt's, and the same with the prompts dealt to the
    wrong clips, which is what prompts say of any clip of the set. None where no clip carries a text."""
    known = [(clip, text) for clip in generated.clips
             if (text := (made_by.get(clip.digest, {}).get("prompt") or {}).get("text"))]
    if not known:
        return None
    audio = torch.nn.functional.normalize(_means(known).double(), dim=1)
    cosines = audio @ embed_text([text for _, text in known]).double().T           # (clips, prompts)
    own = cosines.diagonal()
    differs = torch.tensor([[a != b for _, b in known] for _, a in known])
    return {"value": float(own.mean()), "n": len(known),
            "se": float(own.std() / math.sqrt(len(own))) if len(own) > 1 else None,
            "wrong_prompts": float(cosines[differs].mean()) if differs.any() else None}


# ------------------------------------------------------------------ in words

LABELS = {"length": "exact length", "tempo": "tempo", "tempo_octaves": "tempo, octaves allowed", "key": "key",
          "key_relative": "key, relative allowed"}


def prompt_rows(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, found, beside it) of a result of `evaluate`, for tables."""
    lines = [(LABELS[name], _share(value), "") for name, value in (result.get("prompts") or {}).items()
             if name in LABELS]
    for measured in result["embedders"]:
        text = measured.get("text")
        if text:
            beside = "" if text["wrong_prompts"] is None else f"wrong prompts {text['wrong_prompts']:.3f}"
            found = f"{text['value']:.3f}" + ("" if text["se"] is None else f" ± {text['se']:.2g}")
            lines.append((f"cosine of clip and prompt, by {measured['embedder']}", found, beside))
        style = measured.get("style")
        if style:
            beside = f"chance {style['chance']:.0%}"
            if style["held_out"]:
                beside = f"held-out real clips {style['held_out']['share']:.0%}, {beside}"
            lines.append((f"style, by {style['embedder']}", _share(style["match"]), beside))
    return lines


def _share(value: Mapping[str, Any]) -> str:
    low, high = value["interval_95"]
    return f"{value['right']} of {value['n']}: {value['share']:.0%} ({low:.0%} - {high:.0%})"



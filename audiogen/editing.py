"""Making a part of a recording anew (edit), or going on after its end or before its beginning (extend).

    level   the recording is brought to the loudness of the training data, and the new part back
    plan    the notes before and after are heard; the composer writes the new ones in the same tempo, key and beat
    mel     the known frames are kept, the others generated to go with them (generators/inpainting.py)
    sound   the whole is vocoded; the new part replaces the old between two short cross-fades

Outside of the new part the samples stay as they are, bit for bit, in all channels and at the recording's own rate. A
seam of 30 ms belongs to the new part: the end (or beginning) of what is extended is faded over into it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import audiogen
from audiogen.core.audio import Audio
from audiogen.core.config import to_dict
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.registry import resolve
from audiogen.core.rng import SampleRng
from audiogen.core.score import Score
from audiogen.pipeline import TRAINED_LUFS, Engine, Part, check_seconds, prompt_values
from audiogen.signal.features import beat_offset, estimate_key, estimate_tempo
from audiogen.signal.loudness import integrated_loudness
from audiogen.signal.notes import transcribe_notes
from audiogen.signal.resample import resample

CONTEXT_SECONDS = 8.0  # of the recording that are looked at on either side
FADE_SECONDS = 0.03
MOST_DB = 9.0  # that the new part is made louder or softer to go with the rest
SURE = 0.3  # confidence above which a heard tempo is gone on with


def edit(
    engine: Engine, sound: Audio, prompt: Prompt | str, *, start: float, end: float, seed: int = 0,
    strength: float = 1.0, **sampling: Any,
) -> Audio:
    """`sound` with what lies between `start` and `end` seconds made anew from the prompt.

    `strength` below 1 keeps some of what was there: a variation of it. The prompt's `seconds` is ignored.
    """
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end <= sound.seconds + 1e-6):
        raise UserError(f"from {start:g} to {end:g} s: choose a span within the recording's {sound.seconds:.2f} s")
    samples = sound.samples
    first, last = round(start * sound.sample_rate), min(round(end * sound.sample_rate), samples.shape[1])
    return _remake(engine, sound, samples, first, last, prompt, seed, strength, sampling)


def extend(
    engine: Engine, sound: Audio, prompt: Prompt | str, *, seconds: float, before: bool = False, seed: int = 0,
    **sampling: Any,
) -> Audio:
    """`sound` with `seconds` more at its end (or, `before`, at its beginning), which go on from it."""
    check_seconds(seconds)
    more = torch.zeros(sound.samples.shape[0], round(seconds * sound.sample_rate))
    samples = torch.cat((more, sound.samples) if before else (sound.samples, more), dim=1)
    here, new = sound.samples.shape[1], more.shape[1]
    seam = min(round(FADE_SECONDS * sound.sample_rate), here)  # where the old goes over into the new
    first, last = (0, new + seam) if before else (here - seam, here + new)
    return _remake(engine, sound, samples, first, last, prompt, seed, 1.0, sampling)


def _remake(
    engine: Engine, sound: Audio, samples: Tensor, first: int, last: int, prompt: Prompt | str, seed: int,
    strength: float, sampling: dict[str, Any],
) -> Audio:
    """samples (channels, time) with first .. last - 1 made anew."""
    prompt = Prompt(text=prompt) if isinstance(prompt, str) else prompt
    rate = sound.sample_rate
    if sound.samples.shape[1] == 0:
        raise UserError("there is no sound in it: zero samples")
    if last - first < 0.05 * rate:
        raise UserError(f"{(last - first) / rate:g} s are too short to be made anew: choose 0.05 s at least")
    if not hasattr(engine.generator.model, "objective"):
        raise UserError(f"a generator of the family {engine.generator.name} cannot fill gaps; a diffusion model can")
    chosen = engine.sampling(**sampling)
    left = max(0, first - round(CONTEXT_SECONDS * rate))
    right = min(samples.shape[1], last + round(CONTEXT_SECONDS * rate))
    heard = Audio(samples[:, left:right].mean(dim=0, keepdim=True), rate)
    check_seconds(heard.seconds)
    around = torch.cat((samples[:, left:first], samples[:, last:right]), dim=1).mean(dim=0, keepdim=True)
    loudness = integrated_loudness(Audio(around, rate)) if around.shape[1] else None
    gain = 1.0 if loudness is None else 10.0 ** ((TRAINED_LUFS - loudness) / 20.0)
    span = ((first - left) / rate, (last - left) / rate)
    new = _new_part(engine, replace(heard, samples=heard.samples * gain), span, prompt, seed, strength, chosen)
    if strength == 1 and loudness is not None:
        new = _levelled(new, rate)
    new = new / gain
    made = samples.clone()
    made[:, first:last] = _faded(samples[:, first:last], new, rate, begins=first > 0, ends=last < samples.shape[1])
    made_by = {
        "audiogen": audiogen.__version__, "prompt": prompt_values(prompt), "seed": seed, "sampling": to_dict(chosen),
        "checkpoint": engine.hashes, "torch": torch.__version__,
        "edit": {"from": first / rate, "to": last / rate, "strength": strength,
                 "source": hashlib.blake2b(sound.samples.numpy().tobytes(), digest_size=16).hexdigest()},
    }
    return Audio(made.clamp(-1.0, 1.0) if float(samples.abs().max()) <= 1.0 else made, rate, made_by)


def _new_part(
    engine: Engine, heard: Audio, span: tuple[float, float], prompt: Prompt, seed: int, strength: float, chosen: Any
) -> Tensor:
    """-> (1, time) at the recording's rate: what is heard between the seconds of `span`."""
    from audiogen.generators.inpainting import Known
    from audiogen.pipeline import Voice

    voice = Voice(engine.vocoder, engine.device)
    mel, time = voice.analyse(heard)  # (1, n_mels, frames)
    format = engine.mel
    # A frame that reaches into the span by half its window is not known.
    reach = format.n_fft / 2 / format.sample_rate
    centres = (torch.arange(mel.shape[2]) + 0.5) / format.frame_rate - format.lead / format.sample_rate
    mask = (centres < span[0] - reach) | (centres > span[1] + reach)
    weights = engine.read(prompt).weights
    score = _score(engine, heard, span, prompt, weights, seed)
    known = Known(mel, mask[None], strength)
    made = engine.sample(
        prompt, [Part(weights, score)], seed=seed, sampling=chosen, frames=mel.shape[2], known=known
    )
    audio = engine.render(made, seed=seed)[0][:, format.lead : format.lead + time]
    audio = resample(audio, format.sample_rate, heard.sample_rate)
    first, last = (round(second * heard.sample_rate) for second in span)
    audio = torch.nn.functional.pad(audio, (0, max(0, last - audio.shape[1])))
    return audio[:, first:last]


def _levelled(new: Tensor, sample_rate: int) -> Tensor:
    """The new part at the loudness of what is around it, as far as that is a matter of a few decibels."""
    loudness = integrated_loudness(Audio(new, sample_rate))
    if loudness is None:
        return new
    return new * 10.0 ** (min(max(TRAINED_LUFS - loudness, -MOST_DB), MOST_DB) / 20.0)


def _score(
    engine: Engine, heard: Audio, span: tuple[float, float], prompt: Prompt, weights: dict[str, float], seed: int
) -> Score | None:
    """The notes that are heard outside of the span, and new ones inside; None where the style is a texture."""
    leading = max(weights, key=lambda style: weights[style], default="")
    if leading not in engine.played:
        return None
    rate = heard.sample_rate
    around = [note for note in transcribe_notes(heard.samples, rate)
              if note.onset < span[0] - 0.03 or note.onset > span[1] + 0.03]
    sides = [heard.samples[:, : round(span[0] * rate)], heard.samples[:, round(span[1] * rate):]]
    longer = max(sides, key=lambda side: side.shape[1])
    asked = replace(prompt, styles=((leading, 1.0),), score=None)
    begin = span[0]
    if longer.shape[1] >= 2 * rate and prompt.score is None:
        bpm, sure = estimate_tempo(longer, rate)
        if asked.bpm is None and sure > SURE:
            asked = replace(asked, bpm=float(round(bpm)))
        if asked.key is None and around:
            asked = replace(asked, key=estimate_key(longer, rate)[0] or None)
        if asked.bpm is not None and longer is sides[0]:  # the new notes go on in the beat
            beat = 60.0 / asked.bpm
            begin += (beat_offset(longer, rate, asked.bpm) - span[0]) % beat
    new = prompt.score
    if new is None:
        composer = resolve("composer", engine.composer)()
        new = composer.compose(asked, seconds=span[1] - span[0], rng=SampleRng(seed, stream="score"))
    moved = [replace(note, onset=note.onset + begin, duration=min(note.duration, span[1] - note.onset - begin))
             for note in new.notes if note.onset + begin < span[1] - 0.03]
    # What was held into the span ends there: the new part has its own notes.
    kept = [replace(note, duration=min(note.duration, span[0] - note.onset)) if note.onset < span[0] else note
            for note in around]
    return Score(tuple(sorted(kept + moved)), bpm=new.bpm, metre=new.metre, key=new.key)


def _faded(old: Tensor, new: Tensor, sample_rate: int, *, begins: bool, ends: bool) -> Tensor:
    """old (channels, time), new (1, time) -> new, cross-faded from and to what was there (equal sums).

    Where nothing comes before or after the span, the new part fades in from or out to silence.
    """
    time = new.shape[1]
    fade = min(round(FADE_SECONDS * sample_rate), time // 2)
    weight = torch.ones(time)
    ramp = (torch.arange(fade) + 0.5) / fade
    weight[:fade] = ramp
    weight[time - fade :] = ramp.flip(0)
    inside = torch.zeros_like(old)
    if begins:
        inside[:, :fade] = old[:, :fade]
    if ends:
        inside[:, time - fade :] = old[:, time - fade :]
    return weight * new + (1 - weight) * inside

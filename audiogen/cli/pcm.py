"""Raw PCM on stdout while a vocoder renders: what `audiogen vocode --stream` does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

from audiogen.core.errors import UserError


def stream_pcm(voice: Any, sound: Any, *, chunk_frames: int, pcm: str) -> None:
    """Render `sound` to stdout, chunk by chunk. voice: a `pipeline.Voice`; sound: `Audio`, a mel (n_mels, frames), or
    None for mel frames on stdin; pcm: "s16le" or "f32le"."""
    from torch import Tensor

    from audiogen.core.rng import SampleRng
    from vocoders.streaming import lookahead_seconds, render_in_chunks

    format, model = voice.mel, voice.vocoder.model
    ahead = lookahead_seconds(model)  # an error here, before a byte is written, where the model cannot
    if sound is None:
        mels, first, last = frames_of(sys.stdin.buffer, format.n_mels, chunk_frames), 0, None
    elif isinstance(sound, Tensor):
        mels, first, last = iter(sound[None].split(chunk_frames, 2)), 0, None
    else:
        mel, time = voice.analyse(sound)
        mels, first, last = iter(mel.split(chunk_frames, 2)), format.lead, format.lead + time
    chunk = chunk_frames / format.frame_rate
    print(f"audiogen: {pcm}, {format.sample_rate} Hz, 1 channel; lookahead {1000 * ahead:.0f} ms, chunks of "
          f"{1000 * chunk:.0f} ms", file=sys.stderr, flush=True)
    head = next(mels, None)
    if head is None:
        raise UserError("stdin holds no mel frame")
    rng = SampleRng(0, ids=[0], stream="vocoder")  # as Voice.render: the same clip as without --stream
    mels = (mel.to(voice.device) for mel in chain([head], mels))
    done = 0
    for audio in render_in_chunks(model, mels, rng=rng):
        begin, end = max(first - done, 0), audio.shape[2] if last is None else last - done
        done += audio.shape[2]
        sys.stdout.buffer.write(encode(audio[0, 0, begin : max(end, begin)], pcm))
        sys.stdout.buffer.flush()


def encode(audio: Any, pcm: str) -> bytes:
    """(time,) in [-1, 1], clipped to it -> little-endian bytes."""
    samples = audio.detach().float().cpu().clamp(-1.0, 1.0).numpy()
    return (samples * 32767.0).round().astype("<i2").tobytes() if pcm == "s16le" else samples.astype("<f4").tobytes()


def frames_of(source: BinaryIO, n_mels: int, chunk_frames: int) -> Iterator[Any]:
    """float32 bytes, frame after frame -> mels (1, n_mels, frames), frames <= chunk_frames. A frame that is cut short
    is a `UserError`: mostly it is a mel of another number of bands."""
    import numpy as np
    import torch

    frame = 4 * n_mels
    while True:
        data = source.read(frame * chunk_frames)
        if not data:
            return
        if len(data) % frame:
            raise UserError(
                f"stdin ended {len(data) % frame} bytes into a frame; the vocoder reads frames of {n_mels} float32 "
                f"numbers, {frame} bytes"
            )
        yield torch.from_numpy(np.frombuffer(data, "<f4").reshape(-1, n_mels).T.copy())[None]

"""How fast is our log-mel, against librosa's and torchaudio's? Prints a table; --json PATH writes it as JSON.

    python benchmarks/mel.py [--seconds 10] [--batch 1] [--device cpu] [--json mel.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from audiogen.core.files import whole_file  # noqa: E402
from audiogen.core.librosa_once import load_librosa  # noqa: E402
from audiogen.core.mel_format import MEL_FORMATS  # noqa: E402
from audiogen.signal.mel import MelSpectrogram  # noqa: E402
from audiogen.signal.torchaudio_parts import torchaudio_parts  # noqa: E402


def median_seconds(function: Callable[[], object], device: str, repeats: int = 9) -> float:
    """Median wall time of one call, after two that warm up caches and threads."""
    times = []
    for turn in range(repeats + 2):
        start = time.perf_counter()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        if turn >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(name: str, seconds: float, batch: int, device: str) -> dict:
    """Seconds of audio per second of wall time, of each way, for the format of that name."""
    librosa = load_librosa()
    f = MEL_FORMATS[name]
    audio = 0.1 * torch.randn(batch, int(seconds * f.sample_rate), generator=torch.Generator().manual_seed(0))
    on_device, array = audio.to(device), audio.numpy()
    ours = MelSpectrogram(f).to(device)
    theirs = torchaudio_parts().transforms.MelSpectrogram(
        f.sample_rate, n_fft=f.n_fft, win_length=f.win_length, hop_length=f.hop_length, n_mels=f.n_mels, f_min=f.f_min,
        f_max=f.f_max, power=f.power, mel_scale=f.mel_scale, norm=f.norm,
    ).to(device)
    speeds = {
        "audiogen": median_seconds(lambda: ours(on_device), device),
        "torchaudio": median_seconds(lambda: theirs(on_device).clamp(min=f.floor).log(), device),
        "librosa": median_seconds(lambda: librosa.feature.melspectrogram(
            y=array, sr=f.sample_rate, n_fft=f.n_fft, win_length=f.win_length, hop_length=f.hop_length, n_mels=f.n_mels,
            fmin=f.f_min, fmax=f.f_max, htk=f.mel_scale == "htk", norm=f.norm, power=f.power,
        ).clip(f.floor), "cpu"),
    }
    return {"format": name, **{way: batch * seconds / wall for way, wall in speeds.items()}}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=10.0, help="of audio in each clip")
    arguments.add_argument("--batch", type=int, default=1, help="clips at once")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--json", type=Path, help="write the table here too")
    options = arguments.parse_args()
    rows = [measure(name, options.seconds, options.batch, options.device) for name in MEL_FORMATS]
    print("seconds of audio per second, median of 9; the last column is how many times faster than librosa")
    print(f"{'format':24}{'audiogen':>10}{'torchaudio':>12}{'librosa':>10}{'ratio':>8}")
    for row in rows:
        row["ratio_to_librosa"] = row["audiogen"] / row["librosa"]
        print(f"{row['format']:24}{row['audiogen']:10.0f}{row['torchaudio']:12.0f}{row['librosa']:10.0f}"
              f"{row['ratio_to_librosa']:8.2f}")
    if options.json:
        machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        with whole_file(options.json) as part:
            part.write_text(json.dumps({"machine": machine, "device": options.device, "seconds": options.seconds,
                                        "batch": options.batch, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

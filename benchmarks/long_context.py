"""How far back does a model of notes see, and what memory does that take? Full attention against remembered segments.

    python benchmarks/long_context.py
    python benchmarks/long_context.py --checkpoint runs/transformer_xl/model --folder MIDI/ --json long_context.json

For the Music Transformer's attention (every earlier token) and Transformer-XL's (the segment before, in every layer),
at the sizes of the composers' presets:

peak     memory of one training step over so many tokens beyond that of the model at rest, MiB (Linux only). "by
         segment": every segment goes back before the next is read, as nothing goes back across them. "cut": the same
         for the Music Transformer, whose pieces of that length know nothing of each other.
state    what generation keeps after so many tokens, MiB
reach    how many tokens back a change of the input still moves the last output, measured by its gradient

With a checkpoint of transformer_xl: nats a token on held-out tunes (split valid and test, at most --length tokens
each), with the memory kept from segment to segment, and dropped at each: the same memory and work, another reach.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.composers.transformer import NETWORK  # noqa: E402  (runs outside an installed audiogen)
from audiogen.nn.transformer import Transformer  # noqa: E402
from benchmarks.clip import machine  # noqa: E402

LENGTHS = (256, 512, 1024, 2048)
KINDS = {"full": "relative", "cut": "relative", "segments": "segment", "by segment": "segment"}


def network(kind: str) -> Transformer:
    torch.manual_seed(0)
    return Transformer(replace(NETWORK, attention=KINDS[kind], dropout=0.0))


def peak_mib(kind: str, tokens: int) -> float:
    model = network(kind).train()
    x = torch.randn(1, tokens, NETWORK.width)
    model(x[:, :8]).sum().backward()  # libraries, gradients
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    rest = resident_mib()
    if kind == "full":
        model(x).sum().backward()
    else:
        state, losses = None if kind == "cut" else model.begin(), []
        for part in x.split(NETWORK.memory, dim=1):
            losses.append(model(part, state).sum())
            if kind != "segments":
                losses.pop().backward()
        if losses:
            sum(losses).backward()
    return resident_mib() - rest


def resident_mib() -> float:
    """The most that this process has held since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


@torch.inference_mode()
def state_mib(kind: str, tokens: int) -> float:
    model = network(kind).eval()
    state = model.begin()
    tokens = NETWORK.memory if kind == "cut" else tokens
    for part in torch.randn(1, tokens, NETWORK.width).split(NETWORK.memory, dim=1):
        model(part, state)
    numbers = 0
    for layer in state.layers:
        kept = layer.tokens if KINDS[kind] == "relative" else layer.keys.shape[2]
        numbers += 2 * kept * NETWORK.width  # keys and values
    return numbers * 4 / 2**20


def reach(kind: str, tokens: int = 1024) -> int:
    model = network(kind).eval()
    x = torch.randn(1, tokens, NETWORK.width, requires_grad=True)
    seen = x[:, -NETWORK.memory :] if kind == "cut" else x
    model(seen)[0, -1].square().sum().backward()
    return tokens - 1 - int((x.grad[0].abs().sum(1) > 0).nonzero()[0])


@torch.inference_mode()
def held_out(checkpoint: Path, folder: Path, length: int) -> dict[str, float]:
    """Nats a token after the first segment, with the memory kept and dropped."""
    from audiogen.composers.events import tokens_of
    from audiogen.composers.tunes import read_tunes
    from audiogen.core.checkpoint import load_checkpoint

    model = load_checkpoint(checkpoint, room="composer").model
    memory = model.config.network.memory
    sums = {"kept": 0.0, "dropped": 0.0}
    count = 0
    for split in ("valid", "test"):
        for tune in read_tunes(folder, split=split)[0]:
            line = torch.tensor([tokens_of(tune.sheet, model.vocabulary)[: length + 1]])
            given, wanted = line[:, :-1], line[0, 1:]
            if given.shape[1] <= memory:
                continue
            logits = {"kept": model(given)[0], "dropped": torch.cat([model(p)[0] for p in given.split(memory, 1)])}
            for name, rows in logits.items():
                sums[name] += float(torch.nn.functional.cross_entropy(rows[memory:], wanted[memory:], reduction="sum"))
            count += len(wanted) - memory
    return {name: value / count for name, value in sums.items()} | {"tokens": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a transformer_xl composer")
    parser.add_argument("--folder", type=Path, help="MIDI files with held-out tunes")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(machine())
    print("peak MiB over  " + "".join(f"{tokens:>10}" for tokens in LENGTHS) + f"{'state':>10}{'reach':>8}")
    # Each peak in a process of its own: memory that was freed stays with a process and hides what is taken next.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        pairs = [(kind, tokens) for kind in KINDS for tokens in LENGTHS]
        measured = dict(zip(pairs, pool.starmap(peak_mib, pairs, chunksize=1), strict=True))
    for kind in KINDS:
        peaks = [round(measured[kind, tokens], 1) for tokens in LENGTHS]
        row = {"kind": kind, "tokens": LENGTHS, "peak_mib": peaks, "state_mib": state_mib(kind, LENGTHS[-1]),
               "reach": reach(kind)}
        rows.append(row)
        print(f"{kind:15}" + "".join(f"{peak:10.0f}" for peak in peaks)
              + f"{row['state_mib']:10.2f}{row['reach']:8}", flush=True)
    found = {"machine": machine(), "memory": NETWORK.memory, "layers": NETWORK.layers, "rows": rows}
    if options.checkpoint:
        found["held_out"] = held_out(options.checkpoint, options.folder, options.length)
        print("nats a token: memory kept {kept:.4f}, dropped {dropped:.4f}; {tokens} tokens".format_map(
            found["held_out"]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

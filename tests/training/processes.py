"""Run by test_processes.py under `accelerate launch`: trains the toy of test_fit.py and writes its weights."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import test_fit as toys  # noqa: E402

import audiogen.generators  # noqa: E402

audiogen.generators.TABLE["toy"] = "test_fit:Toy"

if __name__ == "__main__":
    torch.set_num_threads(1)
    out, kind = Path(sys.argv[1]), sys.argv[2]
    task = getattr(toys, kind)()
    toys.fit(task, toys.Data(), toys.config(out, steps=6), collate=toys.collate)
    if int(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0) == 0:
        torch.save(toys.weights(task), out / "weights.pt")

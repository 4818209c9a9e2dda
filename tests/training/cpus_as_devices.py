"""accelerate, told that this machine has devices which talk through gloo, and that they are its CPUs.

It starts FSDP2 and DeepSpeed on accelerators only, though both run on CPUs. Imported first, or as a program:

    cpus_as_devices.py RECIPE.py [options]      behind accelerate's launcher, without ACCELERATE_USE_CPU
"""

from __future__ import annotations

import runpy
import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

PartialState._prepare_backend = lambda self, cpu=False, sagemaker_dp=False, backend=None: (
    "gloo", DistributedType.MULTI_GPU)
PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")

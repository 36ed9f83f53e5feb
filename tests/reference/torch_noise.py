"""Makes tests/data/torch_noise.safetensors: torch.randn on the CPU, and ComfyUI's Brownian noise.

"randn.SEED" holds draws of the sizes in DRAWS one after the other, each a call; "tree.SEED" [step, ...] the unit noise
that ComfyUI's BrownianTreeNoiseSampler gives for the steps between neighbours in "times".

    python3 tests/reference/torch_noise.py tests/data/torch_noise.safetensors

Made with torch 2.11.0, torchsde 0.2.6, numpy 2.4.6, safetensors 0.8.0, on the CPU.
"""

import sys

import torch
import torchsde
from safetensors.torch import save_file

DRAWS = [4, 1, 15, 16, 17, 3, 40, 333]
SEEDS = [0, 42, 2**32 + 5, 123456789012]

tensors = {"times": torch.tensor([14.614642, 9.25, 8.1234567, 3.5, 3.4999990, 0.7, 0.029167533])}
for seed in SEEDS:
    torch.manual_seed(seed)
    tensors[f"randn.{seed}"] = torch.cat([torch.randn(count) for count in DRAWS])
    times = tensors["times"]
    tree = torchsde.BrownianTree(times[-1], torch.zeros(1, 4, 3, 2), times[0], entropy=seed)
    steps = [-tree(low, high) / (low - high).abs().sqrt() for high, low in zip(times[:-1], times[1:])]
    steps.append(-tree(times[2], times[0]) / (times[2] - times[0]).abs().sqrt())
    tensors[f"tree.{seed}"] = torch.stack(steps)
save_file(tensors, sys.argv[1])

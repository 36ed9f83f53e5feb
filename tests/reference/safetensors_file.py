"""Writes tests/io/mixed.safetensors with the reference implementation: one tensor of every dtype that we support.

    pip install safetensors torch && python tests/reference/safetensors_file.py
"""

import pathlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "io" / "mixed.safetensors"

save_file({
    "weight": torch.tensor([[1.5, -2.0, 0.25], [3e38, -0.0, 1e-40]], dtype=torch.float32),
    "half": torch.tensor([0.5, 65504.0, -1.0], dtype=torch.float16),
    "brain": torch.tensor([1.0, -3e38], dtype=torch.bfloat16),
    "alpha": torch.tensor(8.0, dtype=torch.float16),
    "position": torch.tensor([[-1, 2**40]], dtype=torch.int64),
    "count": torch.tensor([-7, 2**31 - 1], dtype=torch.int32),
    "bytes": torch.tensor([0, 127, 255], dtype=torch.uint8),
    "flags": torch.tensor([True, False, True]),
    "none": torch.zeros(0, 4, dtype=torch.float32),
    'größe "b"\n': torch.tensor([2.0], dtype=torch.float32),
}, OUT, metadata={"ss_comment": 'a "quoted" \\ line\nand größe'})

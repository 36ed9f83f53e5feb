"""Writes with the reference implementation (torch 2.11, safetensors 0.8) tests/io/mixed.safetensors, one tensor of every dtype
that we have, and foreign_dtypes.safetensors, those that are converted while they are read, with what torch makes of them.

    pip install safetensors torch && python tests/reference/safetensors_file.py
"""

import pathlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "io"

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
}, OUT / "mixed.safetensors", metadata={"ss_comment": 'a "quoted" \\ line\nand größe'})

codes = torch.arange(256, dtype=torch.uint8)
doubles = torch.cat([torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 10.0**exponent
                     for exponent in (-40, -3, 0, 30)] + [torch.tensor([1 / 3, 1e300, float("nan")], dtype=torch.float64)])
foreign = {"f8_e4m3": codes.view(torch.float8_e4m3fn), "f8_e5m2": codes.clone().view(torch.float8_e5m2), "f64": doubles}
save_file({**foreign, **{f"{name}.f32": value.float() for name, value in foreign.items()}}, OUT / "foreign_dtypes.safetensors")

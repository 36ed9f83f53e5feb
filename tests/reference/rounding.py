"""Writes tests/data/rounding.safetensors: floats, and what PyTorch rounds them to in f16 and bf16.

    python tests/reference/rounding.py          (needs torch and numpy)

Random bit patterns (every exponent, subnormals, infinities), and for each format the neighbourhoods of random ties.
"""

from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent.parent / "data" / "rounding.safetensors"


def ties(random, fraction_bits, count):
    """Floats whose bits below the format's fraction are exactly half, and one step to either side."""
    kept = random.integers(0, 1 << 32, count, dtype=numpy.uint64) >> (23 - fraction_bits) << (23 - fraction_bits)
    middle = kept + (1 << (22 - fraction_bits))
    return numpy.concatenate([middle - 1, middle, middle + 1])


if __name__ == "__main__":
    random = numpy.random.default_rng(0)
    patterns = [random.integers(0, 1 << 32, 1500, dtype=numpy.uint64), ties(random, 10, 300), ties(random, 7, 300)]
    subnormal_f16 = random.uniform(-2e-7, 2e-7, 300).astype(numpy.float32).view(numpy.uint32)
    small_f16 = random.uniform(-7e-5, 7e-5, 300).astype(numpy.float32).view(numpy.uint32)
    bits = numpy.concatenate(patterns + [subnormal_f16, small_f16]).astype(numpy.uint32)
    x = torch.from_numpy(bits.view(numpy.float32))
    x = x[~x.isnan()]
    save_file({"x": x, "f16": x.to(torch.float16), "bf16": x.to(torch.bfloat16)}, OUT)
    print(f"{OUT}: {len(x)} values, {OUT.stat().st_size} bytes")

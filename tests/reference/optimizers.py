"""Writes tests/data/optimizers.safetensors: how far each optimiser's own implementation moves parameters.

    python tests/reference/optimizers.py     (torch 2.11.0, transformers 5.23.0, diffusers 0.42.1, safetensors, and
                                              lion-pytorch 0.2.5, prodigyopt 1.1.2, schedulefree 1.4.1, bitsandbytes 0.50.2)

Values and gradients are a formula that tests/optim/reference_test.cpp has too, so that only results are kept: CASE/NAME is
what parameter NAME has moved by after steps 1, 10 and 60, CASE/d Prodigy's estimate there, CASE/averaged.NAME what
schedule-free AdamW gives out. map.signed and map.unsigned are bitsandbytes' dynamic maps, lr/NAME factors of diffusers'
schedules at steps 0 to 60.
"""

from pathlib import Path

import bitsandbytes
import bitsandbytes.backends.cpu.ops as bitsandbytes_cpu
import numpy
import torch
from bitsandbytes.functional import create_dynamic_map
from diffusers.optimization import get_scheduler
from lion_pytorch import Lion
from prodigyopt import Prodigy
from safetensors.torch import save_file
from schedulefree import AdamWScheduleFree
from transformers.optimization import Adafactor

OUT = Path(__file__).resolve().parent.parent / "data" / "optimizers.safetensors"
STEPS, KEPT = 60, (1, 10, 60)
SMALL = {"matrix": (12, 20), "vector": (7,), "conv": (2, 3, 3, 5), "number": ()}
LARGE = {"matrix": (40, 130), "small": (30, 7)}  # bitsandbytes gives bytes to 4096 values or more
FAST, SLOW = {"matrix", "vector"}, {"conv", "number"}  # two groups
MASK = (1 << 64) - 1


def mix(z):
    z = (z ^ z >> numpy.uint64(30)) * numpy.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> numpy.uint64(27)) * numpy.uint64(0x94D049BB133111EB)
    return z ^ z >> numpy.uint64(31)


def uniform(name, shape):
    """[-1, 1): the weights' formula of tests/parity/README.md, with seed 0."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 & MASK
    count = int(numpy.prod(shape))
    state = mix(numpy.array([state], dtype=numpy.uint64))
    z = mix(state + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15))
    value = ((z >> numpy.uint64(40)).astype(numpy.float64) - 2**23) * 2.0**-23
    return torch.from_numpy(value.astype(numpy.float32)).reshape(shape)


def gradient(name, step, shape):
    return 0.1 * (uniform(f"{name}/{step}", shape) + 0.5 * uniform(f"{name}/mean", shape))


def run(case, make, shapes=SMALL):
    values = {name: (uniform(name, shape) * 0.125).requires_grad_() for name, shape in shapes.items()}
    start = {name: value.detach().clone() for name, value in values.items()}
    optimizer = make(values)
    tensors = {}

    def keep(prefix):
        for name, value in values.items():
            tensors.setdefault(f"{case}/{prefix}{name}", []).append(value.detach() - start[name])

    if isinstance(optimizer, AdamWScheduleFree):
        optimizer.train()
    for step in range(1, STEPS + 1):
        for name, value in values.items():
            value.grad = gradient(name, step, value.shape)
        optimizer.step()
        if step not in KEPT:
            continue
        keep("")
        if isinstance(optimizer, Prodigy):
            tensors.setdefault(f"{case}/d", []).append(torch.tensor(optimizer.param_groups[0]["d"]))
        if isinstance(optimizer, AdamWScheduleFree):
            optimizer.eval()
            keep("averaged.")
            optimizer.train()
    return {name: torch.stack(steps).float() for name, steps in tensors.items()}


def quantize_as_cuda_does(values, code, absmax_out, out, blocksize):
    """Nearest codes, and no value below 0 may lose its sign: the kernels in bitsandbytes' csrc/kernels.cu. On the CPU the
    package looks codes up in a table too coarse for the small ones, which is not what anybody trains with."""
    padded = torch.nn.functional.pad(values.flatten(), (0, -values.numel() % blocksize)).view(-1, blocksize)
    absmax_out.copy_(padded.abs().amax(1))
    scaled = (padded / absmax_out.clamp_min(1e-45)[:, None]).flatten()[: values.numel()]
    nearest = (scaled[:, None].double() - code[None].double()).abs().argmin(1)
    nearest -= ((scaled < 0) & (code[nearest] >= 0)).long()
    out.copy_(nearest.to(torch.uint8).view(out.shape))


def all_of(kind, **options):
    return lambda values: kind(values.values(), **options)


def two_groups(kind, slow, **options):
    return lambda values: kind(
        [{"params": [values[name] for name in values if name in FAST]},
         {"params": [values[name] for name in values if name in SLOW], **slow}], **options)


CASES = {
    "adamw": all_of(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
    "adamw.groups": two_groups(torch.optim.AdamW, {"lr": 2e-3, "weight_decay": 0.0}, lr=1e-2, weight_decay=0.1),
    "lion": all_of(Lion, lr=1e-3, weight_decay=0.1),
    "lion.groups": two_groups(Lion, {"lr": 2e-4, "weight_decay": 0.0}, lr=1e-3, weight_decay=0.1, betas=(0.95, 0.98)),
    "adafactor": all_of(Adafactor),
    "adafactor.fixed": all_of(Adafactor, lr=1e-2, scale_parameter=False, relative_step=False, weight_decay=0.1),
    "adafactor.moment": all_of(Adafactor, lr=1e-2, relative_step=False, beta1=0.9, clip_threshold=0.5, decay_rate=-0.5),
    "adafactor.warmup": all_of(Adafactor, warmup_init=True, scale_parameter=False),
    "adafactor.groups": two_groups(Adafactor, {"lr": 2e-3, "weight_decay": 0.0}, lr=1e-2, scale_parameter=False,
                                   relative_step=False, weight_decay=0.1),
    "prodigy": all_of(Prodigy, d0=1e-3),
    "prodigy.safe": all_of(Prodigy, d0=1e-3, d_coef=0.5, weight_decay=0.1, safeguard_warmup=True,
                           use_bias_correction=True),
    "prodigy.coupled": all_of(Prodigy, lr=0.5, d0=1e-3, weight_decay=0.01, decouple=False, growth_rate=1.5,
                              beta3=0.9, betas=(0.8, 0.99)),
    "prodigy.no_moment": all_of(Prodigy, d0=1e-3, betas=(0.0, 0.99), growth_rate=1.05),
    "schedule_free": all_of(AdamWScheduleFree, lr=1e-2),
    "schedule_free.warmup": all_of(AdamWScheduleFree, lr=1e-2, weight_decay=0.1, warmup_steps=20, r=0.5,
                                   weight_lr_power=1.0, betas=(0.95, 0.99)),
    "schedule_free.groups": two_groups(AdamWScheduleFree, {"lr": 2e-3, "weight_decay": 0.0}, lr=1e-2, weight_decay=0.1,
                                       warmup_steps=5),
}
SCHEDULES = {
    "cosine_with_restarts": ("cosine_with_restarts", {"num_cycles": 3}),
    "cosine_with_restarts.one": ("cosine_with_restarts", {"num_cycles": 1}),
    "polynomial": ("polynomial", {"power": 2.0}),
    "polynomial.line": ("polynomial", {"power": 1.0}),
    "linear": ("linear", {}),
    "cosine": ("cosine", {}),
    "constant_with_warmup": ("constant_with_warmup", {}),
    "constant": ("constant", {}),
}


def factors(name, options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=7, num_training_steps=50, **options)
    result = []
    for _ in range(61):
        result.append(schedule.get_last_lr()[0] / 1e-3)
        optimizer.step()
        schedule.step()
    return torch.tensor(result)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tensors = {"map.signed": create_dynamic_map(signed=True), "map.unsigned": create_dynamic_map(signed=False)}
    for case, make in CASES.items():
        tensors |= run(case, make)
    bitsandbytes_cpu._quant_blockwise_fp32_direct = quantize_as_cuda_does
    tensors |= run("adamw8bit", all_of(bitsandbytes.optim.AdamW8bit, lr=1e-2, weight_decay=0.1), LARGE)
    for name, (schedule, options) in SCHEDULES.items():
        tensors[f"lr/{name}"] = factors(schedule, options)
    save_file(tensors, OUT)
    print(f"{OUT}: {len(tensors)} tensors, {OUT.stat().st_size} bytes")

"""What the programs of bench/peers.py do: train a LoRA of rank 16 on SDXL's UNet, latents and text being at hand.

The base is bf16 with random weights, the adapters are f32 on the 722 layers of the transformers, AdamW updates them.
measure() speaks with bench/peers.py in lines of JSON: it says {"event": "first step"} and, compiled and warmed up,
{"event": "ready"}; times its steps when it is sent a line; and says a {"row": ...} for each batch size. measure_calls()
does the same for what a picture is made of, without training.
"""
import argparse
import gc
import json
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Callable

import torch
import torch.nn.functional as F

RANK = 16
WARM_UP = 3
GIB = 2**30


@dataclass
class Text:
    context: torch.Tensor   # [N, 77, 2048]
    pooled: torch.Tensor    # [N, 1280]
    time_ids: torch.Tensor  # [N, 6]


@dataclass
class Program:
    predict: Callable       # (noisy latents, timesteps, Text) -> noise
    parameters: list        # that are trained
    modules: int            # that have an adapter


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=lambda text: [int(n) for n in text.split(",")], default=[1])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", choices=["blocks", "model"])
    parser.add_argument("--sd-scripts")
    parser.add_argument("--tiny", action="store_true", help="a tenth of the channels, on the CPU")
    given = parser.parse_args()
    given.device = "cpu" if given.tiny else "cuda"
    return given


def say(**line):
    print(json.dumps(line), flush=True)


def built(make, device):
    """The network in bf16 from the start: a copy in f32 would hide how much memory a step needs."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return make().requires_grad_(False).train()
    finally:
        torch.set_default_dtype(torch.float32)


def random_batch(samples, device, side):
    kind = dict(device=device, dtype=torch.bfloat16)
    ids = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]] * samples, **kind)
    return torch.randn(samples, 4, side, side, device=device), Text(
        torch.randn(samples, 77, 2048, **kind), torch.randn(samples, 1280, **kind), ids)


def training_step(program, samples, device, side):
    """A function that trains one step."""
    latents, text = random_batch(samples, device, side)
    optimizer = torch.optim.AdamW(program.parameters, lr=1e-4, fused=True)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, device=device) ** 2
    alphas = torch.cumprod(1 - betas, 0)

    def step():
        timesteps = torch.randint(0, 1000, (samples,), device=device)
        noise = torch.randn_like(latents)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(torch.bfloat16)
        with torch.autocast(device, torch.bfloat16):
            guess = program.predict(noisy, timesteps, text)
        loss = F.mse_loss(guess.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(program.parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def step_times(step, steps, device):
    """Milliseconds of each step, on the GPU's clock and without waiting in between, as bench_training takes them."""
    if device == "cpu":
        times = [time.perf_counter()]
        for _ in range(steps):
            step()
            times.append(time.perf_counter())
        return [1e3 * (after - before) for before, after in zip(times, times[1:])]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in zip(events, events[1:])]


def gpu_busy(step, device):
    """The sum of the times of a step's kernels in ms, which a step would take if Python were never late, and their number."""
    if device == "cpu":
        return {}
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    kernels = [event for event in profiled.key_averages() if event.self_device_time_total > 0]
    return {"busy_ms": sum(kernel.self_device_time_total for kernel in kernels) / 1e3,
            "launches": sum(kernel.count for kernel in kernels)}


def wait_for_a_line():
    say(event="ready")
    if not sys.stdin.readline():
        sys.exit("bench/peers.py has gone")


def memory(device):
    if device == "cpu":
        return {}
    return {"peak_gib": torch.cuda.max_memory_allocated() / GIB, "held_gib": torch.cuda.max_memory_reserved() / GIB}


def begin(device):
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def spread(times):
    return {"median_ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}


@torch.no_grad()
def measure_calls(calls, given):
    begin(given.device)
    for call in calls.values():
        call()
    say(event="first step")
    for call in calls.values():
        step_times(call, WARM_UP, given.device)
    wait_for_a_line()
    for what, call in calls.items():
        row = {"what": what, **spread(step_times(call, given.steps, given.device)), **memory(given.device)}
        say(row={**row, **gpu_busy(call, given.device)})


def measure(program, given):
    for number, samples in enumerate(given.batch):
        begin(given.device)
        step = training_step(program, samples, given.device, 16 if given.tiny else 128)
        first = step().item()
        if number == 0:
            say(event="first step")
        step_times(step, WARM_UP, given.device)
        if number == 0:
            wait_for_a_line()
        times = step_times(step, given.steps, given.device)
        row = {"batch": samples, **spread(times), **memory(given.device), "first_loss": first, "last_loss": step().item(),
               "modules": program.modules, "parameters": sum(parameter.numel() for parameter in program.parameters)}
        say(row={**row, **gpu_busy(step, given.device)})

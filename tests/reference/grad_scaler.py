"""Writes tests/data/grad_scaler.json: the scales that torch.amp.GradScaler goes through, and what it lets a step move.

    python tests/reference/grad_scaler.py          (needs torch)

Each step's gradient is 1, or not finite where `good` says so; a step of SGD at a rate of 1 moves the parameter by it.
"""

import json
import random
from pathlib import Path

import torch

OUT = Path(__file__).resolve().parent.parent / "data" / "grad_scaler.json"
INTERVAL, STEPS = 4, 60


if __name__ == "__main__":
    draw = random.Random(1)
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", growth_interval=INTERVAL)
    good, scales, values = [], [], []
    for _ in range(STEPS):
        good.append(draw.random() < 0.8)
        parameter.grad = torch.ones(3) * scaler.scale(torch.ones(()))
        if not good[-1]:
            parameter.grad[draw.randrange(3)] = draw.choice([float("inf"), float("nan")])
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        values.append(parameter[0].item())
    record = {"torch": torch.__version__, "growth_interval": INTERVAL, "good": good, "scale": scales, "value": values}
    OUT.write_text(json.dumps(record) + "\n")

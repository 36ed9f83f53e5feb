"""Makes tests/data/training_noise.safetensors: sd-scripts' noise and losses for given random numbers, in float64.

Written from the published behaviour of sd-scripts' options, with torch; the metadata "cases" says which option each
"loss.N" (and "gradient.N", by the prediction) was computed with.

    python3 tests/reference/training_noise.py tests/data/training_noise.safetensors

Made with torch 2.11.0, safetensors 0.8.0.
"""

import json
import math
import sys

import torch
from safetensors.torch import save_file

torch.manual_seed(1)
torch.set_default_dtype(torch.float64)
betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHAS = (1 - betas).cumprod(0)
root = ALPHAS.sqrt()
ZERO_TERMINAL = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
SHAPE, TIMESTEPS = (3, 4, 5, 6), torch.tensor([2, 431, 999])


def loss_of(case, prediction, target):
    alphas = (ZERO_TERMINAL if case.get("ztsnr") else ALPHAS)[TIMESTEPS]
    snr = alphas / (1 - alphas)
    v, c = case.get("prediction") == "v", case.get("huber_c", 0.1)
    delta = {
        "constant": torch.full_like(snr, c * case.get("huber_scale", 1)),
        "exponential": torch.exp(TIMESTEPS * math.log(c) / 1000) * case.get("huber_scale", 1),
        "snr": (1 - c) / (1 + ((1 - alphas) / alphas).sqrt()) ** 2 + c,
    }[case.get("huber_schedule", "snr")].view(-1, 1, 1, 1)
    difference = prediction - target
    pseudo_huber = 2 * ((difference**2 + delta**2).sqrt() - delta)
    cost = {"l2": difference**2, "l1": difference.abs(), "huber": delta * pseudo_huber, "smooth_l1": pseudo_huber}
    loss = cost[case.get("loss_type", "l2")].mean((1, 2, 3))
    bounded = snr.clamp(max=1000)
    if gamma := case.get("min_snr_gamma"):
        loss = loss * snr.clamp(max=gamma) / (snr + 1 if v else snr)
    if case.get("scale_v_pred_loss_like_noise_pred"):
        loss = loss * bounded / (bounded + 1)
    if like := case.get("v_pred_like_loss"):
        loss = loss + loss / (bounded / (bounded + 1)) * like
    if case.get("debiased_estimation_loss"):
        loss = loss / ((bounded + 1) if v else bounded.sqrt())
    return loss.mean()


CASES = [
    {}, {"prediction": "v", "ztsnr": True}, {"min_snr_gamma": 5.0}, {"min_snr_gamma": 1.0, "prediction": "v"},
    {"min_snr_gamma": 5.0, "prediction": "v", "ztsnr": True}, {"debiased_estimation_loss": True},
    {"debiased_estimation_loss": True, "prediction": "v"}, {"debiased_estimation_loss": True, "min_snr_gamma": 3.0},
    {"scale_v_pred_loss_like_noise_pred": True, "prediction": "v"}, {"v_pred_like_loss": 0.3}, {"loss_type": "l1"},
    {"loss_type": "l1", "min_snr_gamma": 5.0},
    *({"loss_type": kind, "huber_schedule": schedule, **more} for kind in ("huber", "smooth_l1")
      for schedule in ("constant", "exponential", "snr") for more in
      ({}, {"huber_c": 0.01, "huber_scale": 2.0, "min_snr_gamma": 5.0}, {"prediction": "v", "ztsnr": True})),
]  # fmt: skip
prediction, target = torch.randn(SHAPE).float().double(), torch.randn(SHAPE).float().double()
target[0] = prediction[0] + (1e-3 * torch.randn(SHAPE[1:])).float().double()  # far below huber_c
prediction.requires_grad_()
tensors = {"prediction": prediction.detach(), "target": target, "timesteps": TIMESTEPS.to(torch.int32)}
for number, case in enumerate(CASES):
    loss = loss_of(case, prediction, target)
    (tensors[f"gradient.{number}"],) = torch.autograd.grad(loss, prediction)
    tensors[f"loss.{number}"] = loss.detach()


def multires(noise, levels, ratios, discount):
    height, width = noise.shape[2:]
    for k, level in enumerate(levels):
        h, w = (max(1, int(side / ratios[k] ** k)) for side in (height, width))
        up = torch.nn.functional.interpolate(level[:, :, :h, :w], size=(height, width), mode="bilinear")
        noise = noise + up * discount**k
        if h == 1 or w == 1:
            break
    return noise / noise.std()


latents, noise = torch.randn(2, 4, 24, 17) + 0.5, torch.randn(2, 4, 24, 17)
offset = torch.randn(2, 4, 1, 1)
tensors |= {"latents": latents, "noise": noise, "offset": offset, "offset.plain": noise + 0.1 * offset}
for name, adaptive in (("more", 0.3), ("less", -0.3)):
    size = latents.mean((2, 3), keepdim=True).abs()
    tensors[f"offset.{name}"] = noise + (0.1 + adaptive * size).clamp(min=0) * offset
levels = [torch.randn(2, 4, max(1, 24 >> k), max(1, 17 >> k)) for k in range(5)]
tensors |= {f"level.{k}": level for k, level in enumerate(levels)}
RATIOS = {"even": [1.0, 2.0, 2.0, 2.0, 2.0], "odd": [1.0, 3.7, 2.1, 2.9, 3.2], "coarse": [1.0, 3.9, 3.9, 3.9, 3.9]}
for name, ratios in RATIOS.items():
    tensors[f"multires.{name}"] = multires(noise, levels, ratios, 0.4)
tensors = {name: (t.float() if t.is_floating_point() else t).contiguous() for name, t in tensors.items()}
save_file(tensors, sys.argv[1], {"cases": json.dumps(CASES), "ratios": json.dumps(RATIOS)})

"""Writes tests/data/training_loss.safetensors: what diffusers' UNet and noise scheduler lose on a batch, in float64.

    python3 tests/reference/training_loss.py models/eri-tiny.safetensors

Python 3.11, torch 2.11.0, diffusers 0.42.1. "loss.MODEL.OPTIONS" for each kind of model and each of OPTIONS; the network sees the
latents with `added` noise, and is asked for `noise`, or for the velocity of that.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from full_size import Models
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"epsilon": ("epsilon", False), "v": ("v", False), "v_ztsnr": ("v", True)}
TIMESTEPS = torch.tensor([20, 431, 999])
HUBER, GAMMA = 0.1, 5.0


def weight(option, alphas, v):
    snr = alphas / (1 - alphas)
    if option == "min_snr":
        return snr.clamp(max=GAMMA) / (snr + 1 if v else snr)
    if option == "debiased":
        return 1 / (snr.clamp(max=1000) + 1 if v else snr.clamp(max=1000).sqrt())
    return torch.ones_like(alphas)


def loss(option, prediction, target, alphas, v):
    error = prediction - target
    if option == "huber":  # of sd-scripts' schedule "snr"
        delta = ((1 - HUBER) / (1 + ((1 - alphas) / alphas).sqrt()) ** 2 + HUBER).view(-1, 1, 1, 1)
        error = 2 * delta * ((error**2 + delta**2).sqrt() - delta)
    else:
        error = error**2
    return (error.mean((1, 2, 3)) * weight(option, alphas, v)).mean()


def main(checkpoint):
    torch.manual_seed(5)
    sizes = json.loads((ROOT / "models/eri-tiny.json").read_text())
    unet, _ = Models(checkpoint, sizes, torch.device("cpu")).unet()
    unet.double()
    latents, noise, context = torch.randn(3, 4, 8, 16), torch.randn(3, 4, 8, 16), torch.randn(3, 9, sizes["unet"]["context_dim"])
    added, pooled = noise + 0.3 * torch.randn(3, 4, 8, 16), torch.randn(3, sizes["unet"]["adm_in_channels"] - 6 * 256)
    time_ids = torch.tensor([[128.0, 64, 0, 0, 128, 64], [333, 500, 0, 12, 128, 64], [64, 64, 8, 0, 128, 64]])
    tensors = {"latents": latents, "noise": noise, "added": added, "timesteps": TIMESTEPS, "context": context, "pooled": pooled,
               "time_ids": time_ids}
    for name, (kind, ztsnr) in MODELS.items():
        scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=ztsnr,
                                  prediction_type="epsilon" if kind == "epsilon" else "v_prediction")
        noisy = scheduler.add_noise(latents.double(), added.double(), TIMESTEPS)
        target = noise.double() if kind == "epsilon" else scheduler.get_velocity(latents.double(), noise.double(), TIMESTEPS)
        conditions = {"text_embeds": pooled.double(), "time_ids": time_ids}
        prediction = unet(noisy, TIMESTEPS, context.double(), added_cond_kwargs=conditions).sample
        for option in ("plain", "min_snr", "debiased", "huber"):
            alphas = scheduler.alphas_cumprod[TIMESTEPS].double()
            tensors[f"loss.{name}.{option}"] = loss(option, prediction, target, alphas, kind == "v").float()
    save_file({name: value.contiguous() for name, value in tensors.items()}, ROOT / "tests/data/training_loss.safetensors")
    print({name: float(value) for name, value in tensors.items() if name.startswith("loss")})


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1])

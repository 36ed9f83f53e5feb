#!/usr/bin/env python3
"""The same work in PyTorch, eager, with diffusers and peft: what bench/run.sh compares ours with.

    pytorch_step.py CHECKPOINT THREADS TRAINING_STEPS PICTURES

prints one JSON line a measurement. The geometry is eri-tiny's; its weights are loaded strictly.
"""
import json
import statistics
import sys
import time

import peft
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file

BATCH, SIDE, RANK, SAMPLING_STEPS, CFG = 4, 16, 8, 20, 4.0
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]


def load(checkpoint):
    weights = {name: tensor.float() for name, tensor in load_file(checkpoint).items()}
    unet = UNet2DConditionModel(
        sample_size=SIDE, in_channels=4, out_channels=4, block_out_channels=(64, 64, 128), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2), attention_head_dim=(1, 1, 2), cross_attention_dim=192,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=1664)
    unet.load_state_dict(convert_ldm_unet_checkpoint(dict(weights), {**unet.config, "class_embed_type": None}), strict=True)
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 64, 64), layers_per_block=2, latent_channels=4, sample_size=8 * SIDE)
    vae.load_state_dict(convert_ldm_vae_checkpoint(dict(weights), dict(vae.config)), strict=True)
    return unet.requires_grad_(False).eval(), vae.requires_grad_(False).eval()


def condition(batch):
    return dict(encoder_hidden_states=torch.randn(batch, 77, 192), added_cond_kwargs={
        "text_embeds": torch.randn(batch, 128), "time_ids": torch.full((batch, 6), 8.0 * SIDE)})


def alphas_cumprod():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def trainer(unet):
    """One step of LoRA training on cached latents and texts, after the usual recipe: epsilon, min-SNR 5, clip 1, AdamW."""
    unet.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LORA_TARGETS))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    alphas = alphas_cumprod().float()
    weights = (5 * (1 - alphas) / alphas).clamp(max=1)
    latents, condition_ = torch.randn(24, 4, SIDE, SIDE), condition(24)

    def rows(indices):
        added = {name: value[indices] for name, value in condition_["added_cond_kwargs"].items()}
        return dict(encoder_hidden_states=condition_["encoder_hidden_states"][indices], added_cond_kwargs=added)

    def step():
        chosen = torch.randint(0, 24, (BATCH,))
        x0, t = latents[chosen], torch.randint(0, 1000, (BATCH,))
        noise, a = torch.randn_like(x0), alphas[t].view(-1, 1, 1, 1)
        guess = unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, **rows(chosen)).sample
        loss = (((guess - noise) ** 2).mean((1, 2, 3)) * weights[t]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step, len(trained) // 2, sum(parameter.numel() for parameter in trained)


def sampler(unet, vae):
    """A picture: Euler with guidance (a batch of two), then the decoder."""
    alphas = alphas_cumprod()
    noise_levels = ((1 - alphas) / alphas).sqrt()
    timesteps = torch.linspace(999, 0, SAMPLING_STEPS).round().long()
    sigmas = torch.cat([noise_levels[timesteps], torch.zeros(1, dtype=torch.float64)]).tolist()
    both = condition(2)

    @torch.inference_mode()
    def picture():
        x = torch.randn(1, 4, SIDE, SIDE) * (1 + sigmas[0] ** 2) ** 0.5
        for i, t in enumerate(timesteps):
            scaled = x / (sigmas[i] ** 2 + 1) ** 0.5
            positive, negative = unet(torch.cat([scaled, scaled]), t, **both).sample.chunk(2)
            x = x + (negative + CFG * (positive - negative)) * (sigmas[i + 1] - sigmas[i])
        return vae.decode(x / 0.13025).sample

    return picture


def measure(name, run, count, **about):
    for _ in range(3):
        run()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    print(json.dumps({"program": "pytorch " + torch.__version__, "what": name, "ms": statistics.median(times),
                      "min": min(times), "max": max(times), "threads": torch.get_num_threads(), **about}), flush=True)


def main():
    checkpoint, threads, training_steps, pictures = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    unet, vae = load(checkpoint)
    measure("picture", sampler(unet, vae), pictures)
    step, modules, parameters = trainer(unet)
    measure("training step", step, training_steps, modules=modules, parameters=parameters)


if __name__ == "__main__":
    main()

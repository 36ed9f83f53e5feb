#!/usr/bin/env python3
"""What a picture of SDXL is made of, by diffusers, for bench/peers.py: a guided step of the UNet, and the decoder."""
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

import diffusers_sdxl
import work


def calls(given):
    unet = work.built(lambda: UNet2DConditionModel(**diffusers_sdxl.unet(given.tiny)), given.device).eval()
    vae = work.built(lambda: AutoencoderKL(**diffusers_sdxl.vae(given.tiny)), given.device).eval()
    if given.compile == "blocks":
        unet.compile_repeated_blocks(dynamic=False)
    run = torch.compile(unet) if given.compile == "model" else unet
    latents, text = work.random_batch(2, given.device, 16 if given.tiny else 128)
    latents, timestep = latents.to(torch.bfloat16), torch.tensor(500, device=given.device)
    more = {"text_embeds": text.pooled, "time_ids": text.time_ids}
    return {"UNet, one step": lambda: run(latents, timestep, text.context, added_cond_kwargs=more),
            "decoding": lambda: vae.decode(latents[:1])}


given = work.arguments()
work.measure_calls(calls(given), given)

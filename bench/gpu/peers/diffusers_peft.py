#!/usr/bin/env python3
"""A LoRA of SDXL's UNet trained by diffusers and peft, for bench/peers.py."""
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

import diffusers_sdxl
import work

LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]


def program(given):
    unet = work.built(lambda: UNet2DConditionModel(**diffusers_sdxl.unet(given.tiny)), given.device)
    unet.add_adapter(LoraConfig(r=work.RANK, lora_alpha=work.RANK, target_modules=LAYERS))
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    if given.checkpointing:
        unet.enable_gradient_checkpointing()
    if given.compile == "blocks":
        unet.compile_repeated_blocks(dynamic=False)
    run = torch.compile(unet) if given.compile == "model" else unet

    def predict(noisy, timesteps, text):
        more = {"text_embeds": text.pooled, "time_ids": text.time_ids}
        return run(noisy, timesteps, text.context, added_cond_kwargs=more).sample

    adapters = sum(isinstance(module, BaseTunerLayer) for module in unet.modules())
    return work.Program(predict, parameters, adapters)


given = work.arguments()
work.measure(program(given), given)

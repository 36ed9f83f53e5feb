#!/usr/bin/env python3
"""A LoRA of SDXL's UNet trained by sd-scripts' own network code, for bench/peers.py.

--sd-scripts is a checkout of kohya-ss/sd-scripts; only library/sdxl_original_unet.py and networks/lora.py are used.
"""
import sys
import types
from pathlib import Path

import torch

import work

ADDED = 2816  # pooled text and six embedded numbers


def without_the_rest(folder):
    """Imports from the folder without library/utils.py, which would load OpenCV and torchvision to set up a log."""
    if not Path(folder, "networks/lora.py").exists():
        sys.exit(f"{folder} is no checkout of kohya-ss/sd-scripts: name one with --sd-scripts")
    utils = types.ModuleType("library.utils")
    utils.setup_logging = lambda *_, **__: None
    sys.modules["library.utils"] = utils
    sys.path.insert(0, folder)


def program(given):
    without_the_rest(given.sd_scripts)
    from library import sdxl_original_unet
    from networks import lora

    if given.tiny:
        sdxl_original_unet.MODEL_CHANNELS, sdxl_original_unet.TIME_EMBED_DIM = 32, 128
    unet = work.built(sdxl_original_unet.SdxlUNet2DConditionModel, given.device)
    unet.set_use_sdpa(True)
    if given.checkpointing:
        unet.enable_gradient_checkpointing()
    network = lora.create_network(1.0, work.RANK, work.RANK, None, [], unet)
    network.apply_to([], unet, False, True)
    network.to(given.device).train().requires_grad_(True)

    def predict(noisy, timesteps, text):
        sizes = torch.zeros(len(noisy), ADDED - text.pooled.shape[1], device=noisy.device, dtype=text.pooled.dtype)
        # Its checkpoints begin only behind an input that wants a gradient.
        return unet(noisy.requires_grad_(given.checkpointing), timesteps, text.context, torch.cat([text.pooled, sizes], 1))

    return work.Program(predict, list(network.parameters()), len(network.unet_loras))


given = work.arguments()
work.measure(program(given), given)

#!/usr/bin/env python3
"""Which modules LyCORIS' presets choose in sd-scripts' SDXL: tests/lora/lycoris_presets.tsv.

    python3 lycoris_presets.py SD_SCRIPTS > ../lora/lycoris_presets.tsv

SD_SCRIPTS is a checkout of kohya-ss/sd-scripts (48d368f). Made with torch 2.11.0, torchvision, lycoris-lora 4.1.3 and
sd-scripts' own transformers 4.54.1: later ones call a text encoder's layers otherwise. Nothing is loaded: the models have
shapes and no values. In sd-scripts a UNet's layers have the names of a single file, so that the names of diffusers' that
some presets add (conv_in, time_embedding.linear_1) are nowhere.
"""

import contextlib
import logging
import sys

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

sys.path.insert(0, sys.argv[1])
logging.disable(logging.WARNING)
with contextlib.redirect_stdout(sys.stderr):
    from library.sdxl_original_unet import SdxlUNet2DConditionModel
    from lycoris.config import PRESET
    from lycoris.kohya import LycorisNetworkKohya

PRESETS = ["attn-mlp", "attn-only", "full", "full-lin", "unet-only", "unet-transformer-only", "unet-convblock-only"]

with torch.device("meta"):
    unet = SdxlUNet2DConditionModel()
    clip_l = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                          num_attention_heads=12, hidden_act="quick_gelu"))
    clip_g = CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                                                        num_attention_heads=20, hidden_act="gelu", projection_dim=1280))

chosen = {}
for number, preset in enumerate(PRESETS):
    with contextlib.redirect_stdout(sys.stderr):
        LycorisNetworkKohya.apply_preset(PRESET[preset])
        network = LycorisNetworkKohya([clip_l, clip_g], unet, lora_dim=1, conv_lora_dim=1, network_module="locon")
    for module in network.unet_loras + network.text_encoder_loras:
        chosen.setdefault(module.lora_name, ["0"] * len(PRESETS))[number] = "1"

print("module", *PRESETS, sep="\t")
for name in sorted(chosen):
    print(name, *chosen[name], sep="\t")

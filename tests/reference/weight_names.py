"""Writes tests/models/diffusers_names.tsv: what diffusers' own converters (diffusers 0.42, torch 2.11) call the tensors of the
UNet and the VAE of models/eri-tiny.safetensors, whose blocks are those of SDXL.

    pip install diffusers torch transformers && python tests/reference/weight_names.py
"""
import pathlib

import torch
from diffusers.loaders import single_file_utils
from safetensors import safe_open

ROOT = pathlib.Path(__file__).parent.parent.parent
UNET, VAE = "model.diffusion_model.", "first_stage_model."
UNET_CONFIG = {"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": "text_time"}
VAE_CONFIG = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}


def pairs(names, prefix, convert, config):
    """A converter only moves values, and may flatten them: here each is its own name's index."""
    own = [name for name in names if name.startswith(prefix)]
    values = {name: torch.full((1, 1, 1), float(i)) for i, name in enumerate(own)}
    for theirs, value in convert(dict(values), config).items():
        yield own[int(value.flatten()[0])].removeprefix(prefix), theirs


with safe_open(ROOT / "models" / "eri-tiny.safetensors", "pt") as file:
    names = sorted(file.keys())
rows = [("unet", *pair) for pair in pairs(names, UNET, single_file_utils.convert_ldm_unet_checkpoint, UNET_CONFIG)]
rows += [("vae", *pair) for pair in pairs(names, VAE, single_file_utils.convert_ldm_vae_checkpoint, VAE_CONFIG)]
text = "".join("\t".join(row) + "\n" for row in sorted(rows))
(ROOT / "tests" / "models" / "diffusers_names.tsv").write_text("part\tsingle_file\tdiffusers\n" + text)

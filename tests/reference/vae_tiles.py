"""Writes tests/data/vae_tiles.safetensors: the small base model's autoencoder in tiles, as diffusers has it.

    python tests/reference/vae_tiles.py          (torch 2.11.0, diffusers 0.42.1, safetensors 0.8.0)

The file holds a picture `image`, `moments` of it in tiles of 64 pixels, `latents` (not scaled) and the picture
`decoded` from them in such tiles. The sizes leave tiles of 64, 24 and 8 pixels.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
TILE, HEIGHT, WIDTH = 64, 72, 104

vae = AutoencoderKL(
    in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(32, 64, 64, 64), layers_per_block=2, latent_channels=4, sample_size=TILE)
weights = load_file(ROOT / "models" / "eri-tiny.safetensors")
vae.load_state_dict(convert_ldm_vae_checkpoint(dict(weights), dict(vae.config)), strict=True)
vae = vae.float().eval()
vae.enable_tiling()
assert (vae.tile_sample_min_size, vae.tile_latent_min_size, vae.tile_overlap_factor) == (TILE, TILE // 8, 0.25)

torch.manual_seed(0)
with torch.no_grad():
    image = (torch.rand(2, 3, HEIGHT, WIDTH) * 2 - 1).half()
    moments = vae.encode(image.float()).latent_dist.parameters
    latents = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8)
    decoded = vae.decode(latents).sample
save_file({"image": image, "moments": moments.contiguous(), "latents": latents, "decoded": decoded.contiguous()},
          ROOT / "tests" / "data" / "vae_tiles.safetensors")

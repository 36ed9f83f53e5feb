#!/usr/bin/env python3
"""Writes parity cases of the whole of SDXL with a LoRA on its text encoders: the loss of captions' ids, and its gradients.

Python 3.11, torch 2.11.0, diffusers 0.42.1, transformers 5.23.0, peft 0.21.2:

    eri synth tests/parity/geometries/tiny-a.json 1 tiny-a.safetensors
    python tests/reference/text_training.py tiny-a.safetensors tests/parity/geometries/tiny-a.json tests/parity/cases

Every linear layer of both encoders has an adapter, and some of the UNet. Captions longer than a chunk are put together as
sd-scripts (commit 48d368f) does it.
"""
import argparse
import json
import pathlib
import re

import full_size
import peft
import torch
from full_size import END, START

SEED, RANK, ALPHA, LENGTH = 1, 2, 1.5, 77
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
UNET_LAYERS = r"(mid_block|down_blocks\.1)\.attentions\.0\.transformer_blocks\.0\.(attn2\.to_[qkv]|ff\.net\.2)"
TIMESTEPS = [120, 730]
FORWARD, GRADIENTS = 5e-5, 1e-3  # relative L2 in f32


def caption_ids(inputs, lengths, chunks):
    """Random captions of so many tokens: [N, 2, chunks, 77], for CLIP-L and CLIP-G, which differ in the padding."""
    ids = torch.empty((len(lengths), 2, chunks, LENGTH), dtype=torch.int32)
    for row, length in enumerate(lengths):
        tokens = inputs.integers(0, START, length).tolist()
        for encoder, pad in enumerate((END, 0)):
            for chunk in range(chunks):
                part = tokens[75 * chunk:75 * (chunk + 1)]
                ids[row, encoder, chunk] = torch.tensor([START, *part, END, *[pad] * (75 - len(part))])
    return ids


def stitched(hidden, chunks):
    hidden = hidden.reshape(-1, chunks, LENGTH, hidden.shape[-1])
    inner = hidden[:, :, 1:-1].flatten(1, 2)
    return torch.cat([hidden[:, 0, :1], inner, hidden[:, -1, -1:]], 1)


class Sdxl:
    def __init__(self, models, inputs):
        (self.unet, names), self.clip_l, self.clip_g = models.unet(), models.clip("l"), models.clip("g")
        self.factors = {}
        unet_path = lambda path: names[path + ".weight"].removeprefix("model.diffusion_model.").removesuffix(".weight")
        text_path = lambda path: path if path.startswith("text_model.") else "text_model." + path
        for model, prefix, layers, path_of in ((self.clip_l, "te1", TEXT_LAYERS, text_path),
                                               (self.clip_g, "te2", TEXT_LAYERS, text_path),
                                               (self.unet, "unet", UNET_LAYERS, unet_path)):
            model.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers))
            for path, parameter in model.named_parameters():
                if match := re.fullmatch(r"(.*)\.lora_([AB])\..*", path):
                    self.add(f"lora_{prefix}_" + path_of(match[1]).replace(".", "_"), match[2], parameter, inputs)

    def add(self, module, factor, parameter, inputs):
        parameter.data = inputs.uniform(*parameter.shape) / parameter.shape[1] ** 0.5 if factor == "A" \
            else inputs.normal(*parameter.shape) * 0.05
        name = f"{module}.lora_{'down' if factor == 'A' else 'up'}.weight"
        self.factors[name] = parameter.requires_grad_(True)

    def file(self):
        modules = {name.split(".")[0] for name in self.factors}
        return {**self.factors, **{f"{module}.alpha": torch.tensor(ALPHA) for module in modules}}

    def encode(self, ids):
        chunks = ids.shape[2]
        ids_l, ids_g = (ids[:, encoder].reshape(-1, LENGTH).long() for encoder in (0, 1))
        l = self.clip_l(ids_l, output_hidden_states=True).hidden_states[-2]
        g = self.clip_g(ids_g, output_hidden_states=True)
        pooled = g.text_embeds.reshape(-1, chunks, g.text_embeds.shape[-1])[:, 0]
        return torch.cat([stitched(l, chunks), stitched(g.hidden_states[-2], chunks)], -1), pooled

    def step(self, given):
        betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
        a = (1 - betas).cumprod(0)[given["t"].long()].reshape(-1, 1, 1, 1)
        noisy = (a.sqrt() * given["latents"] + (1 - a).sqrt() * given["noise"]).float()
        context, pooled = self.encode(given["ids"])
        out = self.unet(noisy, given["t"], context,
                        added_cond_kwargs={"text_embeds": pooled, "time_ids": given["time_ids"]}).sample
        loss = torch.nn.functional.mse_loss(out, given["noise"])
        # The last layer of CLIP-L gives nothing that is used.
        gradients = torch.autograd.grad(loss, self.factors.values(), materialize_grads=True)
        return {"out": out.detach(),
                **{f"grad.{name}": gradient for name, gradient in zip(self.factors, gradients)}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("geometry", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    device = torch.device("cpu")
    models = full_size.Models(arguments.checkpoint, json.loads(arguments.geometry.read_text()), device)
    inputs = full_size.Inputs(device)
    cases = full_size.Cases(arguments.out, arguments.geometry.stem, SEED)
    model = Sdxl(models, inputs)
    file = {name: value.detach() for name, value in model.file().items()}
    groups = {f"grad.lora_{part}_*": GRADIENTS for part in ("te1", "te2", "unet")}
    for name, words, lengths, chunks in (("text_training", "captions of one chunk", [9, 75], 1),
                                         ("text_training-chunks", "captions in three chunks", [200, 40], 3)):
        given = {"ids": caption_ids(inputs, lengths, chunks), "latents": inputs.normal(2, 4, 8, 16),
                 "noise": inputs.normal(2, 4, 8, 16), "t": torch.tensor(TIMESTEPS, dtype=torch.int32),
                 "time_ids": torch.tensor([[64, 128, 0, 0, 64, 128], [300, 200, 20, 0, 64, 128]]).float()}
        cases.write(name, "text_training", f"{words}; a LoRA on both text encoders and some of the UNet", given,
                    model.step(given), FORWARD, groups=groups, lora=file, params={"rank": RANK, "alpha": ALPHA})


if __name__ == "__main__":
    main()

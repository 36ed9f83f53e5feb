#!/usr/bin/env python3
"""Writes parity cases of a whole SDXL from diffusers, transformers and peft, at the size that people train and draw at.

usage: full_size.py CHECKPOINT GEOMETRY OUT [--device cuda] [--size 1024] [--steps 20] [--as_is | --forward]

CHECKPOINT is a single file such as `eri synth` writes, GEOMETRY what it was made from, OUT the folder for the cases:
tests/parity/README.md says what is in them. What is expected is computed in f32 without TF32; each case also says how far
the same libraries' bf16 results are from that. OUT/../about.json names the card and versions. A CHECKPOINT that is not
there yet is waited for. With --as_is it also draws with the weights as they are. --forward is for machines without a GPU:
a prediction of the UNet in f32 is all that it writes.
"""
import argparse
import json
import pathlib
import time

import diffusers
import numpy as np
import peft
import torch
import transformers
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SEED = 20261123
TEXTS, START, END = 16, 49406, 49407
TIMESTEPS = [200, 700]
RANK, ALPHA = 16, 8
CFG = 7.0
RESIDUAL_SCALE = 1 / 4  # of the weights that draw; a power of two, so that scaling rounds nothing
BRANCH_ENDS = (".conv2", ".to_out.0", ".ff.net.2", ".proj_out")
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
PATIENCE = 300  # seconds, for the checkpoint
FORWARD, GRADIENTS, SAMPLING = 1e-4, 1e-3, 1e-3  # relative L2 in f32
began = time.monotonic()


def say(*words):
    print(f"{time.monotonic() - began:6.1f} s ", *words, flush=True)


# --- The models ---


class Models:
    """The parts of a checkpoint as diffusers and transformers have them, in f32 on the device."""

    def __init__(self, checkpoint, geometry, device):
        self.file, self.device = safe_open(checkpoint, "pt"), device
        self.unet_sizes, self.vae_sizes = geometry["unet"], geometry["vae"]
        self.clip_sizes = {"l": geometry["clip_l"], "g": geometry["clip_g"]}

    def read(self, prefix):
        return {name: self.file.get_tensor(name).to(self.device).float()
                for name in self.file.keys() if name.startswith(prefix)}

    def unet(self):
        """The UNet, and of each of its tensors the name in the checkpoint."""
        sizes = self.unet_sizes
        depth, channels = sizes["transformer_depth"], [sizes["model_channels"] * m for m in sizes["channel_mult"]]
        config = dict(
            in_channels=sizes["in_channels"], out_channels=sizes["out_channels"], block_out_channels=tuple(channels),
            layers_per_block=sizes["num_res_blocks"],
            down_block_types=tuple("CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depth),
            up_block_types=tuple("CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depth)),
            transformer_layers_per_block=tuple(max(d, 1) for d in depth),
            attention_head_dim=tuple(c // sizes["head_dim"] for c in channels),  # diffusers means how many heads
            cross_attention_dim=sizes["context_dim"], use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=sizes["adm_in_channels"])
        tensors = self.read("model.diffusion_model.")
        names = single_file_utils.convert_ldm_unet_checkpoint({name: name for name in tensors}, config)
        with torch.device("meta"):
            unet = UNet2DConditionModel(**config)
        unet.load_state_dict({own: tensors[name] for own, name in names.items()}, strict=True, assign=True)
        return unet.requires_grad_(False).eval(), names

    def vae(self):
        sizes = self.vae_sizes
        channels = tuple(sizes["ch"] * m for m in sizes["ch_mult"])
        config = dict(in_channels=3, out_channels=3, block_out_channels=channels,
                      down_block_types=("DownEncoderBlock2D",) * len(channels),
                      up_block_types=("UpDecoderBlock2D",) * len(channels), layers_per_block=sizes["num_res_blocks"],
                      latent_channels=sizes["z_channels"], scaling_factor=sizes["scale"])
        state = single_file_utils.convert_ldm_vae_checkpoint(self.read("first_stage_model."), config)
        return self.filled(lambda: AutoencoderKL(**config), state)

    def clip(self, which):
        sizes = self.clip_sizes[which]
        config = CLIPTextConfig(
            vocab_size=sizes["vocab"], hidden_size=sizes["width"], intermediate_size=sizes["mlp"],
            num_hidden_layers=sizes["layers"], num_attention_heads=sizes["heads"], hidden_act=sizes["act"],
            projection_dim=sizes["width"], bos_token_id=START, eos_token_id=END)
        if which == "l":
            prefix = "conditioner.embedders.0.transformer."
            state = single_file_utils.convert_ldm_clip_checkpoint(self.read(prefix))
            return self.filled(lambda: CLIPTextModel(config), state)
        prefix = "conditioner.embedders.1.model."
        state = single_file_utils.convert_open_clip_checkpoint(None, self.read(prefix), prefix)
        return self.filled(lambda: CLIPTextModelWithProjection(config), state)

    def filled(self, make, state):
        with self.device:  # a GPU is quicker with the values that are replaced next
            model = make()
        state = {name: value for name, value in state.items() if not name.endswith("position_ids")}
        if not any(name.startswith("text_model.") for name in model.state_dict()):  # transformers since 5.x
            state = {name.removeprefix("text_model."): value for name, value in state.items()}
        model.load_state_dict(state, strict=True)
        return model.requires_grad_(False).eval()


# --- Cases ---


def squares(values, expected):
    wanted = expected.double()
    return torch.stack([(values.to(expected.device).double() - wanted).square().sum(), wanted.square().sum()])


def distances(results, expected, groups):
    """Of each tensor and of each group as one vector: |result - expected| / |expected|."""
    sums = {name: squares(results[name], value).cpu() for name, value in expected.items()}
    for group in groups:
        assert group.endswith("*")
        sums[group] = sum(value for name, value in sums.items() if name.startswith(group[:-1]))
    return {name: (difference / whole).sqrt().item() for name, (difference, whole) in sums.items()}


class Cases:
    def __init__(self, out, geometry, seed=None, device="cpu"):
        self.out, self.geometry, self.seed, self.device = out, geometry, seed, device

    def write(self, name, kind, about, inputs, expected, tolerance, bf16=None, groups=None, params=None, lora=None):
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        groups = groups or {}
        case = {"kind": kind, "about": about, "geometry": self.geometry, "seed": self.seed, "params": params or {},
                "tolerance": tolerance, "tolerances": groups, "groups": groups}
        if self.device != "cpu":
            case["device"] = self.device
        if bf16:
            case["bf16"] = distances(bf16, expected, groups)
        (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
        for file, tensors in {"inputs": inputs, "expected": expected, "lora": lora}.items():
            if tensors:
                save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()},
                          folder / f"{file}.safetensors")
        say(name)


class Inputs:
    """Random numbers that are the same wherever the script runs."""

    def __init__(self, device):
        self.device, self.generator = device, torch.Generator().manual_seed(SEED)

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator).to(self.device)

    def uniform(self, *shape):
        return (torch.rand(shape, generator=self.generator) * 2 - 1).to(self.device)

    def integers(self, low, high, count):
        return torch.randint(low, high, (count,), generator=self.generator)

    def condition(self, sizes, count, size):
        pooled = sizes["adm_in_channels"] - 6 * 256
        return {"context": self.normal(count, 77, sizes["context_dim"]), "pooled": self.normal(count, pooled),
                "time_ids": torch.tensor([[size, size, 0, 0, size, size]] * count, device=self.device).float()}


def to_dtype(tensors, dtype):
    return {name: value.to(dtype) for name, value in tensors.items()}


def text(models, cases, inputs):
    ids_l = torch.full((TEXTS, 77), END, dtype=torch.int32)
    ids_g = torch.zeros((TEXTS, 77), dtype=torch.int32)
    for row, length in enumerate(inputs.integers(0, 76, TEXTS).tolist()):
        tokens = inputs.integers(0, START, length).int()
        for ids in (ids_l, ids_g):
            ids[row, 0], ids[row, 1:length + 1], ids[row, length + 1] = START, tokens, END
    clip_l, clip_g = models.clip("l"), models.clip("g")

    def run(dtype):
        l = clip_l.to(dtype)(ids_l.long().to(models.device), output_hidden_states=True)
        g = clip_g.to(dtype)(ids_g.long().to(models.device), output_hidden_states=True)
        return {"hidden_l": l.hidden_states[-2], "hidden_g": g.hidden_states[-2], "pooled": g.text_embeds}

    with torch.no_grad():
        expected = run(torch.float32)
        cases.write("text", "text", f"{TEXTS} random texts", {"ids_l": ids_l, "ids_g": ids_g}, expected, FORWARD,
                    bf16=run(torch.bfloat16))


def vae(models, cases, inputs, size):
    model, scale = models.vae(), models.vae_sizes["scale"]
    smooth = torch.nn.functional.interpolate(inputs.normal(1, 3, size // 16, size // 16), size=(size, size),
                                             mode="bicubic")
    image = (smooth * 0.4 + inputs.normal(1, 3, size, size) * 0.05).clamp(-1, 1)
    noise, latent = inputs.normal(1, 4, size // 8, size // 8), inputs.normal(1, 4, size // 8, size // 8)

    def encode(dtype):
        posterior = model.to(dtype).encode(image.to(dtype)).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        return {"mean": mean, "logvar": logvar, "latent": (mean + (logvar / 2).exp() * noise) * scale}

    def decode(dtype):
        return {"image": model.to(dtype).decode((latent / scale).to(dtype)).sample}

    with torch.no_grad():
        encoded, decoded = encode(torch.float32), decode(torch.float32)
        cases.write("vae_encode", "vae_encode", f"a picture of {size} x {size}", {"image": image, "noise": noise},
                    encoded, FORWARD, bf16=encode(torch.bfloat16), params={"scale": scale})
        cases.write("vae_decode", "vae_decode", f"a picture of {size} x {size}", {"latent": latent}, decoded, FORWARD,
                    bf16=decode(torch.bfloat16), params={"scale": scale})


class ComfyNormal(EulerDiscreteScheduler):
    """Diffusers' Euler over the noise levels of ComfyUI's `normal`, each with the nearest whole timestep."""

    def set_timesteps(self, steps, device=None, **_):
        betas = np.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000) ** 2
        alphas = np.cumprod(1 - betas)
        logs = np.log(np.sqrt((1 - alphas) / alphas))
        wanted = np.interp(np.linspace(999, 0, steps), np.arange(1000), logs)
        nearest = np.abs(logs[None, :] - wanted[:, None]).argmin(1)
        self.num_inference_steps = steps
        self.sigmas = torch.tensor([*np.exp(wanted), 0], dtype=torch.float32)
        self.timesteps = torch.tensor(nearest, dtype=torch.float32, device=device)
        self._step_index = self._begin_index = None


def scale_branches(unet, factor):
    """What each residual branch of the UNet adds, times a factor."""
    for path, parameter in unet.named_parameters():
        if path.rsplit(".", 1)[0].endswith(BRANCH_ENDS):
            parameter.data *= factor


def drawing(models, unet, cases, inputs, size, steps, as_is):
    """A network of random weights multiplies rounding by far more than a trained one, and with it each step of sampling:
    what is judged is drawn with smaller residual branches. As is, the weights only show how far the reference's own two
    results are apart when the noise differs by rounding."""
    positive = inputs.condition(models.unet_sizes, 1, size)
    negative = inputs.condition(models.unet_sizes, 1, size)
    noise = inputs.normal(1, 4, size // 8, size // 8)
    scheduler = ComfyNormal(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                            timestep_spacing="leading")
    pipeline = StableDiffusionXLPipeline(vae=None, text_encoder=None, text_encoder_2=None, tokenizer=None,
                                         tokenizer_2=None, unet=unet, scheduler=scheduler, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    nearly = noise * (1 + 1e-6 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(SEED)).to(noise.device))

    def draw(latents):
        return {"latent": pipeline(
            prompt_embeds=positive["context"], negative_prompt_embeds=negative["context"],
            pooled_prompt_embeds=positive["pooled"], negative_pooled_prompt_embeds=negative["pooled"], latents=latents,
            height=size, width=size, num_inference_steps=steps, guidance_scale=CFG, output_type="latent").images}

    def write(name, tolerance, params):
        latent = draw(noise)
        apart = {"reference_apart": distances(draw(nearly), latent, [])["latent"]} if as_is else {}
        cases.write(name, "drawing", f"diffusers' pipeline, {steps} steps, {size} x {size}",
                    {"noise": noise, **positive, "negative_context": negative["context"],
                     "negative_pooled": negative["pooled"]}, latent, tolerance,
                    params={"steps": steps, "cfg": CFG, **apart, **params})

    if as_is:
        write("drawing_as_is", None, {})
    scale_branches(unet, RESIDUAL_SCALE)
    write("drawing", SAMPLING, {"residual_scale": RESIDUAL_SCALE})
    scale_branches(unet, 1 / RESIDUAL_SCALE)


def unet_inputs(models, inputs, size):
    count = len(TIMESTEPS)
    return {"x": inputs.normal(count, 4, size // 8, size // 8),
            "t": torch.tensor(TIMESTEPS, dtype=torch.int32, device=models.device),
            **inputs.condition(models.unet_sizes, count, size)}


def predict(unet, given, dtype):
    return unet(given["x"].to(dtype), given["t"], given["context"].to(dtype),
                added_cond_kwargs={"text_embeds": given["pooled"].to(dtype), "time_ids": given["time_ids"]}).sample


def add_lora(unet, names, inputs):
    """Adapters far from zero, as the LoRA file names them: {name: parameter}, and the tensors of the file."""
    unet.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LAYERS))
    factors, file = {}, {}
    for path, parameter in unet.named_parameters():
        if ".lora_A." not in path and ".lora_B." not in path:
            continue
        layer, factor = path.split(".lora_")[0], "down" if ".lora_A." in path else "up"
        module = names[layer + ".weight"].removeprefix("model.diffusion_model.").removesuffix(".weight")
        module = "lora_unet_" + module.replace(".", "_")
        parameter.data = inputs.uniform(*parameter.shape) / parameter.shape[1] ** 0.5 if factor == "down" \
            else inputs.normal(*parameter.shape) * 0.05
        factors[f"{module}.lora_{factor}.weight"] = parameter.requires_grad_(True)
        file[f"{module}.alpha"] = torch.tensor(float(ALPHA))
    return factors, {**file, **{name: parameter.detach() for name, parameter in factors.items()}}


def unet_cases(models, cases, inputs, size, steps, as_is):
    unet, names = models.unet()
    say("the UNet is loaded")
    plain, trained = unet_inputs(models, inputs, size), unet_inputs(models, inputs, size)
    target = inputs.normal(*trained["x"].shape)
    with torch.no_grad():
        drawing(models, unet, cases, inputs, size, steps, as_is)
        out = {"out": predict(unet, plain, torch.float32)}

    factors, file = add_lora(unet, names, inputs)
    say(f"LoRA of rank {RANK} on {len(factors) // 2} layers")

    def step(dtype, autocast=False):
        with torch.autocast(models.device.type, torch.bfloat16, enabled=autocast):
            prediction = predict(unet, trained, dtype)
        gradients = torch.autograd.grad(torch.nn.functional.mse_loss(prediction.float(), target), factors.values())
        return {"out": prediction.detach(), **{f"grad.{name}": g for name, g in zip(factors, gradients)}}

    expected, groups = step(torch.float32), {"grad.*": GRADIENTS}
    for path, parameter in unet.named_parameters():
        if ".lora_" not in path:
            parameter.data = parameter.data.bfloat16()
    mixed = step(torch.bfloat16, autocast=True)  # f32 adapters on a bf16 model, as diffusers' own training script
    for parameter in factors.values():
        parameter.data = parameter.data.bfloat16()
    narrow = distances(step(torch.bfloat16), expected, groups)
    cases.write("unet_loss", "unet_loss", f"a LoRA on {len(factors) // 2} layers, {size} x {size}",
                {**trained, "target": target}, expected, FORWARD, bf16=mixed, groups=groups, lora=file,
                params={"bf16_without_autocast": {name: narrow[name] for name in ("out", "grad.*")}})
    unet.disable_adapters()
    with torch.no_grad():
        cases.write("unet", "unet", f"{size} x {size}", plain, out, FORWARD,
                    bf16={"out": predict(unet, plain, torch.bfloat16)})


def forward_case(models, cases, inputs, size):
    unet, _ = models.unet()
    say("the UNet is loaded")
    given = unet_inputs(models, inputs, size)
    with torch.no_grad():
        cases.write("unet", "unet", f"{size} x {size}", given, {"out": predict(unet, given, torch.float32)}, FORWARD)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("geometry", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--size", default=1024, type=int, help="of pictures, in pixels")
    parser.add_argument("--steps", default=20, type=int, help="of sampling")
    parser.add_argument("--as_is", action="store_true", help="draw with the checkpoint's own weights too, not judged")
    parser.add_argument("--forward", action="store_true", help="only a prediction of the UNet in f32")
    arguments = parser.parse_args()

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    on_gpu = arguments.device.type == "cuda"
    about = {"card": torch.cuda.get_device_name() if on_gpu else "CPU", "geometry": arguments.geometry.stem,
             "size": arguments.size, "steps": arguments.steps, "residual_scale": RESIDUAL_SCALE,
             "versions": {library.__name__: library.__version__ for library in (torch, diffusers, transformers, peft)}}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out.parent / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    say(about)
    while not arguments.checkpoint.exists() and time.monotonic() - began < PATIENCE:
        time.sleep(0.2)
    models = Models(arguments.checkpoint, json.loads(arguments.geometry.read_text()), arguments.device)
    cases, inputs = Cases(arguments.out, arguments.geometry.stem, device=str(arguments.device)), Inputs(arguments.device)
    if arguments.forward:
        return forward_case(models, cases, inputs, arguments.size)
    text(models, cases, inputs)
    vae(models, cases, inputs, arguments.size)
    unet_cases(models, cases, inputs, arguments.size, arguments.steps, arguments.as_is)
    if on_gpu:
        say(f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()

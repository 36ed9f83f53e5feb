"""Says in parity cases how far diffusers' and transformers' own f16 and bf16 results are from the expected ones.

    eri synth tests/parity/geometries/tiny-a.json 1 tiny-a.safetensors
    python3 tests/reference/dtypes.py tiny-a.safetensors

Python 3.11, torch 2.11.0, diffusers 0.42.1, transformers 5.23.0, peft 0.21.2, on the CPU. It adds to case.json what `parity --dtype`
judges by; inputs and expected values stay as they are, and the libraries' f32 results have to be these. One result in 16 bits
is a draw: where a rounding falls otherwise, all behind it does, and in small cases that moves the distance by a tenth.
So it is the farthest of DRAWS results, from weights that differ by 1e-6. Where a case has `draws`, it is the mean of
MANY_DRAWS, from inputs that differ by an eighth of the spacing of numbers: the early roundings are others as well then.
"""

import copy
import json
import sys
from pathlib import Path

import torch
from full_size import Models, distances, predict
from safetensors.torch import load_file

PARITY = Path(__file__).resolve().parents[1] / "parity"
DRAWS, APART, TOLERANCE = 12, 1e-6, 5e-5
MANY_DRAWS, REDRAWN = 256, ("x", "context", "pooled")
GROUPS = ["grad.*"]


def text(models, case, given, dtype):
    l, g = (models[which](given[f"ids_{which}"].long(), output_hidden_states=True) for which in "lg")
    return {"hidden_l": l.hidden_states[-2], "hidden_g": g.hidden_states[-2], "pooled": g.text_embeds}


def unet(models, case, given, dtype):
    return {"out": predict(models["unet"], given, dtype)}


def add_lora(model, names, file, dtype):
    """Adds alpha / rank * up(down(x)), computed in `dtype`, to the layers; {tensor of the file: its f32 parameter}."""
    layers = dict(model.named_modules())
    factors = {name: value.clone().requires_grad_() for name, value in file.items() if not name.endswith(".alpha")}
    own = {"lora_unet_" + ldm.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_"):
           name.removesuffix(".weight") for name, ldm in names.items()}
    for module in {name.split(".")[0] for name in file}:
        layer = layers[own[module]]
        down, up = factors[f"{module}.lora_down.weight"], factors[f"{module}.lora_up.weight"]
        scale = float(file[f"{module}.alpha"]) / down.shape[0]

        def hook(layer, args, y, down=down, up=up, scale=scale):
            down, up = down.to(dtype), up.to(dtype)
            if isinstance(layer, torch.nn.Conv2d):
                low = torch.nn.functional.conv2d(args[0], down, None, layer.stride, layer.padding)
                return y + scale * torch.nn.functional.conv2d(low, up)
            return y + scale * torch.nn.functional.linear(torch.nn.functional.linear(args[0], down), up)
        layer.register_forward_hook(hook)
    return factors


def unet_lora(models, case, given, dtype):
    model, names = copy.deepcopy(models["unet"]), models["unet"].names
    with torch.enable_grad():
        factors = add_lora(model, names, case["lora"], dtype)
        inputs = {name: given[name].clone().requires_grad_() for name in ("context", "pooled")}
        out = predict(model, {**given, **inputs}, dtype)
        leaves = {**factors, **inputs}
        gradients = torch.autograd.grad(out, leaves.values(), given["grad_out"].to(dtype))
    return {"out": out.detach(), **{f"grad.{name}": gradient for name, gradient in zip(leaves, gradients)}}


def vae_encode(models, case, given, dtype):
    posterior = models["vae"].encode(given["image"].to(dtype)).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    return {"mean": mean, "logvar": logvar, "latent": (mean + (logvar / 2).exp() * given["noise"]) * case["params"]["scale"]}


def vae_decode(models, case, given, dtype):
    return {"image": models["vae"].decode((given["latent"] / case["params"]["scale"]).to(dtype)).sample}


def redrawn(model, dtype, generator):
    result = copy.deepcopy(model)
    for parameter in result.parameters():
        parameter.mul_(1 + APART * torch.randn(parameter.shape, generator=generator))
    return result.to(dtype)


def farthest(run, models, case, given, expected, groups, dtype):
    generator, draws = torch.Generator().manual_seed(1), []
    for _ in range(DRAWS):
        drawn = {key: redrawn(model, dtype, generator) for key, model in models.items()}
        draws.append(distances(run(drawn, case, given, dtype), expected, groups))
    return {tensor: max(draw[tensor] for draw in draws) for tensor in draws[0]}


def mean(run, models, case, given, expected, groups, dtype):
    generator, total = torch.Generator().manual_seed(1), {}
    narrow = {key: copy.deepcopy(model).to(dtype) for key, model in models.items()}
    apart = torch.finfo(dtype).eps / 8
    for _ in range(MANY_DRAWS):
        drawn = {name: given[name] * (1 + apart * torch.randn(given[name].shape, generator=generator)) for name in REDRAWN}
        for tensor, distance in distances(run(narrow, case, {**given, **drawn}, dtype), expected, groups).items():
            total[tensor] = total.get(tensor, 0) + distance / MANY_DRAWS
    return total


def main(checkpoint):
    geometry = "tiny-a"
    sizes = json.loads((PARITY / f"geometries/{geometry}.json").read_text())
    all_models = Models(checkpoint, sizes, torch.device("cpu"))
    clips = {"l": all_models.clip("l"), "g": all_models.clip("g")}
    vae_model, (unet_model, names) = {"vae": all_models.vae()}, all_models.unet()
    unet_model.names = names
    unet_model = {"unet": unet_model}
    kinds = {"text": (text, clips), "unet": (unet, unet_model), "unet_lora": (unet_lora, unet_model),
             "vae_encode": (vae_encode, vae_model), "vae_decode": (vae_decode, vae_model)}
    for file in sorted(PARITY.glob("cases/*/case.json")):
        case = json.loads(file.read_text())
        if case["kind"] not in kinds:
            continue
        assert case["geometry"] == geometry
        run, models = kinds[case["kind"]]
        given, expected = load_file(file.parent / "inputs.safetensors"), load_file(file.parent / "expected.safetensors")
        lora, groups = file.parent / "lora.safetensors", [group for group in GROUPS if case["kind"] == "unet_lora"]
        extended = {**case, "lora": load_file(lora) if lora.exists() else {}}
        exact = distances(run(models, extended, given, torch.float32), expected, groups)
        assert max(exact[name] for name in groups or expected) < TOLERANCE, (file, exact)
        for name, dtype in {"f16": torch.float16, "bf16": torch.bfloat16}.items():
            judged_by = mean if "draws" in case else farthest
            found = judged_by(run, models, extended, given, expected, groups, dtype)
            case[name] = {tensor: float(f"{distance:.3g}") for tensor, distance in found.items()}
            print(file.parent.name, name, {tensor: case[name][tensor] for tensor in groups or expected})
        file.write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1])

"""Says in parity cases how far diffusers' and transformers' own f16 and bf16 results are from the expected ones.

    eri synth tests/parity/geometries/tiny-a.json 1 tiny-a.safetensors
    python3 tests/reference/dtypes.py tiny-a.safetensors

Python 3.11, torch 2.11.0, diffusers 0.42.1, transformers 5.23.0, peft 0.21.2, on the CPU. It adds to case.json what `parity --dtype`
judges by; inputs and expected values stay as they are, and the libraries' f32 results have to be these. One result in 16 bits
is a draw: where a rounding falls otherwise, all behind it does, and in small cases that moves the distance by a tenth.
So it is the farthest of DRAWS results, from weights that differ by 1e-6.
"""

import copy
import json
import sys
from pathlib import Path

import torch
from full_size import Models, distances, predict
from safetensors.torch import load_file

PARITY = Path(__file__).resolve().parents[1] / "parity"
DRAWS, APART, TOLERANCE = 12, 1e-6, 2e-5


def text(models, case, given, dtype):
    l, g = (models[which](given[f"ids_{which}"].long(), output_hidden_states=True) for which in "lg")
    return {"hidden_l": l.hidden_states[-2], "hidden_g": g.hidden_states[-2], "pooled": g.text_embeds}


def unet(models, case, given, dtype):
    return {"out": predict(models["unet"], given, dtype)}


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


def main(checkpoint):
    geometry = "tiny-a"
    sizes = json.loads((PARITY / f"geometries/{geometry}.json").read_text())
    all_models = Models(checkpoint, sizes, torch.device("cpu"))
    clips = {"l": all_models.clip("l"), "g": all_models.clip("g")}
    vae_model, unet_model = {"vae": all_models.vae()}, {"unet": all_models.unet()[0]}
    kinds = {"text": (text, clips), "unet": (unet, unet_model), "vae_encode": (vae_encode, vae_model), "vae_decode": (vae_decode, vae_model)}
    for file in sorted(PARITY.glob("cases/*/case.json")):
        case = json.loads(file.read_text())
        if case["kind"] not in kinds:
            continue
        assert case["geometry"] == geometry
        run, models = kinds[case["kind"]]
        given, expected = load_file(file.parent / "inputs.safetensors"), load_file(file.parent / "expected.safetensors")
        exact = distances(run(models, case, given, torch.float32), expected, [])
        assert max(exact.values()) < TOLERANCE, (file, exact)
        for name, dtype in {"f16": torch.float16, "bf16": torch.bfloat16}.items():
            generator = torch.Generator().manual_seed(1)
            draws = [distances(run({key: redrawn(model, dtype, generator) for key, model in models.items()}, case, given, dtype),
                               expected, []) for _ in range(DRAWS)]
            case[name] = {tensor: max(draw[tensor] for draw in draws) for tensor in expected}
            print(file.parent.name, name, {tensor: (min(draw[tensor] for draw in draws), far) for tensor, far in case[name].items()})
        file.write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1])

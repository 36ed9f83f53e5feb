"""Writes the parity cases of samplers and schedules that are new here: ComfyUI's own on diffusers' UNet, in float64.

    eri synth tests/parity/geometries/tiny-a.json 1 tiny-a.safetensors
    python3 tests/reference/sampler_cases.py COMFYUI_CHECKOUT tiny-a.safetensors

Python 3.11, ComfyUI 0.8.0, torch 2.11.0, diffusers 0.42.1, scipy 1.17.1, torchsde 0.2.6, safetensors. Two pictures at once,
not square, with texts of few tokens, so that a case is small. dpmpp_sde takes two of step_noise in a step, one after the other.
"""

import json
import sys
from pathlib import Path

import torch
from full_size import Models
from safetensors.torch import save_file

CHECKPOINT = Path(sys.argv[2]).resolve()
from samplers import Model, sample, wanted_sigmas  # noqa: E402  (takes the checkout from the arguments)

PARITY = Path(__file__).resolve().parents[1] / "parity"
GEOMETRY, SEED = "tiny-a", 1
BATCH, HEIGHT, WIDTH, TOKENS, CFG = 2, 8, 16, 9, 5.0
CASES = [("heun", "exponential", "epsilon", 4), ("dpmpp_sde", "beta", "epsilon", 4), ("uni_pc", "normal", "epsilon", 5),
         ("uni_pc_bh2", "beta", "epsilon", 6), ("lcm", "exponential", "v", 4)]
NOISES = {"dpmpp_sde": 2, "lcm": 1}  # a step
ESTIMATES = {"heun": 2, "dpmpp_sde": 2}  # a step; the last, to 0, takes one


class Guided(Model):
    """ComfyUI's model of the UNet with guidance, which remembers where it was asked and what it said."""

    def __init__(self, name, unet, given):
        super().__init__(name)
        self.unet, self.given, self.asked = unet, given, []

    def __call__(self, x, sigma, **_):
        ms = self.model_sampling
        scaled, timestep = ms.calculate_input(sigma, x), ms.timestep(sigma.float())

        def denoised(prefix):
            added = {"text_embeds": self.given[prefix + "pooled"].double(), "time_ids": self.given["time_ids"]}
            out = self.unet(scaled, timestep, self.given[prefix + "context"].double(), added_cond_kwargs=added).sample
            return ms.calculate_denoised(sigma, out, x)

        negative = denoised("negative_")
        self.asked.append((x, negative + CFG * (denoised("") - negative)))
        return self.asked[-1][1]


def write(unet, sizes, sampler, schedule, prediction, steps):
    noises = steps * NOISES.get(sampler, 0)
    pooled = sizes["adm_in_channels"] - 6 * 256
    given = {"noise": torch.randn(BATCH, 4, HEIGHT, WIDTH)}
    for prefix in ("", "negative_"):
        given[prefix + "context"] = torch.randn(BATCH, TOKENS, sizes["context_dim"])
        given[prefix + "pooled"] = torch.randn(BATCH, pooled)
    given["time_ids"] = torch.tensor([[1024.0, 768, 0, 64, 8 * HEIGHT, 8 * WIDTH], [333, 1500, 16, 0, 8 * HEIGHT, 8 * WIDTH]])
    if noises:
        given["step_noise"] = torch.randn(noises, BATCH, 4, HEIGHT, WIDTH)

    model = Guided(prediction, unet, given)
    last = sample(model, sampler, schedule, steps, given["noise"].double(), given.get("step_noise", torch.empty(0)).double())
    sigmas = wanted_sigmas(model, sampler, schedule, steps)
    asked = model.asked[::ESTIMATES.get(sampler, 1)]
    assert len(asked) == len(sigmas) - 1, (len(model.asked), len(sigmas))
    expected = {"sigmas": sigmas, "timesteps": model.model_sampling.timestep(sigmas[:-1]).int(), "x_start": asked[0][0],
                "x": torch.stack([x for x, _ in asked[1:]] + [last]), "denoised": torch.stack([d for _, d in asked])}
    folder = PARITY / "cases" / f"sampler-{sampler}-{schedule}"
    folder.mkdir(exist_ok=True)
    case = {"kind": "sampler", "about": "ComfyUI's sampler on diffusers' UNet with guidance", "geometry": GEOMETRY, "seed": SEED,
            "params": {"sampler": sampler, "scheduler": schedule, "steps": steps, "cfg": CFG,
                       "prediction": prediction, "ztsnr": False},
            "tolerance": 1e-4, "tolerances": {"sigmas": 1e-5, "timesteps": 0.0, "x_start": 1e-5}, "groups": {}}
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    save_file(given, folder / "inputs.safetensors")
    save_file({name: value.contiguous() if value.dtype == torch.int32 else value.float().contiguous()
               for name, value in expected.items()}, folder / "expected.safetensors")
    print(folder.name, [round(float(s), 3) for s in sigmas], float(last.abs().max()))


def main():
    torch.manual_seed(7)
    sizes = json.loads((PARITY / "geometries" / f"{GEOMETRY}.json").read_text())
    unet, _ = Models(CHECKPOINT, sizes, torch.device("cpu")).unet()
    for case in CASES:
        write(unet.double(), sizes["unet"], *case)


if __name__ == "__main__":
    with torch.no_grad():
        main()

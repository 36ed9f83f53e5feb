"""Makes tests/data/samplers.safetensors: ComfyUI's noise levels and samplers on a model that can be written down.

"sigmas.MODEL.SCHEDULE" holds those of each number of steps in STEPS below 150, one after the other, each with its final 0;
"timesteps" those of every number, each with a final -1; "x.MODEL.SAMPLER" [schedule, steps, ...] where samplers end.

The model predicts for data from a mixture of two Gaussians, exactly; so a case needs no weights. ComfyUI's functions run in
float64 on ComfyUI's float32 noise levels. Nothing of ComfyUI's code is here: it is imported from a checkout.

    python3 tests/reference/samplers.py COMFYUI_CHECKOUT tests/data/samplers.safetensors

Made with ComfyUI 0.8.0, torch 2.11.0, scipy 1.17.1, torchsde 0.2.6, safetensors 0.8.0, on the CPU.
"""

import sys
import types

import numpy
import torch
from safetensors.numpy import save_file

checkout, target = sys.argv[1], sys.argv[2]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, checkout)
package = types.ModuleType("comfy")  # not a package of the same name in the environment
package.__path__ = [checkout + "/comfy"]
sys.modules["comfy"] = package

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_sampling  # noqa: E402
import comfy.samplers  # noqa: E402

SAMPLERS = ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "ddim", "uni_pc", "uni_pc_bh2", "lcm"]
SCHEDULES = ["normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta"]
STEPS = [1, 2, 3, 4, 5, 7, 8, 10, 12, 15, 20, 24, 25, 28, 30, 35, 40, 50, 64, 75, 100, 150, 333, 1000]
SAMPLED = [2, 3, 8, 15]
MODELS = {"epsilon": (comfy.model_sampling.EPS, False), "v": (comfy.model_sampling.V_PREDICTION, False),
          "v_ztsnr": (comfy.model_sampling.V_PREDICTION, True)}
SHAPE = (2, 1, 3, 2)


def mean_of_data(x, sigma):
    """E[x0 | x = x0 + sigma noise] for x0 = +1 or -0.5 in all places, each with a deviation of 0.4."""
    axes = tuple(range(1, x.ndim))
    variance, centres, weights = 0.4**2 + sigma**2, (1.0, -0.5), (0.3, 0.7)
    logs = torch.stack([torch.log(torch.tensor(w)) - ((x - c) ** 2).sum(axes, keepdim=True) / (2 * variance)
                        for c, w in zip(centres, weights)])
    means = torch.stack([c + (x - c) * 0.4**2 / variance for c in centres])
    return (logs.softmax(0) * means).sum(0)


class Model:
    """What ComfyUI's samplers call: the estimate of x0, through the model's timesteps and its kind of prediction."""

    def __init__(self, name):
        kind, ztsnr = MODELS[name]
        sampling = type("Sampling", (comfy.model_sampling.ModelSamplingDiscrete, kind), {})
        self.model_sampling = sampling(zsnr=ztsnr)
        self.predicts_v = name != "epsilon"
        self.inner_model = types.SimpleNamespace(
            inner_model=self, model_patcher=types.SimpleNamespace(get_model_object=lambda _: self.model_sampling))

    def __call__(self, x, sigma, **_):
        ms = self.model_sampling
        timestep = ms.timestep(sigma.float())
        prediction = self.network(ms.calculate_input(sigma, x), timestep[0])
        return ms.calculate_denoised(sigma, prediction, x)

    def network(self, x, timestep):
        sigma = self.model_sampling.sigmas[timestep].double()
        noisy = x * (sigma**2 + 1) ** 0.5
        x0 = mean_of_data(noisy, sigma)
        epsilon = (noisy - x0) / sigma
        return (epsilon - sigma * x0) / (sigma**2 + 1) ** 0.5 if self.predicts_v else epsilon


def wanted_sigmas(model, sampler, schedule, steps):
    class Patcher:
        load_device, model_options = "cpu", {}

        def get_model_object(self, _):
            return model.model_sampling

    return comfy.samplers.KSampler(Patcher(), steps, "cpu", sampler, schedule).sigmas.clone()


def sample(model, sampler, schedule, steps, noise, noises):
    sigmas = wanted_sigmas(model, sampler, schedule, steps)
    k = comfy.samplers.sampler_object(sampler)
    wrap = types.SimpleNamespace(inner_model=types.SimpleNamespace(model_sampling=model.model_sampling))
    x = model.model_sampling.noise_scaling(sigmas[0].double(), noise, torch.zeros_like(noise), k.max_denoise(wrap, sigmas))
    options = {}
    if sampler in ("euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde", "lcm"):
        given = iter(noises)
        options["noise_sampler"] = lambda *_: next(given)
    torch.set_default_dtype(torch.float64)  # of what samplers make on their way
    result = k.sampler_function(model, x, sigmas.double(), extra_args={}, disable=True, **options)
    torch.set_default_dtype(torch.float32)
    return result


def main():
    torch.manual_seed(0)
    noise, noises = torch.randn(SHAPE, dtype=torch.float64), torch.randn((32, *SHAPE), dtype=torch.float64)
    tensors = {"noise": noise, "step_noise": noises}
    for name in MODELS:
        model = Model(name)
        for schedule in SCHEDULES if name != "v" else ():  # v has epsilon's levels
            all_of = [wanted_sigmas(model, "euler", schedule, steps) for steps in STEPS]
            tensors[f"sigmas.{name}.{schedule}"] = torch.cat(all_of[: STEPS.index(150)])
            times = [torch.cat([model.model_sampling.timestep(sigmas[:-1]), torch.tensor([-1])]) for sigmas in all_of]
            tensors[f"timesteps.{name}.{schedule}"] = torch.cat(times).to(torch.int32)
            uni_pc = [wanted_sigmas(model, "uni_pc", schedule, steps) for steps in STEPS[:6]]
            tensors[f"sigmas_uni_pc.{name}.{schedule}"] = torch.cat(uni_pc)
        for sampler in SAMPLERS:
            results = [sample(model, sampler, schedule, steps, noise, noises) for schedule in SCHEDULES for steps in SAMPLED]
            assert all(x.isfinite().all() for x in results)
            tensors[f"x.{name}.{sampler}"] = torch.stack(results).view(len(SCHEDULES), len(SAMPLED), *SHAPE)
    half = {numpy.dtype("float64"): numpy.float32}
    save_file({k: v.numpy().astype(half.get(v.numpy().dtype, v.numpy().dtype)) for k, v in tensors.items()}, target)


if __name__ == "__main__":
    main()

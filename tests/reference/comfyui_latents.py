"""Makes tests/data/comfyui_latents.safetensors: what ComfyUI's KSampler draws on a CPU from a seed, with models/eri-tiny.

ComfyUI's own model, noise, guidance and samplers, in float32; the condition is random, so that no text encoder is needed.
"latents.SAMPLER.SCHEDULER" are scaled as the UNet has them.

    python3 tests/reference/comfyui_latents.py COMFYUI_CHECKOUT models/eri-tiny.safetensors tests/data/comfyui_latents.safetensors

Made with ComfyUI 0.8.0, torch 2.11.0, torchsde 0.2.6, scipy 1.17.1, safetensors 0.8.0, on the CPU.
"""

import sys
import types

checkout, checkpoint, target = sys.argv[1:]
sys.argv = sys.argv[:1]  # ComfyUI reads the command line
sys.path.insert(0, checkout)
package = types.ModuleType("comfy")  # not a package of the same name in the environment
package.__path__ = [checkout + "/comfy"]
sys.modules["comfy"] = package

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True
import comfy.model_detection  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.supported_models  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

SEED, STEPS, CFG, TOKENS, SCALE = 1234567, 6, 3.0, 5, 0.13025
PAIRS = [("euler", "normal"), ("euler_ancestral", "karras"), ("heun", "exponential"), ("dpmpp_2m", "karras"),
         ("dpmpp_2m_sde", "sgm_uniform"), ("dpmpp_sde", "karras"), ("ddim", "ddim_uniform"), ("uni_pc", "normal"),
         ("uni_pc_bh2", "beta"), ("lcm", "simple")]  # fmt: skip


def load():
    weights = load_file(checkpoint)
    prefix = comfy.model_detection.unet_prefix_from_state_dict(weights)
    config = comfy.supported_models.SDXL(comfy.model_detection.detect_unet_config(weights, prefix))
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = config.get_model({}, device=cpu)
    model.load_model_weights({k: v.float() for k, v in weights.items() if k.startswith(prefix)}, prefix)
    widths = config.unet_config["context_dim"], config.unet_config["adm_in_channels"] - 6 * 256
    return comfy.model_patcher.ModelPatcher(model.float(), load_device=cpu, offload_device=cpu), *widths


def main():
    model, context_width, pooled_width = load()
    torch.manual_seed(0)
    context, pooled = torch.randn(2, TOKENS, context_width), torch.randn(2, pooled_width)
    positive, negative = ([[context[i : i + 1], {"pooled_output": pooled[i : i + 1]}]] for i in (0, 1))
    empty = torch.zeros(1, 4, 12, 16)
    tensors = {"context": context, "pooled": pooled}
    for sampler, scheduler in PAIRS:
        noise = comfy.sample.prepare_noise(empty, SEED)
        latents = comfy.sample.sample(model, noise, STEPS, CFG, sampler, scheduler, positive, negative, empty, seed=SEED,
                                      disable_pbar=True)  # fmt: skip
        tensors[f"latents.{sampler}.{scheduler}"] = latents * SCALE
    save_file(tensors, target)


main()

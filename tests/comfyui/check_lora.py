#!/usr/bin/env python3
"""Loads a UNet LoRA with ComfyUI's own code, as its LoraLoader node does, and says whether every key takes effect.

    COMFYUI_DIR=/path/to/ComfyUI python3 tests/comfyui/check_lora.py LORA.safetensors CHECKPOINT.safetensors

CHECKPOINT is a single-file model of SDXL's architecture, of any width. Needs the Python packages that ComfyUI needs.
Exits with 0 if all is well, 1 if the LoRA is not, 2 if ComfyUI cannot be used.
"""
import logging
import os
import statistics
import sys
import types

if len(sys.argv) != 3 or not os.path.isfile(os.path.join(os.environ.get("COMFYUI_DIR", ""), "comfy", "lora.py")):
    print(__doc__, file=sys.stderr)
    sys.exit(2)
LORA, CHECKPOINT = sys.argv[1:]
sys.argv = sys.argv[:1]  # ComfyUI reads the command line
sys.dont_write_bytecode = True
sys.path.insert(0, os.environ["COMFYUI_DIR"])
# ComfyUI's folder has no __init__.py, so that a package from PyPI of the same name would win.
sys.modules["comfy"] = types.ModuleType("comfy")
sys.modules["comfy"].__path__ = [os.path.join(os.environ["COMFYUI_DIR"], "comfy")]

import comfy.cli_args  # noqa: E402
comfy.cli_args.args.cpu = True
import comfy.lora  # noqa: E402
import comfy.model_detection  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402


class Complaints(logging.Handler):
    """ComfyUI does not raise where a key is of no use: it logs."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def sdxl_of_this_size(weights):
    """ComfyUI's SDXL with the checkpoint's widths: names and shapes, no memory. And the prefix of its names in the file."""
    shapes = {name: torch.empty(weights.get_slice(name).get_shape(), device="meta") for name in weights.keys()}
    prefix = comfy.model_detection.unet_prefix_from_state_dict(shapes)
    config = comfy.supported_models.SDXL(comfy.model_detection.detect_unet_config(shapes, prefix))
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = config.get_model({}, device=torch.device("meta"))
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu), prefix


def relative_change(name, patches, weight):
    changed = comfy.lora.calculate_weight(patches, weight.clone(), name, intermediate_dtype=torch.float32)
    return float((changed - weight).norm() / weight.norm())


@torch.no_grad()
def main():
    weights = safe_open(CHECKPOINT, framework="pt")
    model, prefix = sdxl_of_this_size(weights)
    lora = comfy.utils.load_torch_file(LORA, safe_load=True)
    modules = {name.split(".")[0] for name in lora}

    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    changes = {}
    for name, patches in patched.patches.items():
        weight = weights.get_tensor(prefix + name.removeprefix("diffusion_model.")).float()
        changes[name] = relative_change(name, patches, weight)

    failures = list(complaints.messages)
    if len(changes) != len(modules):
        failures.append(f"the file has {len(modules)} modules, ComfyUI patches {len(changes)} weights")
    failures += [f"{name} changes by {change}" for name, change in changes.items() if not 0 < change < float("inf")]
    missing = [name for name in modules if f"{name}.alpha" not in lora]
    failures += [f"{name} has no alpha, so ComfyUI scales it by 1" for name in missing]
    for failure in failures:
        print("FAIL", failure)
    if changes:
        print(f"ComfyUI patches {len(changes)} of {len(modules)} modules, {len(complaints.messages)} complaints; "
              f"median |dW| / |W| {statistics.median(changes.values()):.3g}")
    return 1 if failures or not changes else 0


code = main()
sys.stdout.flush()
os._exit(code)  # ModelPatcher complains while the interpreter ends

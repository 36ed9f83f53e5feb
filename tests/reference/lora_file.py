"""Prints the hashes that tests/lora/lora_file_test.cpp expects of a LoRA file, standard library only.

Written from the safetensors format and from what sd-scripts documents of its hashes, not from our code. The LoRA has a
linear module and a 3x3 convolution whose values are simple fractions, exact in F16; its data are more than 1 MiB, so
that sd-scripts' short hash is of some of them.
"""

import hashlib
import json
import struct


def values(shape, step):
    count = 1
    for extent in shape:
        count *= extent
    return struct.pack(f"<{count}e", *((i * step % 61 - 30) / 64 for i in range(count)))


def scalar(value):
    return struct.pack("<e", value)


LINEAR, CONV = "lora_unet_middle_block_1_proj_in", "lora_unet_input_blocks_1_0_in_layers_2"
TENSORS = {
    LINEAR + ".lora_down.weight": ([4, 4096], values([4, 4096], 7)),
    LINEAR + ".lora_up.weight": ([130000, 4], values([130000, 4], 11)),
    LINEAR + ".alpha": ([], scalar(2)),
    CONV + ".lora_down.weight": ([2, 32, 3, 3], values([2, 32, 3, 3], 3)),
    CONV + ".lora_up.weight": ([64, 2, 1, 1], values([64, 2, 1, 1], 5)),
    CONV + ".alpha": ([], scalar(1.5)),
}
METADATA = {
    "ss_network_module": "networks.lora",
    "ss_network_dim": "4",
    "ss_network_alpha": "2.0",
    "ss_network_args": '{"conv_alpha":"1.5","conv_dim":"2"}',
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_v2": "False",
    "ss_output_name": "reference",
    "ss_learning_rate": "0.0001",
    "modelspec.sai_model_spec": "1.0.1",
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
    "modelspec.title": "Reference",
}


def file_bytes(metadata):
    header, at = {"__metadata__": dict(sorted(metadata.items()))}, 0
    for name in sorted(TENSORS):
        shape, data = TENSORS[name]
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(TENSORS[name][1] for name in sorted(TENSORS))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


training = {key: value for key, value in METADATA.items() if key.startswith("ss_")}
METADATA["sshs_model_hash"] = sha256(b"".join(TENSORS[name][1] for name in sorted(TENSORS)))
METADATA["sshs_legacy_hash"] = sha256(file_bytes(training)[0x100000:0x110000])[:8]
whole = file_bytes(METADATA)
print("sshs_model_hash  ", METADATA["sshs_model_hash"])
print("sshs_legacy_hash ", METADATA["sshs_legacy_hash"])
print("the whole file   ", sha256(whole), len(whole))
# The file as if it were a checkpoint.
print("ss_sd_model_hash ", sha256(whole[0x100000:0x110000])[:8])

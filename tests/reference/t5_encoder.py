"""Writes the parity cases t5 and t5-overflow: transformers' T5EncoderModel at a small size, on random ids.

Python 3.11, torch 2.11.0, transformers 5.23.0, safetensors:  python tests/reference/t5_encoder.py
The weights lie in the case as weights.safetensors, in f16 and under the names of t5xxl_fp16.safetensors. What f16 and bf16
may differ by is what transformers' own results in them do. In t5-overflow the feed-forward leaves f16's range, as T5-XXL's
does; there transformers clamps, and what f16 may differ by is what it does with the same roundings by hand.

    python tests/reference/t5_encoder.py --full WEIGHTS OUT     (on a GPU: T5-XXL's size; writes bf16 weights and a case)
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

CASES = Path(__file__).resolve().parents[1] / "parity/cases"
SMALL = dict(vocab_size=90, d_model=48, d_kv=8, d_ff=112, num_layers=3, num_heads=5)
XXL = dict(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)


def model_of(sizes, scale=1.0):
    """Its weights are such that attention is neither flat nor a choice of one, and branches are as large as their sum."""
    config = T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False, is_decoder=False)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = T5EncoderModel(config)
    model.to_empty(device=DEVICE)
    model.eval()
    generator = torch.Generator(DEVICE).manual_seed(5)
    for name, parameter in model.named_parameters():
        normal = torch.randn(parameter.shape, generator=generator, device=DEVICE)
        if "layer_norm" in name:
            value = 1 + 0.2 * normal
        elif "shared" in name or "embed_tokens" in name or "relative" in name:
            value = normal
        else:
            value = normal * parameter.shape[1] ** -0.5
            value *= sizes["d_kv"] ** -0.25 if name.endswith((".q.weight", ".k.weight")) else 1
            value *= scale if "DenseReluDense.w" in name else 1
        parameter.data = value.to(WEIGHTS).float()
    model.encoder.embed_tokens.weight = model.shared.weight
    return model


def by_hand(model, ids, dtype):
    """The encoder with products' factors and results rounded to `dtype`, in f16 but the last of a layer; all else f32."""
    def r(x):
        return x.to(dtype).float()

    def linear(x, layer):
        return r(r(x) @ r(layer.weight).T)

    stack = model.encoder
    h = model.shared(ids)
    attention = stack.block[0].layer[0].SelfAttention
    bias = attention.compute_bias(ids.shape[1], ids.shape[1])
    for block in stack.block:
        attention, feed = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
        x = block.layer[0].layer_norm(h)
        q, k, v = (linear(x, layer).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)
                   for layer in (attention.q, attention.k, attention.v))
        seen = ((q @ k.transpose(-1, -2) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
        h = h + linear(seen, attention.o)
        x = block.layer[1].layer_norm(h)
        x = torch.nn.functional.gelu(linear(x, feed.wi_0), approximate="tanh") * linear(x, feed.wi_1)
        h = h + (x @ feed.wo.weight.T if dtype == torch.float16 else linear(x, feed.wo))
    return stack.final_layer_norm(h)


def distance(actual, expected):
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def write(folder, about, ids, expected, dtypes, weights=None):
    folder.mkdir(parents=True, exist_ok=True)
    case = {"kind": "t5", "about": about, "geometry": None, "seed": None, "params": {}, "tolerance": 5e-6, "tolerances": {},
            "groups": {}, **{dtype: {"hidden": limit} for dtype, limit in dtypes.items()}}
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    save_file({"ids": ids.int().cpu()}, folder / "inputs.safetensors")
    save_file({"hidden": expected.cpu()}, folder / "expected.safetensors")
    if weights is not None:
        save_file({name: value.to(torch.float16).contiguous() for name, value in weights.items()
                   if name != "encoder.embed_tokens.weight"}, folder / "weights.safetensors")
    print(case)


def small():
    ids = torch.randint(0, SMALL["vocab_size"], (2, 150), generator=torch.Generator().manual_seed(6))
    model = model_of(SMALL)
    expected = model(ids).last_hidden_state
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    narrow = {}
    for name, dtype in {"f16": torch.float16, "bf16": torch.bfloat16}.items():
        narrow[name] = distance(model.to(dtype)(ids).last_hidden_state, expected)
        model.float().load_state_dict(weights)
    write(CASES / "t5", "T5EncoderModel, 3 layers, offsets beyond 128", ids, expected, narrow, weights)

    ids = ids[:, :40]
    model = model_of(SMALL, scale=40)
    expected = model(ids).last_hidden_state
    largest = []
    for block in model.encoder.block:
        block.layer[1].register_forward_hook(lambda _, __, y: largest.append(float(y.abs().max())))
    model(ids)
    assert max(largest) > 2 * 65504, largest
    write(CASES / "t5-overflow", f"the feed-forward reaches {max(largest):.3g}, f16 ends at 65504", ids, expected,
          {"f16": distance(by_hand(model, ids, torch.float16), expected),
           "bf16": distance(by_hand(model, ids, torch.bfloat16), expected)}, model.state_dict())


def full(file, folder):
    model = model_of(XXL)
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()
               if name != "encoder.embed_tokens.weight"}
    save_file(weights, file)
    ids = torch.randint(0, XXL["vocab_size"], (1, 256), generator=torch.Generator().manual_seed(6)).to(DEVICE)
    expected = model(ids).last_hidden_state
    narrow = model.to(torch.bfloat16)(ids).last_hidden_state
    write(folder, "T5EncoderModel at T5-XXL's size", ids, expected, {"bf16": distance(narrow, expected)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", nargs=2, type=Path)
    arguments = parser.parse_args()
    DEVICE, WEIGHTS = ("cuda", torch.bfloat16) if arguments.full else ("cpu", torch.float16)
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        full(*arguments.full) if arguments.full else small()

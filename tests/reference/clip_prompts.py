"""Writes how prompts and captions of any length become CLIP's input and the UNet's context.

Python 3.11, torch 2.11.0, transformers 5.23.0, diffusers 0.42.1, tokenizers 0.23.3 and the program zstd:

    eri synth tests/parity/geometries/tiny-a.json 1 tiny-a.safetensors
    python tests/reference/clip_prompts.py tiny-a.safetensors

tests/data/clip_prompts.json.zst holds texts with their weighted parts and chunks, the parity cases prompts and captions the
contexts that transformers' encoders give. The rules are written down here anew: those of ComfyUI 0.8 for prompts (parts in
parentheses, chunks of start + 75 + end, states moved from those of the empty prompt), of sd-scripts (commit 48d368f) for
captions.
"""

import json
import random
import subprocess
import sys

import clip_tokenizer
import torch
from clip_tokenizer import ROOT
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

START, END, LENGTH, ROOM, LONG_PART = 49406, 49407, 77, 75, 8
OPEN, CLOSE = "\ue0f0", "\ue0f1"  # escaped parentheses; no test text has these

WORDS = ["a cat", "cat", "red", "best quality, masterpiece, 1girl, long hair", "\u732b", "a:b", "1.2", "x" * 30, "<|endoftext|>"]
FIXED = ["", "a cat", "(a cat)", "((a cat))", "(a cat:1.3)", "a (red:1.2) cat", "a (very (red:0.5) big) cat", "a \\(red\\) cat", "(a \\(red\\):1.5)",
         "[a cat]", "[a:b:0.5]", "(a:b:1.4)", "(:1.2)", "( a cat : 1.5 )", "(a cat:)", "(a cat:b)", "(a cat:-0.5)", "(a cat:0)", "(a cat:1.0)", "()", "(())",
         "(a cat", "a cat)", ")a cat(", "a) (cat) (dog", "(a:+1.2)", "(a:1e-1)", "(a:.5)", "(a:2.)", "((a:1.5) b:0.5)", "(a)(b)(c:2)", "\\(a\\)", "a\\\\(b)", "\\",
         "(a\ncat:1.1)\nb", "word " * 75, "word " * 76, "word " * 200, "(" + "word " * 100 + ":1.2) cat", "word " * 72 + "(a red big cat:1.3) x",
         "word " * 70 + "(a cat on the red mat by the sea:0.7) y", "!!!! " * 80]


def parts_of(text):
    """Parentheses of the first level with what is in them, and what stands between."""
    parts, begin, level = [], 0, 0
    for i, character in enumerate(text + "\0"):
        opens = character == "(" and level == 0
        level += (character == "(") - (character == ")")
        end = i + 1 if character == ")" and level == 0 else i
        if opens or end > i or i == len(text):
            parts, begin = parts + [text[begin:end]], end
    return [part for part in parts if part]


def weighted_parts(text, weight=1.0):
    for part in parts_of(text):
        if len(part) < 2 or part[0] + part[-1] != "()":
            yield part.replace(OPEN, "(").replace(CLOSE, ")"), weight
            continue
        inner, own = part[1:-1], weight * 1.1
        head, colon, tail = inner.rpartition(":")
        if colon and head:
            try:
                own, inner = float(tail), head
            except ValueError:
                pass
        yield from weighted_parts(inner, own)


def parse(prompt):
    return list(weighted_parts(prompt.replace("\\(", OPEN).replace("\\)", CLOSE)))


def prompt_chunks(tokenize, prompt, padding):
    """[[(id, weight) * 77] * chunks]"""
    chunks = [[]]
    for text, weight in parse(prompt):
        rest = tokenize(text)
        may_be_cut = len(rest) >= LONG_PART
        while rest:
            room = ROOM - len(chunks[-1])
            taken = room if may_be_cut or len(rest) <= room else 0
            chunks[-1] += [(token, weight) for token in rest[:taken]]
            rest = rest[taken:]
            if rest:
                chunks.append([])
    return [[(START, 1.0), *chunk, (END, 1.0), *[(padding, 1.0)] * (ROOM - len(chunk))] for chunk in chunks]


def caption_chunks(tokenize, caption, count, padding):
    ids = [START, *tokenize(caption)[: ROOM * count], END]
    ids += [padding] * (ROOM * count + 2 - len(ids))
    if count == 1:
        return [ids]
    chunks = [[START, *ids[1 + ROOM * i: 1 + ROOM * (i + 1)], ids[-1]] for i in range(count)]
    if padding != END:
        for chunk in chunks:
            if chunk[-2] not in (END, padding):
                chunk[-1] = END
            if chunk[1] == padding:
                chunk[1] = END
    return chunks


def random_prompt(rng, depth=0):
    prompt = ""
    for _ in range(rng.randint(1, 6 if depth else 12)):
        kind = rng.random()
        if kind < 0.55 or depth > 3:
            prompt += rng.choice(WORDS) * rng.choice([1, 1, 1, 3])
        elif kind < 0.85:
            weight = rng.choice(["", ":1.2", ":0.8", ":-1", ": 1.35 ", ":x", ":", ":1.0"])
            prompt += "(" + random_prompt(rng, depth + 1) + weight + ")"
        else:
            prompt += rng.choice(["(", ")", "\\(", "\\)", "[", "]", ":", "\\", "\n"])
        prompt += rng.choice([" ", ", ", ""])
    return prompt


class Encoders:
    """Both encoders of a single-file checkpoint, by transformers."""

    def __init__(self, checkpoint, geometry):
        self.file = safe_open(checkpoint, "pt")
        prefix_l, prefix_g = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
        state_g = single_file_utils.convert_open_clip_checkpoint(None, self.read(prefix_g), prefix_g)
        self.l = self.filled(CLIPTextModel, geometry["clip_l"], single_file_utils.convert_ldm_clip_checkpoint(self.read(prefix_l)))
        self.g = self.filled(CLIPTextModelWithProjection, geometry["clip_g"], state_g)

    def read(self, prefix):
        return {name: self.file.get_tensor(name) for name in self.file.keys() if name.startswith(prefix)}

    @staticmethod
    def filled(kind, sizes, state):
        model = kind(CLIPTextConfig(
            vocab_size=sizes["vocab"], hidden_size=sizes["width"], intermediate_size=sizes["mlp"], num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"], hidden_act=sizes["act"], projection_dim=sizes["width"], bos_token_id=START, eos_token_id=END))
        state = {name: value for name, value in state.items() if not name.endswith("position_ids")}
        if not any(name.startswith("text_model.") for name in model.state_dict()):
            state = {name.removeprefix("text_model."): value for name, value in state.items()}
        model.load_state_dict(state, strict=True)
        return model.eval()

    def both(self):
        return (self.l, END), (self.g, 0)


def states(model, chunks):
    out = model(torch.tensor(chunks), output_hidden_states=True)
    return out.hidden_states[-2], getattr(out, "text_embeds", None)


def encode_prompt(encoders, tokenize, prompt):
    contexts = []
    for model, padding in encoders.both():
        chunks = prompt_chunks(tokenize, prompt, padding)
        empty, _ = states(model, [[START, END] + [padding] * (LENGTH - 2)])
        hidden, pooled = states(model, [[token for token, _ in chunk] for chunk in chunks])
        for c, chunk in enumerate(chunks):
            for t, (_, weight) in enumerate(chunk):
                if weight != 1:
                    hidden[c, t] = (hidden[c, t] - empty[0, t]) * weight + empty[0, t]
        contexts.append(hidden.reshape(1, -1, hidden.shape[-1]))
    return torch.cat(contexts, -1), pooled[:1]


def encode_captions(encoders, tokenize, captions, count):
    contexts = []
    for model, padding in encoders.both():
        rows, firsts = [], []
        for caption in captions:
            hidden, pooled = states(model, caption_chunks(tokenize, caption, count, padding))
            rows.append(torch.cat([hidden[0, :1], *hidden[:, 1:-1], hidden[-1, -1:]]))
            firsts.append(pooled[0] if pooled is not None else None)
        contexts.append(torch.stack(rows))
    return torch.cat(contexts, -1), torch.stack(firsts)


def write(kind, about, params, expected):
    folder = ROOT / "tests/parity/cases" / kind
    folder.mkdir(exist_ok=True)
    case = {"kind": kind, "about": about, "geometry": "tiny-a", "seed": 1, "params": params, "tolerance": 5e-6, "tolerances": {},
            "groups": {}}
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    save_file({name: value.contiguous() for name, value in expected.items()}, folder / "expected.safetensors")


def main():
    tokenizer, rng = clip_tokenizer.clip(), random.Random(4)

    def tokenize(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    entries = []
    for text in FIXED + [random_prompt(rng) for _ in range(400)]:
        chunks = prompt_chunks(tokenize, text, 0)
        entries.append({"text": text, "parts": parse(text), "ids": [[token for token, _ in chunk] for chunk in chunks],
                        "weights": [[weight for _, weight in chunk] for chunk in chunks],
                        "captions": {str(n): [caption_chunks(tokenize, text, n, pad) for pad in (END, 0)] for n in (1, 2, 3)}})
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    subprocess.run(["zstd", "--ultra", "-22", "-q", "-f", "-o", ROOT / "tests/data/clip_prompts.json.zst"],
                   input=f"[\n{lines}\n]\n".encode(), check=True)

    encoders = Encoders(sys.argv[1], json.loads((ROOT / "tests/parity/geometries/tiny-a.json").read_text()))
    prompts = ["a (red:1.4) cat, (masterpiece), [best \\(quality\\)]", "(" + "long word " * 50 + ":0.6) and (more (of it))"]
    expected = {}
    for i, prompt in enumerate(prompts):
        expected[f"context.{i}"], expected[f"pooled.{i}"] = encode_prompt(encoders, tokenize, prompt)
    write("prompts", "as ComfyUI encodes them: weights, chunks", {"texts": prompts}, expected)
    captions = ["a photo of sks dog", "word " * 74 + "a red cat!!"]
    expected = {}
    for length in (75, 150):
        expected[f"context.{length}"], expected[f"pooled.{length}"] = encode_captions(encoders, tokenize, captions, length // 75)
    write("captions", "as sd-scripts encodes them: max_token_length", {"texts": captions, "max_token_length": [75, 150]}, expected)


if __name__ == "__main__":
    with torch.no_grad():
        main()

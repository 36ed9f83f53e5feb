"""Writes tests/data/clip_tokenizer_texts.json.zst: texts and the ids that transformers gives for them.

Python 3.11 (Unicode 14), transformers 5.23.0, tokenizers 0.23.3 and the program zstd:

    python tests/reference/clip_tokenizer.py
    python tests/reference/clip_tokenizer.py --case DIR --count 100000      (a parity case with so many texts)

First come those that tell CLIP's rules from similar ones: of some 5000 random texts one stays if a tokenizer with one rule
changed gives other ids for it, the shortest few for each such change. Then come random texts as they are.
"""

import argparse

import gzip
import json
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
KEPT_PER_CHANGE, COUNT = 24, 3000

FIXED = """'s 'S 'ſ ''s don''t y'all'd've I'M'LL 'tis 'r 're'd'l'll !'s !!'ve 1'd É's ’s 've've
<|startoftext|> <|endoftext|><|endoftext|> <|STARTOFTEXT|>!! !<|ENDOFTEXT|>! <|EndOfText|>s <|endoftext|>'s
<|endoftext <|endoftext|>> <<|endoftext|> e<|endoftext|>́ <|startoftext|>İ</w> a</w> </w>
İ I ı ΑΣ Σ ΑΣ. ẞ ß ǅ Ǆ K Å Ω ſt ﬁ Ⅷ ⅷ Ⓐ ① ² ½ ٣٤ 一二 〇 Ꭰ ꭰ Ა ა 𐐀 𞤀
e\u0301 \u0301e a\u0323\u0307 a\u0307\u0323 \u1100\u1161\u11a8 \uac00\u11a8 \u0958 \u212b \u2126 \uf900 \u0344
a\u0c3c\u0301 a\u1df6\u0301 \u0101\u08d3\u0323 \u0101\ud7fb\u0323 \u0915\u093c \u1e9b\u0323 q\u0307\u0323
a\u200bb a\u200db a\u00adb a\u2060b a\ufeffb a\u180eb a\u0085b a\u001cb a\u001fb a\u2028b a\u3164b a\u0000b
👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ ☃ 🇩🇪 1️⃣ #️⃣ \U000e0067\U000e007f \U0010ffff \ufffe \ufdd0 \ue000 \ufffd""".replace("\n", " ").split(" ")

FRAGMENTS = FIXED + """masterpiece, best quality (detailed:1.2) [blurry] {wide} <lora:name:0.8> :3 ^_^ >_< long_hair 1girl 2024-01-31
3.14159 1,000 4k 80s café naïve Straße ÎLE ПРИВЕТ Київ ΌΔΥΣΣΕΎΣ 東京 猫 고양이 ネコ مرحبا שלום हिन्दी ภาษาไทย தமிழ் &amp; &lt;b&gt;
https://example.com/a?b=c&d=e#f C:\\path __init__ a,b,,c ... --- *** $100 €50 ±1° ∑∞≈ Ã© â€œ "x" (((x))) x|y <| |> <|>""".split()
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\v", "\f", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u202f", "\u3000"]
SCRIPTS = [(0x20, 0x7F), (0, 0x20), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x780), (0x900, 0xE00),
           (0xE00, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2100), (0x2100, 0x2800), (0x3000, 0x3130), (0x3130, 0x3190),
           (0x4E00, 0xA000), (0xA640, 0xA800), (0xAC00, 0xD7A4), (0xF900, 0x10000), (0x10000, 0x11000), (0x11000, 0x12000),
           (0x1D100, 0x1D800), (0x1E900, 0x1F100), (0x1F300, 0x1FB00), (0x20000, 0x30000), (0, 0x110000)]


def is_settled(code):
    """Surrogates cannot be encoded; what a newer Unicode may still assign depends on everybody's version."""
    category = unicodedata.category(chr(code))
    return category != "Cs" and (category != "Cn" or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code < 0xFDF0)


def random_text(rng, numbers, marks):
    def piece():
        kind = rng.randrange(8)
        if kind < 3:
            return rng.choice(FRAGMENTS)
        if kind == 3:
            return rng.choice(SPACES)
        if kind == 4:
            return "".join(rng.choices(numbers, k=rng.randint(1, 4)))
        if kind == 5:
            return rng.choice("aeoAEOUсигаकखアㄱ") + "".join(rng.choices(marks, k=rng.randint(1, 3)))
        low, high = rng.choice(SCRIPTS)
        codes = (rng.randrange(low, high) for _ in range(rng.randint(1, 8)))
        return "".join(chr(code) for code in codes if is_settled(code))

    return "".join(piece() + rng.choice(["", "", " ", ", ", "'s", "'LL"]) for _ in range(rng.randint(1, 7)))


def random_texts(count, seed=1):
    rng = random.Random(seed)
    settled = [chr(code) for code in range(0x110000) if is_settled(code)]
    numbers = [c for c in settled if unicodedata.category(c)[0] == "N"]
    marks = [c for c in settled if unicodedata.category(c)[0] == "M"]
    return [random_text(rng, numbers, marks) for _ in range(count)]


def clip():
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    lines = gzip.open(ROOT / "eri/data/vocab/clip_merges.txt.gz", "rt", encoding="utf-8").read().splitlines()
    merges = [tuple(line.split()) for line in lines]
    vocabulary = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: id for id, token in enumerate(vocabulary)}, merges=merges)
    return tokenizer.backend_tokenizer


def changed():
    """Tokenizers that each get one rule wrong."""
    lower, nfc = normalizers.Lowercase(), normalizers.NFC()
    words = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
    for steps in ([lower], [nfc], [normalizers.NFKC(), lower], [normalizers.NFD(), lower],
                  [nfc, lower, normalizers.Replace("i\u0307", "i")], [nfc, lower, normalizers.Replace("ς", "σ")],
                  [nfc, lower, normalizers.Replace(Regex(r"\p{C}"), "")], [nfc, normalizers.Replace(Regex(r"\p{M}"), ""), lower]):
        tokenizer = clip()
        tokenizer.normalizer = normalizers.Sequence(steps)
        yield tokenizer
    for pattern in (words.replace(r"[\p{N}]|", r"[\p{N}]+|"), words.replace("'d|", ""), words.split("'d|")[1],
                    words.replace(r"\p{L}", "a-z"), words.replace(r"\p{L}", r"\p{L}\p{M}"), words.replace(r"\p{N}", "0-9"),
                    words.replace(r"\p{N}", r"\p{Nd}"), words.replace(r"\s", " "), words.replace(r"\s", r"\s\p{Cc}"),
                    words.replace(r"\s", r"\s\p{Cf}"), words.replace("'s|", "'s|’s|"), r"[^\s]+"):
        tokenizer = clip()
        split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        yield tokenizer


def ids(tokenizer, texts):
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def framed(ids, padding):
    return ([49406] + ids[:75] + [49407] + [padding] * 77)[:77]


def write_case(folder, entries):
    """A parity case of texts with their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    case = {"kind": "tokenize", "about": f"{len(entries)} texts", "geometry": None, "seed": None, "params": {}, "tolerance": 0,
            "tolerances": {}, "groups": {}}
    (folder / "case.json").write_text(json.dumps(case) + "\n")
    for entry in entries:
        entry.update(clip_l=framed(entry["ids"], 49407), clip_g=framed(entry["ids"], 0))
    (folder / "texts.json").write_text(json.dumps(entries))


def telling():
    texts = sorted(set(random_texts(5000)), key=lambda text: (len(text), text))
    expected = ids(clip(), texts)
    kept = set()
    for number, tokenizer in enumerate(changed()):
        different = [text for text, right, wrong in zip(texts, expected, ids(tokenizer, texts)) if right != wrong]
        print(f"change {number}: {len(different)} texts differ", file=sys.stderr)
        kept.update(different[:KEPT_PER_CHANGE])
    return list(dict.fromkeys(FIXED)) + [text for text in texts if text in kept and text not in FIXED]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", type=Path)
    parser.add_argument("--count", type=int, default=COUNT)
    arguments = parser.parse_args()
    first = [] if arguments.case else telling()
    texts = list(dict.fromkeys(first + random_texts(arguments.count * 11 // 10 + 5000, seed=3)))[: arguments.count]
    entries = [{"text": text, "ids": found} for text, found in zip(texts, ids(clip(), texts))]
    if arguments.case:
        write_case(arguments.case, entries)
    else:
        lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
        subprocess.run(["zstd", "--ultra", "-22", "-q", "-f", "-o", ROOT / "tests/data/clip_tokenizer_texts.json.zst"],
                       input=f"[\n{lines}\n]\n".encode(), check=True)

"""Writes what tests/data/t5_tokenizer_test.cpp reads: tests/data/t5/{tokenizer.json,spiece.model,texts.json}.zst.

Python 3.11 (Unicode 14), tokenizers 0.23.3, sentencepiece 0.1.99 and the program zstd:

    python tests/reference/t5_tokenizer.py T5/tokenizer.json            (google/t5-v1_1-xxl's, as it is, is the first of the three)
    python tests/reference/t5_tokenizer.py T5/tokenizer.json --case DIR --count 100000      (a parity case with so many texts)

spiece.model has the character map and some thousand pieces of the same file, with ids of their own. The texts are those of
clip_tokenizer.py and others that need T5's rules; `t5` are their ids by tokenizer.json, `sp` by spiece.model.
"""

import argparse
import base64
import json
import random
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import clip_tokenizer
from tokenizers import Tokenizer

DATA = Path(__file__).resolve().parents[1] / "data/t5"
PIECES, COUNT = 4000, 3000

FIXED = ["", " ", "  ", "a", " a", "a ", "a  b", "a   b  ", "\ta\n\nb\t", "a\u3000b", "\u2581", "a\u2581b", "\u2581\u2581a", "a \u2581 b",
         "</s>", "a</s>b", "a </s> b", "</s></s>", "<pad><unk>", "<unk>\U0001f431", "<extra_id_0>", "a <extra_id_99> b",
         "<extra_id_1><extra_id_10>", "<extra_id_100>", "<extra_id_", "\uff1c/s\uff1e", "<<extra_id_5>>", "\U0001f431", "a\U0001f431\U0001f431b",
         "\U0001f431 \U0001f431", "\u6771\u4eac\u306e\u732b", "x\u6771", "\u6771x\u4eac", "\u00aa\u0301", "\u00aa\u0301\u0323", "\u00aae\u0301", "e\u0301", "e\u0323\u0301", "\u0301",
         "\r\n", "a\r\nb", "\ufb01\u0301", "\u2460\u2461", "\u337f", "\ufdfa", "\u1e9b\u0323", "\u0344", "\u212b", "\u00bd", "\u200b", "a\u200bb", "a\u00adb", "\ufeffa", "a\x00b",
         "\x01\x7f\x9f", "\u00a0a\u00a0", "\ufffd", "\u0d4d\u200d", "\u0915\u094d\u0937", "\u1100\u1161\u11a8", "\u2126\u0301", "\uff76\uff9e", "\uff8a\uff9f\u3099",
         "antidisestablishmentarianism " * 20, "a" * 500, "\u00e4" * 300, "(" * 40, "http://a.b/c?d=e&f=%20"]


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    """A field of a protocol buffer: an integer, a float or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentence_piece_model(tokenizer):
    """A ModelProto with T5's rules (identity of pad, end and unknown; no start) and the first of its pieces."""
    unknown, control = 2, 3
    types = {"<pad>": control, "</s>": control, "<unk>": unknown}
    model = b""
    for piece, score in tokenizer["model"]["vocab"][:PIECES]:
        model += field(1, field(1, piece.encode()) + field(2, float(score)) + field(3, types.get(piece, 1)))
    trainer = b"".join(field(number, value) for number, value in {3: 1, 4: PIECES, 40: 2, 41: -1, 42: 1, 43: 0}.items())
    charsmap = base64.b64decode(tokenizer["normalizer"]["normalizers"][0]["precompiled_charsmap"])
    normalizer = field(1, b"nmt_nfkc") + field(2, charsmap) + field(3, 1) + field(4, 1) + field(5, 1)
    return model + field(2, trainer) + field(3, normalizer)


def ids_of(processor, text):
    """SentencePiece's ids around the special tokens, as transformers' slow T5Tokenizer has them."""
    size = processor.get_piece_size()
    special = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"<extra_id_{i}>": size + 99 - i for i in range(100)}}
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, special)) + ")", text):
        ids += [special[part]] if part in special else processor.encode(part)
    return ids + [1]


def texts_of(count, seed):
    rng = random.Random(seed)
    texts = FIXED + list(dict.fromkeys(clip_tokenizer.FIXED))
    special = ["</s>", "<extra_id_0>", "<extra_id_7>", "<unk>", "<pad>", "\u2581", "  ", "\u00a0", "\U0001f431", "\u0301", "\u200d"]
    for text in clip_tokenizer.random_texts(2 * count, seed):
        texts.append(text if rng.random() < 0.7 else text[: len(text) // 2] + rng.choice(special) + text[len(text) // 2:])
    return list(dict.fromkeys(texts))[:count]


def pack(path):
    subprocess.run(["zstd", "--ultra", "-22", "-q", "-f", path, "-o", DATA / (path.name + ".zst")], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--case", type=Path)
    parser.add_argument("--count", type=int, default=COUNT)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    texts = texts_of(arguments.count, seed=2 if arguments.case else 1)
    expected = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    if arguments.case:
        clip = clip_tokenizer.ids(clip_tokenizer.clip(), texts)
        clip_tokenizer.write_case(arguments.case, [{"text": text, "ids": ids, "t5": t5}
                                                   for text, ids, t5 in zip(texts, clip, expected)])
    else:
        import sentencepiece

        DATA.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            shutil.copy(arguments.tokenizer, here / "tokenizer.json")
            (here / "spiece.model").write_bytes(sentence_piece_model(json.loads(arguments.tokenizer.read_text())))
            processor = sentencepiece.SentencePieceProcessor(model_file=str(here / "spiece.model"))
            lines = [json.dumps({"text": text, "t5": t5, "sp": ids_of(processor, text)}, separators=(",", ":"))
                     for text, t5 in zip(texts, expected)]
            (here / "texts.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
            for name in ("tokenizer.json", "spiece.model", "texts.json"):
                pack(here / name)

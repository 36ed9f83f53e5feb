#!/usr/bin/env python3
"""Everything that is measured on a GPU, in one run: `make bench-gpu`. Each program prints its figures; their logs end up in
one file, from which tools/gpu_report.py writes the documents.

    bench/gpu/run.py                          all of it: some three minutes on an H100
    bench/gpu/run.py --only lean,f16          a part
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# What each part runs. Of a card with 24 GB 22.5 GiB are left beside the driver, CUDA's context and a desktop.
PARTS = {
    "lean": "{bin}/bench_training --batch 1,2,4,8,16 --kernels 1,2,4",
    "policies": "{bin}/bench_training --batch 1,2,4,8 --memory ff,attn_ff,block",
    "f16": "{bin}/bench_training --dtype f16",
    "f32": "{bin}/bench_training --dtype f32",
    "layer-by-layer": "{bin}/bench_training --plain",
    "layer-by-layer-f16": "{bin}/bench_training --plain --dtype f16",
    "24gb": "{bin}/bench_training --batch 4 --limit_gib 22.5",
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts (default: {', '.join(PARTS)})")
    parser.add_argument("--bin", type=Path, default=ROOT / "build/release/bin", help="folder of the programs")
    parser.add_argument("--json", type=Path, default=ROOT / "build/bench-gpu.json",
                        help="file for all logs, written after each part")
    given = parser.parse_args()
    given.parts = given.only.split(",")
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"there is no part '{part}': {', '.join(PARTS)}")
    return given


def run(part, given, file):
    """Whether it ended well."""
    print(f"\n== {part}: {PARTS[part].replace('{bin}/', '')}", flush=True)
    command = [word.format(bin=given.bin.resolve()) for word in PARTS[part].split()]
    begun = time.monotonic()
    try:
        code = subprocess.run([*command, "--json", file]).returncode
    except OSError as error:
        code = error
    print(f"== {part}: {time.monotonic() - begun:.0f} s", *([f"and failed: {code}"] if code else []), flush=True)
    return not code


def main():
    given = parse()
    given.json.parent.mkdir(parents=True, exist_ok=True)
    logs, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for part in given.parts:
            file = Path(folder) / f"{part}.json"
            if not run(part, given, file):
                failed.append(part)
            if file.exists():
                logs.append(json.loads(file.read_text()))
                given.json.write_text(json.dumps({"logs": logs}, indent=1) + "\n")
    if failed:
        sys.exit(f"run.py: these parts failed: {', '.join(failed)}")


main()

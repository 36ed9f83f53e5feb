#!/usr/bin/env python3
"""Everything that is measured on a GPU, in one run: `make bench-gpu`. Each program prints its figures; their logs end up in
one file, from which tools/gpu_report.py writes the documents.

    bench/gpu/run.py                          all of it: some ten minutes on an H100
    bench/gpu/run.py --only lean,sampling     a part
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from gpu import benchmarks, memory  # noqa: E402

# What each part runs. Of a card with 24 GB 22.5 GiB are left beside the driver, CUDA's context and a desktop.
PARTS = {
    "lean": "{bin}/bench_training --batch 1,2,4,8,16 --busy --kernels 1,2,4",
    "policies": "{bin}/bench_training --batch 1,2,4,8 --memory ff,attn_ff,block --busy",
    "f16": "{bin}/bench_training --dtype f16",
    "f32": "{bin}/bench_training --dtype f32",
    "layer-by-layer": "{bin}/bench_training --plain",
    "layer-by-layer-f16": "{bin}/bench_training --plain --dtype f16",
    "24gb": "{bin}/bench_training --batch 4 --limit_gib 22.5",
    "vae": "{bin}/bench_vae",
    "sampling": "{bin}/bench_sampling --checkpoint {checkpoint} --kernels",
    "start": "{root}/bench/gpu/start.py --eri {bin}/eri --checkpoint {checkpoint}",
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts (default: {', '.join(PARTS)})")
    parser.add_argument("--bin", type=Path, default=ROOT / "build/release/bin", help="folder of the programs")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "build/sdxl-synthetic.safetensors",
                        help="of full size; made, with synthetic weights (6.9 GB), where it is missing")
    parser.add_argument("--json", type=Path, default=ROOT / "build/bench-gpu.json",
                        help="file for all logs, written after each part")
    parser.add_argument("--commit", help="what the figures are of, where the programs do not know it")
    given = parser.parse_args()
    given.parts = given.only.split(",")
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"there is no part '{part}': {', '.join(PARTS)}")
    return given


def run(part, given, file):
    """Whether it ended well."""
    print(f"\n== {part}: {PARTS[part].replace('{bin}/', '')}", flush=True)
    places = {"bin": given.bin.resolve(), "checkpoint": given.checkpoint.resolve(), "root": ROOT}
    command = [word.format(**places) for word in PARTS[part].split()]
    if given.commit:
        command += ["--commit", given.commit]
    begun = time.monotonic()
    try:
        code = subprocess.run([*command, "--json", file]).returncode
    except OSError as error:
        code = error
    print(f"== {part}: {time.monotonic() - begun:.0f} s", *([f"and failed: {code}"] if code else []), flush=True)
    return not code


def show(logs):
    """The tables that the documents would have of these logs alone."""
    for title, body in {**benchmarks.sections(logs), **memory.sections(logs)}.items():
        if body and body != benchmarks.NOT_YET:
            print(f"\n-- {title}\n\n{body}")


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
    show(logs)
    if failed:
        sys.exit(f"run.py: these parts failed: {', '.join(failed)}")


main()

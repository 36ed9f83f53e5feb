#!/usr/bin/env python3
"""From the start of `eri train` to its first step, at full size, on the GPU at hand: cold and warm, and what it is made of.

Cold: no plans on disk, and the checkpoint put out of the system's cache as far as it lets itself be. Warm: both there.
The checkpoint is synthetic; it is made (6.9 GB) where --checkpoint names no file. Pictures are 1024 x 1024 PNG files.

    bench/gpu/start.py --json build/bench-gpu/start.json
"""
import argparse
import datetime
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eri", type=Path, default=ROOT / "build/release/bin/eri")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "build/sdxl-synthetic.safetensors")
    parser.add_argument("--pictures", type=int, default=4, help="of the runs whose start is timed")
    parser.add_argument("--cached", type=int, default=96, help="pictures of the run that tells how fast they are cached")
    parser.add_argument("--size", type=int, default=1024, help="sides of the pictures")
    parser.add_argument("--warm", type=int, default=3, help="warm starts; the median counts")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--commit", help="what the figures are of, where there is no checkout")
    return parser.parse_args()


def png(width, height, seed):
    """A picture of soft colours with noise, as bytes of a PNG file."""
    numbers = random.Random(seed)
    mask = int.from_bytes(b"\x0f" * (3 * width), "big")
    tone = [numbers.randrange(40, 120) for _ in range(3)]
    rows = []
    for y in range(height):
        soft = bytes(tone[c] + (x + y) * 90 // (width + height) for x in range(0, width, 16) for c in range(3))
        wide = b"".join(soft[3 * i:3 * i + 3] * 16 for i in range(len(soft) // 3))[:3 * width].ljust(3 * width, b"\0")
        noise = int.from_bytes(numbers.randbytes(3 * width), "big") & mask
        rows.append(b"\0" + (int.from_bytes(wide, "big") + noise).to_bytes(3 * width, "big"))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows), 1)) +
            chunk(b"IEND", b""))


def make_folder(folder, count, size):
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:04}.png").write_bytes(png(size, size, i))
        (folder / f"{i:04}.txt").write_text(f"picture number {i} of soft colours\n")
    return folder


def forget(file):
    """Has the system put a file's pages out of its cache; it may keep some."""
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def number(pattern, text):
    found = re.search(pattern, text)
    return float(found.group(1)) if found else None


def start(what, given, folder, work):
    """One run of two steps: seconds until the first one is done, and what the program says of them."""
    command = [given.eri, "train", "--model", given.checkpoint, "--train_data_dir", folder, "--device", given.device,
               "--resolution", given.size, "--max_train_steps", 2, "--save_state", "false", "--output_dir", work / "out"]
    environment = {**os.environ, "ERI_PLAN_CACHE": str(work / "plans")}
    with open(work / "errors", "w+") as errors:
        begun = time.monotonic()
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=errors, text=True,
                                   env=environment)
        first = process.stdout.readline()
        seconds = time.monotonic() - begun
        process.stdout.read()
        whole = process.wait(), time.monotonic() - begun
        errors.seek(0)
        said = errors.read()
    if whole[0] != 0 or '"step":1' not in first:
        sys.exit(f"start.py: {given.eri} train failed:\n{said}")
    line = re.search(r"start: (.*); [\d.]+ s in all", said).group(1)
    parts = {name.strip(): float(value) for name, value in re.findall(r"([a-z ]+?) ([\d.]+) s", line)}
    row = {"what": what, "first_step_s": seconds, "whole_s": whole[1], "parts_s": parts,
           "load_gb": number(r"loaded ([\d.]+) GB", said), "load_s": number(r"loaded .* in ([\d.]+) s", said),
           "load_gb_s": number(r"loaded .*\(([\d.]+) GB/s\)", said),
           "caching_pictures_s": number(r"pictures, ([\d.]+) a second", said)}
    print(f"{what}: {seconds:.2f} s to the first step, {whole[1]:.2f} s in all: {line}; "
          f"loaded {row['load_gb']} GB in {row['load_s']} s ({row['load_gb_s']} GB/s)", flush=True)
    return row


def card():
    try:
        query = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                               capture_output=True, text=True, check=True).stdout
        return query.splitlines()[0].split(", ")
    except (OSError, subprocess.CalledProcessError):
        return ["no GPU", None]


def main():
    given = parse()
    if not given.checkpoint.exists():
        print(f"making {given.checkpoint}", flush=True)
        subprocess.run([given.eri, "synth", "sdxl", "0", given.checkpoint, "--dtype", "f16"], check=True,
                       stdout=subprocess.DEVNULL)
    now = datetime.datetime.now(datetime.timezone.utc)
    name, driver = card()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    with tempfile.TemporaryDirectory(prefix="eri-start-") as place:
        work = Path(place)
        few = make_folder(work / "few", given.pictures, given.size)
        many = make_folder(work / "many", given.cached, given.size)
        forget(given.checkpoint)
        rows = [start(f"cold, {given.pictures} pictures", given, few, work)]
        warm = [start(f"warm, {given.pictures} pictures", given, few, work) for _ in range(given.warm)]
        rows.append(sorted(warm, key=lambda row: row["first_step_s"])[len(warm) // 2])
        rows.append(start(f"warm, {given.cached} pictures", given, many, work))
    log = {"benchmark": "start", "date": f"{now:%Y-%m-%d}", "time": f"{now:%H:%M}", "card": name, "driver": driver,
           "commit": given.commit or commit.stdout.strip() or None, "size": given.size, "rows": rows}
    if given.json:
        given.json.write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()

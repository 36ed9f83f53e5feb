#!/usr/bin/env python3
"""Other programs' training step of SDXL, and what their pictures are made of, beside ours on the GPU at hand.

Each program is started, compiled and warmed up; then ours is timed, the program, and ours again, so that a ratio comes
from one minute of one card. What all of them do is in bench/gpu/peers/work.py. They need a Python with torch, diffusers
and peft (--python), and sd-scripts a checkout of kohya-ss/sd-scripts (--sd-scripts).

    bench/peers.py --json build/bench-gpu/peers.json
    bench/peers.py --programs compile --whole-model --gate FILE    compiles while the GPU has other work, times at FILE
"""
import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench/gpu/peers"
ALL = ["diffusers", "compile", "sd-scripts", "checkpointing"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=",".join(ALL),
                        help=f"of {', '.join(ALL)} (these if nothing is said), sd-scripts-checkpointing, pictures, "
                             "pictures-compiled")
    parser.add_argument("--batch", default="1,4", help="batch sizes; compiled and with checkpointing only the first")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a program; ours are twice as many")
    parser.add_argument("--whole-model", action="store_true", help="torch.compile the UNet, not its repeated blocks: minutes")
    parser.add_argument("--gate", type=Path, help="with one program: once it is warm, make FILE.ready and wait for FILE")
    parser.add_argument("--bin", type=Path, default=ROOT / "build/release/bin", help="folder of our programs")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "build/sdxl-synthetic.safetensors",
                        help="for our pictures; made, with synthetic weights (6.9 GB), where it is missing")
    parser.add_argument("--sd-scripts", type=Path, default=ROOT / "build/sd-scripts")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--json", type=Path, help="file for the figures, written after each program")
    parser.add_argument("--commit", help="what our figures are of, where our programs do not know it")
    parser.add_argument("--tiny", action="store_true", help="no figures: a small UNet on the CPU, to test this script")
    given = parser.parse_args()
    given.programs = given.programs.split(",")
    if given.gate and len(given.programs) != 1:
        parser.error("--gate is for one program")
    return given


@dataclass
class Program:
    title: str
    arguments: list         # that start it
    batches: str = ""       # batch sizes that it trains; none: it draws
    script: str = "diffusers_peft.py"

    def command(self, given):
        own = ["--batch", self.batches] if self.batches else []
        return [given.python, PEERS / self.script, *self.arguments, *own, "--steps", given.steps,
                *(["--tiny"] if given.tiny else [])]

    def ours(self, given, log):
        """What does the same of ours."""
        if self.batches:
            return [given.bin / "bench_training", "--batch", self.batches, "--steps", 2 * given.steps, "--json", log]
        return [given.bin / "bench_sampling", "--checkpoint", given.checkpoint, "--pictures", 3, "--json", log]


def program(name, given):
    all_batches, first = given.batch, given.batch.split(",")[0]
    compiled = ["--compile", "model" if given.whole_model else "blocks"]
    of_what = "torch.compile" if given.whole_model else "torch.compile of the blocks"
    kohya = ["--sd-scripts", given.sd_scripts]
    programs = {
        "diffusers": Program("diffusers + peft, eager", [], all_batches),
        "compile": Program(f"diffusers + peft, {of_what}", compiled, first),
        "checkpointing": Program("diffusers + peft, gradient checkpointing", ["--checkpointing"], first),
        "sd-scripts": Program("sd-scripts (kohya)", kohya, all_batches, "sd_scripts.py"),
        "sd-scripts-checkpointing": Program("sd-scripts (kohya), gradient checkpointing", [*kohya, "--checkpointing"],
                                            first, "sd_scripts.py"),
        "pictures": Program("diffusers, eager", [], script="diffusers_pictures.py"),
        "pictures-compiled": Program(f"diffusers, {of_what}", compiled, script="diffusers_pictures.py"),
    }
    if name not in programs:
        sys.exit(f"peers.py: there is no program '{name}': {', '.join(programs)}")
    return programs[name]


class Peer:
    """A program that has begun, and its lines of JSON."""

    def __init__(self, command):
        self.started = time.monotonic()
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(list(map(str, command)), text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors)

    def seconds(self):
        return time.monotonic() - self.started

    def lines(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        if self.process.wait() != 0:
            self.errors.seek(0)
            raise RuntimeError((self.errors.read().strip().splitlines() or ["it said nothing"])[-1])

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self):
        self.process.kill()
        self.process.wait()


def ours(program, given):
    """The log of what we need for the same work, now."""
    if given.tiny:
        return None
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.json"
        command = program.ours(given, log) + (["--commit", given.commit] if given.commit else [])
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        return json.loads(log.read_text())


def wait_at(gate):
    if gate:
        Path(f"{gate}.ready").touch()
        while not gate.exists():
            time.sleep(0.2)


def compared(row, before, after):
    """The row, with ours before and after it and the ratio."""
    mine = [next(own for own in log["rows"] if all(own.get(key) == row.get(key) for key in ("batch", "what")))
            for log in (before, after)]
    for key in ("modules", "parameters"):
        if row.get(key) != before.get(key):
            raise RuntimeError(f"it trains {row[key]} {key}, we {before[key]}")
    milliseconds = [own["median_ms"] for own in mine]
    return {**row, "ours_before_ms": milliseconds[0], "ours_after_ms": milliseconds[1],
            "ours_peak_gib": mine[0].get("peak_gib", before.get("peak_gib")),
            "ratio": row["median_ms"] / (sum(milliseconds) / 2)}


def measure(program, given):
    """The program's rows, with ours beside them, and the log of ours."""
    peer = Peer(program.command(given))
    rows, before = [], None
    try:
        for line in peer.lines():
            if line.get("event") == "first step":
                start = peer.seconds()
            elif line.get("event") == "ready":
                wait_at(given.gate)
                before = ours(program, given)
                peer.go()
            elif "row" in line:
                rows.append({"program": program.title, **line["row"], "start_s": start})
    finally:
        peer.end()
    if not before:
        return rows, None
    after = ours(program, given)
    return [compared(row, before, after) for row in rows], before


def versions(given):
    """The versions of what the programs are made of, as that Python has them."""
    script = ("import json, importlib.metadata as m\n"
              "def version(name):\n"
              "  try: return m.version(name)\n"
              "  except m.PackageNotFoundError: return None\n"
              "print(json.dumps({name: version(name) for name in ('torch', 'diffusers', 'peft')}))")
    return json.loads(subprocess.run([given.python, "-c", script], check=True, text=True, stdout=subprocess.PIPE).stdout)


def show(rows):
    print(f"{'program':50}{'batch':>16}{'median ms':>11}{'min':>9}{'max':>9}{'busy':>8}{'peak GiB':>10}{'start s':>9}"
          f"{'ours before':>13}{'after':>8}{'peak GiB':>10}{'ratio':>8}")

    def number(row, key, width, digits=1):
        return f"{row[key]:{width}.{digits}f}" if row.get(key) is not None else " " * (width - 1) + "-"

    for row in rows:
        print(f"{row['program']:50}{row.get('batch', row.get('what')):>16}{number(row, 'median_ms', 11)}{number(row, 'min_ms', 9)}"
              f"{number(row, 'max_ms', 9)}{number(row, 'busy_ms', 8)}{number(row, 'peak_gib', 10, 2)}"
              f"{number(row, 'start_s', 9)}{number(row, 'ours_before_ms', 13)}{number(row, 'ours_after_ms', 8)}"
              f"{number(row, 'ours_peak_gib', 10, 2)}{number(row, 'ratio', 8)}", flush=True)


def main():
    given = parse()
    log = {"benchmark": "peers", **versions(given), "rows": []}
    failed = False
    for name in given.programs:
        try:
            rows, our_log = measure(program(name, given), given)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", flush=True)
            failed = True
            continue
        log["rows"] += rows
        now = datetime.datetime.now(datetime.timezone.utc)
        log.update(date=now.strftime("%Y-%m-%d"), time=now.strftime("%H:%M"))
        log.update({key: our_log[key] for key in ("card", "driver", "commit", "dtype", "size")} if our_log else {})
        show(rows)
        if given.json and not given.tiny:
            given.json.write_text(json.dumps(log, indent=1) + "\n")
    sys.exit(failed)


main()

#!/usr/bin/env python3
"""Other programs' training step of SDXL beside ours, on the GPU at hand.

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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench/gpu/peers"
ALL = ["diffusers", "compile", "sd-scripts", "checkpointing"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=",".join(ALL),
                        help=f"of {', '.join(ALL)}, sd-scripts-checkpointing (default: the first four)")
    parser.add_argument("--batch", default="1,4", help="batch sizes; compiled and with checkpointing only the first")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a program; ours are twice as many")
    parser.add_argument("--whole-model", action="store_true", help="torch.compile the UNet, not its repeated blocks: minutes")
    parser.add_argument("--gate", type=Path, help="with one program: once it is warm, make FILE.ready and wait for FILE")
    parser.add_argument("--ours", type=Path, default=ROOT / "build/release/bin/bench_training")
    parser.add_argument("--sd-scripts", type=Path, default=ROOT / "build/sd-scripts")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--json", type=Path, help="file for the figures, written after each program")
    parser.add_argument("--commit", help="what our figures are of, where bench_training does not know it")
    parser.add_argument("--tiny", action="store_true", help="no figures: a small UNet on the CPU, to test this script")
    given = parser.parse_args()
    given.programs = given.programs.split(",")
    if given.gate and len(given.programs) != 1:
        parser.error("--gate is for one program")
    return given


def program(name, given):
    """What it is called, and the arguments that start it."""
    first = given.batch.split(",")[0]
    sd_scripts = [PEERS / "sd_scripts.py", "--sd-scripts", given.sd_scripts]
    compiled, of_what = ("model", "") if given.whole_model else ("blocks", " of the blocks")
    programs = {
        "diffusers": ("diffusers + peft, eager", [PEERS / "diffusers_peft.py", "--batch", given.batch]),
        "compile": (f"diffusers + peft, torch.compile{of_what}",
                    [PEERS / "diffusers_peft.py", "--batch", first, "--compile", compiled]),
        "checkpointing": ("diffusers + peft, gradient checkpointing",
                          [PEERS / "diffusers_peft.py", "--batch", first, "--checkpointing"]),
        "sd-scripts": ("sd-scripts (kohya)", [*sd_scripts, "--batch", given.batch]),
        "sd-scripts-checkpointing": ("sd-scripts (kohya), gradient checkpointing",
                                     [*sd_scripts, "--batch", first, "--checkpointing"]),
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


def ours(given, batches):
    """Our step at these batch sizes, now: bench_training's log, with a row for each batch size."""
    if given.tiny or not given.ours.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.json"
        command = [given.ours, "--batch", batches, "--memory", "lean", "--steps", str(2 * given.steps), "--json", log]
        subprocess.run(command + (["--commit", given.commit] if given.commit else []), check=True,
                       stdout=subprocess.DEVNULL)
        return json.loads(log.read_text())


def wait_at(gate):
    if gate:
        Path(f"{gate}.ready").touch()
        while not gate.exists():
            time.sleep(0.2)


def measure(name, given):
    """The program's rows, with ours before and after them, and the header of our log."""
    title, command = program(name, given)
    batches = command[command.index("--batch") + 1]
    peer = Peer([given.python, *command, "--steps", given.steps, *(["--tiny"] if given.tiny else [])])
    rows, before = [], None
    try:
        for line in peer.lines():
            if line.get("event") == "first step":
                start = peer.seconds()
            elif line.get("event") == "ready":
                wait_at(given.gate)
                before = ours(given, batches)
                peer.go()
            elif "row" in line:
                rows.append({"program": title, **line["row"], "start_s": start})
    finally:
        peer.end()
    after = before and ours(given, batches)
    for row in rows if before else []:
        ours_at = [next(each for each in log["rows"] if each["batch"] == row["batch"]) for log in (before, after)]
        if (row["modules"], row["parameters"]) != (before["modules"], before["parameters"]):
            raise RuntimeError(f"it trains {row['modules']} modules with {row['parameters']} parameters, we "
                               f"{before['modules']} with {before['parameters']}")
        ours_ms = sum(each["median_ms"] for each in ours_at) / 2
        row.update(ours_before_ms=ours_at[0]["median_ms"], ours_after_ms=ours_at[1]["median_ms"],
                   ours_peak_gib=ours_at[0]["peak_gib"], ratio=row["median_ms"] / ours_ms)
    return rows, before


def versions(given):
    """The versions of what the programs are made of, as that Python has them."""
    script = ("import json, importlib.metadata as m\n"
              "def version(name):\n"
              "  try: return m.version(name)\n"
              "  except m.PackageNotFoundError: return None\n"
              "print(json.dumps({name: version(name) for name in ('torch', 'diffusers', 'peft')}))")
    return json.loads(subprocess.run([given.python, "-c", script], check=True, text=True, stdout=subprocess.PIPE).stdout)


def show(rows):
    print(f"{'program':50}{'batch':>6}{'median ms':>11}{'min':>9}{'max':>9}{'busy':>8}{'peak GiB':>10}{'start s':>9}"
          f"{'ours before':>13}{'after':>8}{'peak GiB':>10}{'ratio':>8}")

    def number(row, key, width, digits=1):
        return f"{row[key]:{width}.{digits}f}" if row.get(key) is not None else " " * (width - 1) + "-"

    for row in rows:
        print(f"{row['program']:50}{row['batch']:6}{number(row, 'median_ms', 11)}{number(row, 'min_ms', 9)}"
              f"{number(row, 'max_ms', 9)}{number(row, 'busy_ms', 8)}{number(row, 'peak_gib', 10, 2)}"
              f"{number(row, 'start_s', 9)}{number(row, 'ours_before_ms', 13)}{number(row, 'ours_after_ms', 8)}"
              f"{number(row, 'ours_peak_gib', 10, 2)}{number(row, 'ratio', 8)}", flush=True)


def main():
    given = parse()
    log = {"benchmark": "peers", **versions(given), "rows": []}
    failed = False
    for name in given.programs:
        try:
            rows, our_log = measure(name, given)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", flush=True)
            failed = True
            continue
        log["rows"] += rows
        now = datetime.datetime.now(datetime.timezone.utc)
        log.update(date=now.strftime("%Y-%m-%d"), time=now.strftime("%H:%M"))
        log.update({key: our_log[key] for key in ("card", "driver", "commit", "dtype", "rank", "size")} if our_log else {})
        show(rows)
        if given.json and not given.tiny:
            given.json.write_text(json.dumps(log, indent=1) + "\n")
    sys.exit(failed)


main()

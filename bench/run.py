#!/usr/bin/env python3
"""Our training step and picture next to PyTorch's: same weights, same threads, the two in turn in one run.

PyTorch is optional: it is taken from the python named by BENCH_PYTHON, else from python3, else from build/bench-venv,
which is made if it is missing (BENCH_INSTALL=0 forbids that). Without it only our own figures are printed.
"""
import json
import os
import platform
import statistics
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / "build/release/bin/bench_step"
PEER = ROOT / "bench/pytorch_step.py"
CHECKPOINT, PICTURES = ROOT / "models/eri-tiny.safetensors", ROOT / "examples/blueprint"
VENV = ROOT / "build/bench-venv"
PACKAGES = ["diffusers", "peft", "transformers", "accelerate", "safetensors", "numpy"]
ROUNDS, STEPS, PICTURES_EACH, TRIAL_STEPS = 3, 40, 5, 5
POLICIES = ["active", "passive"]  # how OpenMP's threads wait


def can_import(python):
    """None if this python can run the peer, else why not."""
    test = "import torch, diffusers, peft, safetensors.torch"
    try:
        result = subprocess.run([python, "-c", test], capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if result.returncode == 0 else (result.stderr.strip().splitlines() or ["?"])[-1]


def install():
    """A python of its own with PyTorch from PyPI."""
    print("PyTorch is not installed here: installing it into", VENV.relative_to(ROOT), flush=True)
    venv.create(VENV, with_pip=True, clear=True)
    pip = [str(VENV / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        if subprocess.run(pip + ["torch"], stderr=subprocess.DEVNULL, timeout=1200).returncode != 0:
            return "pip could not install torch"
        if subprocess.run(pip + PACKAGES, stderr=subprocess.DEVNULL, timeout=600).returncode != 0:
            return "pip could not install " + " ".join(PACKAGES)
    except subprocess.TimeoutExpired:
        return "pip took too long"
    return None


def find_python():
    candidates = [os.environ["BENCH_PYTHON"]] if "BENCH_PYTHON" in os.environ else [sys.executable, str(VENV / "bin/python")]
    for python in candidates:
        reason = can_import(python)
        if reason is None:
            return python, None
    if "BENCH_PYTHON" in os.environ or os.environ.get("BENCH_INSTALL") == "0":
        return None, reason
    reason = install() or can_import(str(VENV / "bin/python"))
    return (None, reason) if reason else (str(VENV / "bin/python"), None)


class Program:
    def __init__(self, name, command):
        self.name, self.command, self.policy, self.results = name, command, None, {}

    def run(self, threads, policy, steps, pictures, timeout=None):
        environment = {**os.environ, "OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        arguments = [str(threads), str(steps), str(pictures)]
        done = subprocess.run(self.command + arguments, env=environment, stdout=subprocess.PIPE, text=True, check=True,
                              timeout=timeout)
        self.text = done.stdout
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def choose_policy(self, threads):
        """What is faster for this program, on this machine as busy as it is now."""
        def time(policy):
            try:
                return sum(line["ms"] for line in self.run(threads, policy, TRIAL_STEPS, 1, timeout=120))
            except subprocess.TimeoutExpired:  # threads that wait actively for each other on CPUs that others use
                return float("inf")

        self.policy = min(POLICIES, key=time) if threads > 1 else POLICIES[0]

    def measure(self, threads):
        for line in self.run(threads, self.policy, STEPS, PICTURES_EACH):
            self.results.setdefault((threads, line["what"]), []).append(line)


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def summary(lines):
    return statistics.median(line["ms"] for line in lines), min(line["min"] for line in lines), max(line["max"] for line in lines)


def main():
    threads = int(os.environ.get("THREADS", os.cpu_count()))
    python, reason = find_python()
    programs = [Program("eri", [str(OURS), str(CHECKPOINT), str(PICTURES)])]
    if python:
        programs.append(Program("PyTorch", [python, str(PEER), str(CHECKPOINT)]))
    print(f"\n{cpu_name()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print("eri-tiny in f32; training step: batch 4, LoRA of rank 8, latents 16x16; picture: 20 guided steps, 128x128")

    for count in sorted({1, threads}):
        for program in programs:
            program.choose_policy(count)
        for _ in range(ROUNDS):
            for program in programs:
                program.measure(count)

    print(f"\n{'milliseconds':16}{'threads':>8}  {'program':18}{'median':>8}{'min':>8}{'max':>8}")
    ratios = []
    for key in sorted(programs[0].results, reverse=True):
        count, what = key
        for program in programs:
            median, low, high = summary(program.results[key])
            name = program.results[key][0]["program"]
            print(f"{what:16}{count:8}  {name:18}{median:8.1f}{low:8.1f}{high:8.1f}")
        if python:
            ours, peer = (summary(program.results[key]) for program in programs)
            ratios.append(f"{what}, {count} thread{'s' * (count > 1)}: PyTorch takes {peer[0] / ours[0]:.1f} times as long "
                          f"as eri (at their best {peer[1] / ours[1]:.1f} times)")
    print("\n" + "\n".join(ratios) if python else f"\nno comparison with PyTorch: {reason}")
    print("\n".join(line for line in programs[0].text.splitlines() if not line.startswith("{")))

    if python:
        ours, peer = (program.results[(1, "training step")][0] for program in programs)
        if (ours["modules"], ours["parameters"]) != (peer["modules"], peer["parameters"]):
            sys.exit(f"the two did not train the same: {ours} and {peer}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes docs/integration-results.md from what ctest and the demo printed. `make reports` runs both, then this.

A row passes if every test that it names ran and passed, and if every figure of the demo that it names was printed and is
within its limits. What is missing fails.
"""
import datetime
import os
import pathlib
import platform
import re
import subprocess
import sys
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = ROOT / "build/release/tests.xml"
DEMO = ROOT / "build/demo.log"
REPORT = ROOT / "docs/integration-results.md"

# A row: its tests as patterns of ctest's names, and its figures of the demo, each a pattern and what makes it good.
ROWS = {
    "FLAME tensor operations": (
        [r"^Tensors\.", r"^Tensor\.", r"^ops_test$", r"^Matmul\.", r"^Conv2d\.", r"^Attention\.", r"^Cast\."], []),
    "Autograd gradient computation": ([r"^Autograd\.", r"^Tape\.", r"^GradientMap\.", r"^ops_test$"], []),
    "DataLoader image loading": (
        [r"^DataLoader\.", r"^ImageDataLoader\.", r"^ImageDataset\.", r"^ScanFolder\.", r"^DecodeImage\."], []),
    "Text encoder tokenization": (
        [r"^TextEncoder\.", r"^ClipTokenizer\.", r"^parity\.tokenize", r"^parity\.text"], []),
    "Training loop convergence": (
        [r"^Training\.", r"^Resume\.", r"^parity\.train", r"^parity\.optimizer-adamw"],
        [(r"1\. .*?fixed-noise loss ([\d.]+)", "fixed-noise loss of the base model", lambda loss: loss > 0.3),
         (r"3\. .*?fixed-noise loss ([\d.]+)", "after 300 steps", lambda loss: loss < 0.1)]),
    "Sampling image generation": (
        [r"^Sampling\.", r"^parity\.schedule", r"^parity\.vae_decode", r"^parity\.unet-"],
        [(r"blueprint blue before +([\d.]+)", "share of blueprint blue on 12 new objects before", lambda s: s < 0.05),
         (r"blueprint blue after +([\d.]+)", "after", lambda s: s > 0.35)]),
    "LoRA ComfyUI compatibility": (
        [r"^LoraFile\.", r"^LoraTargets\."],
        [(r"lora\.safetensors: (\d+) modules", "modules in `eri verify`:", lambda count: count == 192),
         (r"(it loads completely in ComfyUI)", "`eri verify` said:", bool)]),
}

ABOUT_KEYS = """## A LoRA key that is often quoted

`lora_unet_down_blocks_0_attentions_0_to_k` cannot exist in SDXL, and no program would load it, for two reasons. SDXL's first
block has no attention (`down_blocks.0` is a plain `DownBlock2D`; Stable Diffusion 1.5 has attention there). And `to_k` never stands
directly below `attentions_0`: the path goes through a transformer block and names one of its two attentions.

What takes its place, SDXL's first self-attention key projection:

| where | name |
| --- | --- |
| our files, and sd-scripts' | `lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k.lora_down.weight` `[rank, 640]`, `.lora_up.weight` `[640, rank]`, `.alpha` |
| the same with diffusers' block numbers | `lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_k` |
| the checkpoint's weight | `model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_k.weight` `[640, 640]` |
"""


class Test:
    """One line of ctest; a program that ctest runs as a whole stands for all the tests that it says it ran."""

    def __init__(self, case):
        self.name, self.passed = case.get("name"), case.get("status") == "run"
        self.output = case.findtext("system-out") or ""
        whole = re.search(r"^\[=+\] (\d+) tests? from .* ran", self.output, re.MULTILINE)
        self.count = int(whole[1]) if whole else 1


def read_tests():
    return [Test(case) for case in xml.etree.ElementTree.parse(TESTS).getroot().iter("testcase")] if TESTS.exists() else []


def judge_tests(patterns, tests):
    """Whether all tests of the row passed, and what to say of them; each pattern has to name one at least."""
    chosen = [test for test in tests if any(re.search(pattern, test.name) for pattern in patterns)]
    missing = [pattern for pattern in patterns if not any(re.search(pattern, test.name) for test in tests)]
    failed = [test.name for test in chosen if not test.passed]
    words = [f"{sum(test.count for test in chosen)} tests{' passed' if chosen and not failed else ''}"]
    words += [f"failed: {', '.join(failed)}"] if failed else []
    words += [f"no test is called `{pattern}`" for pattern in missing]
    words += [figure for test in chosen for figure in re.findall(r"^figure: (.*)$", test.output, re.MULTILINE)]
    return not missing and not failed, words


def judge_figures(figures, demo):
    good, words = True, []
    for pattern, meaning, is_good in figures:
        found = re.search(pattern, demo, re.DOTALL)
        if not found:
            good, words = False, words + [f"the demo did not print `{pattern}`"]
            continue
        value = found[1]
        good = good and is_good(float(value) if re.fullmatch(r"[\d.]+", value) else value)
        words.append(f"{meaning} {value}")
    return good, words


def judge_comfyui():
    """ComfyUI's own loader on the demo's LoRA, where COMFYUI_DIR names a checkout."""
    if not os.environ.get("COMFYUI_DIR"):
        return True, ["ComfyUI's own loader did not run: COMFYUI_DIR is not set"]
    command = [os.environ.get("COMFYUI_PYTHON", "python3"), "tests/comfyui/check_lora.py", "demo/lora.safetensors",
               "models/eri-tiny.safetensors"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["it printed nothing"]
    return done.returncode == 0, [f"`{' '.join(command[1:])}`: {lines[-1]}"]


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return f"{model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores used"


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def main():
    tests, demo = read_tests(), DEMO.read_text() if DEMO.exists() else ""
    lines, all_good = [], True
    for name, (patterns, figures) in ROWS.items():
        verdicts = [judge_tests(patterns, tests), judge_figures(figures, demo)]
        if "ComfyUI" in name:
            verdicts.append(judge_comfyui())
        good = all(verdict[0] for verdict in verdicts)
        all_good = all_good and good
        evidence = [word for verdict in verdicts for word in verdict[1]]
        commands = "`make test`" + (", `make demo`" if figures else "")
        lines.append(f"| {name} | {'PASS' if good else 'FAIL'} | {commands} | {'; '.join(evidence)} |".replace("|`", "| `"))

    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    REPORT.write_text(f"""# Integration results

Written by `make reports` from what the tests and the demo printed; change [tools/integration_report.py](../tools/integration_report.py), not this.

{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, commit {git("rev-parse", "--short=10", "HEAD")}{changed}, {machine()}

| check | result | command | evidence |
| --- | --- | --- | --- |
{chr(10).join(lines)}

{ABOUT_KEYS}""")
    print(REPORT.read_text())
    return 0 if all_good else 1


sys.exit(main())

#!/usr/bin/env python3
"""The table of tools/full_size_parity.sh: how far we are from the reference in f32, and in bf16 how far both are.

usage: full_size_table.py WORK     reads WORK/cases and the logs beside it, writes WORK/full-size.json
"""
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys

# What is printed of a case; parity's logs are judged as a whole.
QUANTITIES = [
    ("unet", "out", "UNet"),
    ("unet_loss", "out", "UNet with LoRA"),
    ("unet_loss", "all:grad.*", "gradients of the LoRA, together"),
    ("unet_loss", "grad.*", "gradients of the LoRA, worst tensor"),
    ("vae_encode", "mean", "VAE, encoded: mean"),
    ("vae_encode", "logvar", "VAE, encoded: log variance"),
    ("vae_encode", "latent", "VAE, encoded: a sample"),
    ("vae_decode", "image", "VAE, decoded"),
    ("text", "hidden_l", "CLIP-L, penultimate"),
    ("text", "hidden_g", "CLIP-G, penultimate"),
    ("text", "pooled", "CLIP-G, pooled"),
    ("drawing", "latent", "latent, {steps} steps, branches x {residual_scale:g}"),
    ("drawing_as_is", "latent", "latent, {steps} steps, weights as they are"),
]
COVERS = {"f32": {"unet", "unet_loss", "vae_encode", "vae_decode", "text", "drawing"},
          "bf16": {"unet", "unet_loss", "vae_encode", "vae_decode", "text"}, "fused": {"unet", "unet_loss"}}


def read_log(path):
    """{(case, tensor): (error, limit)}, and the lines that say that something is wrong."""
    found, complaints = {}, []
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) == 5 and words[4] in ("ok", "FAIL"):
            found[words[0], words[1]] = float(words[2]), float(words[3])
        if "FAIL" in words or "FAIL:" in words or not line.endswith((" ok", " failed")):
            complaints.append(f"{path.stem}: {line}")
    return found, complaints


def chosen(log, case, tensor):
    """The tensor itself, or of a group's members the one that is nearest to its limit."""
    if "*" not in tensor or tensor.startswith("all:"):
        return tensor
    members = [name for of, name in log if of == case and name.startswith(tensor.rstrip("*"))]
    return max(members, key=lambda name: log[case, name][0] / log[case, name][1], default=tensor)


def main():
    work = pathlib.Path(sys.argv[1])
    cases = {path.parent.name: json.loads(path.read_text()) for path in work.glob("cases/*/case.json")}
    logs, complaints = {}, []
    for run in COVERS:
        path = work / f"{run}.log"
        if path.exists():
            logs[run], wrong = read_log(path)
            complaints += wrong
            for case in sorted(COVERS[run] - {case for case, _ in logs[run]}):
                complaints.append(f"{run}: {case} was not compared")
    about = json.loads((work / "about.json").read_text())

    rows = []
    for case, tensor, words in QUANTITIES:
        if case == "drawing_as_is" and case not in cases:
            continue
        row, results = {"what": words.format(**about)}, []
        for run, log in logs.items():
            name = chosen(log, case, tensor)
            if (case, name) not in log:
                continue
            error, limit = log[case, name]
            row[run] = {"error": error, "limit": limit, "tensor": name}
            if run != "f32":
                row[run]["reference"] = cases[case]["bf16"][name.removeprefix("all:")]
                row[run]["ratio"] = error / row[run]["reference"]
            results.append(error <= limit)
        row["ok"] = all(results) and "f32" in row
        params = cases.get(case, {}).get("params", {})
        if "reference_apart" in params:
            row["reference_apart"] = params["reference_apart"]
        if case in cases and cases[case]["tolerance"] is None and "f32" in row:
            row["f32"]["limit"] = None
        rows.append(row)

    def cell(row, run, key, form=".2e"):
        return format(row[run][key], form) if run in row and row[run][key] is not None else "-"

    def verdict(row):
        judged = row.get("f32", {}).get("limit", 0) is not None
        apart = f"; theirs from noise 1e-6 apart: {row['reference_apart']:.2e}" if "reference_apart" in row else ""
        return ("FAIL" if not row["ok"] else "ok" if judged else "not judged") + apart

    print(f"\n{'relative L2':44}{'f32':>9}{'bound':>9} |{'bf16':>9}{'theirs':>9}{'ratio':>7} |"
          f"{'fused':>9}{'theirs':>9}{'ratio':>7}")
    for row in rows:
        parts = [f"{cell(row, 'f32', 'error'):>9}{cell(row, 'f32', 'limit'):>9}"]
        parts += [f"{cell(row, run, 'error'):>9}{cell(row, run, 'reference'):>9}{cell(row, run, 'ratio', '.3f'):>7}"
                  for run in ("bf16", "fused")]
        print(f"{row['what']:44}{' |'.join(parts)}  {verdict(row)}")
    # All gradients together are mostly the few largest ones; where those are no more than noise, this says more.
    medians = {}
    for run in sorted(set(logs) - {"f32"}):
        reference = cases.get("unet_loss", {}).get("bf16", {})
        ratios = [error / reference[name] for (case, name), (error, _) in logs[run].items()
                  if case == "unet_loss" and name.startswith("grad.")]
        if ratios:
            medians[run] = statistics.median(ratios)
            print(f"\n{run}: the median ratio of the {len(ratios)} single gradients is {medians[run]:.3f}")
    print(f"\n{len(complaints)} complaints" + "".join(f"\n  {line}" for line in complaints[:40]))

    def output(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    here = str(pathlib.Path(__file__).parent)
    now = datetime.datetime.now(datetime.timezone.utc)
    log = {"benchmark": "agreement", "date": now.strftime("%Y-%m-%d"), "time": now.strftime("%H:%M:%S"),
           "commit": os.environ.get("COMMIT") or output("git", "-C", here, "rev-parse", "--short", "HEAD"), **about,
           "bf16_without_autocast": cases.get("unet_loss", {}).get("params", {}).get("bf16_without_autocast"),
           "median_ratio_of_gradients": medians, "rows": rows, "complaints": complaints}
    (work / "full-size.json").write_text(json.dumps(log, indent=1) + "\n")
    sys.exit(1 if complaints or not all(row["ok"] for row in rows) else 0)


main()

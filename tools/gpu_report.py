#!/usr/bin/env python3
"""Writes the parts of README.md, docs/benchmarks.md and docs/memory-report.md that tell of speed and memory on GPUs.

usage: gpu_report.py [LOG.json ...]
       gpu_report.py --check     fails where the documents are not what the logs give

They are written from the logs in docs/data. A LOG, such as `bench_training --json` writes, is copied there first. Of a
setup that was measured more than once the last one counts.
"""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "docs/data"
POLICIES = ["lean", "ff", "attn_ff", "block"]
PURPOSES = ["weights", "adapters", "optimizer", "gradients", "data", "activations"]
PARTS = ["weights", "adapters", "optimizer", "gradients", "kept", "working"]

CARDS_GB = [12, 16, 24]
RESERVE_GIB = 1.5  # of a card: the driver, CUDA's context, a desktop
EFFECTIVE_BATCH = 8

# What a kernel is for, by its name; the first pattern that fits counts.
KINDS = {
    "self-attention, gradients": r"sdpa.*bprop|compute_dot_do_o|convert_dq",
    "self-attention": r"sdpa.*fprop",
    "attention to the text": r"flame::cuda::(forward|gradient|sum)_kernel<flame::(bf16|f16)",
    "convolutions": r"implicit_gemm|cudnn|conv2d",
    "matrix products": r"nvjet|splitKreduce|gemm|cublas",
    "norms": r"normali[sz]e|[Gg]roup_?[Nn]orm|layer_norm",
    "adapters and AdamW": r"add_gradients|refresh_kernel|adamw",
    "copies and fills": r"memcpy|memset|copy",
}


def keep(path):
    """Copies a log of a run to docs/data, under a name that a repeated run has again."""
    log = json.loads(path.read_text())
    if path.resolve().parent == DATA or not log["rows"]:
        return
    words = [log["card"].removeprefix("NVIDIA "), log["date"], log["commit"], log["dtype"], f"rank{log['rank']}",
             f"{log['size']}px", log["transformers"]]
    name = re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower())
    (DATA / f"{name}.json").write_text(json.dumps(log, indent=1) + "\n")


def read_logs():
    logs = [json.loads(path.read_text()) for path in sorted(DATA.glob("*.json"))]
    return sorted(logs, key=lambda log: (log["date"], log.get("time", "")))


def last_rows(logs):
    """The last row of each setup, with its log's date, card and commit: {(card, dtype, rank, size): {...: row}}."""
    groups = {}
    for log in logs:
        for row in log.get("rows", []):
            about = {key: log[key] for key in ("date", "card", "commit", "transformers")}
            group = groups.setdefault((log["card"], log["dtype"], log["rank"], log["size"]), {})
            group[log["transformers"], row["policy"], row["batch"]] = {**row, **about}
    return groups


def fused(group):
    """The rows of fused transformers, by policy, then batch."""
    rows = [row for (transformers, _, _), row in group.items() if transformers == "fused"]
    return sorted(rows, key=lambda row: (POLICIES.index(row["policy"]), row["batch"]))


def table(header, rows):
    numbers = ["---" if i == 0 else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [header, numbers, *rows])


def titled(groups, write):
    """A table for each setup, with a line that names the setup."""
    parts = []
    for (card, dtype, rank, size), group in groups.items():
        body = write(group)
        if body:
            parts.append(f"{card}, {dtype}, rank {rank}, {size} x {size}:\n\n{body}")
    return "\n\n".join(parts)


def number(value, digits=1, unit=""):
    return "" if value is None else f"{value:.{digits}f}{unit}"


def measured(row):
    return f"{row['date']}, {row['commit']}" if row["commit"] else row["date"]


# --- docs/benchmarks.md ---


def step_times(group):
    rows = [[f"`{row['policy']}`", row["batch"], number(row["median_ms"]),
             f"{row['min_ms']:.1f} .. {row['max_ms']:.1f}", number(row["median_ms"] / row["batch"]),
             number(row.get("tflops"), 0), number(row.get("percent_of_peak"), 0, " %"),
             number(row.get("percent_of_floor"), 0, " %"), number(row["first_s"]), measured(row)]
            for row in fused(group)]
    return rows and table(["policy", "batch", "ms a step, median", "min .. max", "ms a picture", "TFLOP/s",
                           "of 737 TFLOP/s", "library floor / step", "first step, s", "measured"], rows)


def ladder(group):
    steps = [("layer by layer", "plain_ms", "layer by layer, each kernel launched by the CPU"),
             ("layer by layer", "median_ms", "the step captured as a graph"),
             ("fused", "plain_ms", "transformers fused, each kernel launched by the CPU"),
             ("fused", "median_ms", "transformers fused and the step captured")]
    rows = []
    for transformers, key, words in steps:
        row = group.get((transformers, "lean", 1))
        if row:
            rows.append([words, number(row[key]), number(row["peak_gib"], 2), measured(row)])
    return table(["batch 1, `lean`", "ms a step", "peak GiB", "measured"], rows) if len(rows) == len(steps) else ""


def cross_attention(logs):
    log = [log for log in logs if "cross_attention" in log][-1]
    rows = [[f"{row['samples']} x {row['queries']}, {row['heads']} heads", row["what"], row["bytes_us"], row["us"],
             row["cudnn_us"], f"{row['cudnn_us'] / row['us']:.1f}"] for row in log["cross_attention"]]
    return f"{log['card']}, {log['dtype']}, 77 keys, {log['date']}, microseconds:\n\n" + table(
        ["queries", "computes", "at memory's speed", "ours", "cuDNN", "cuDNN / ours"], rows)


def kernels(logs):
    """Where the time of the last profiled step went, by what its kernels are called."""
    profiled = [(log, row) for log in logs for row in log.get("rows", []) + log.get("profiles", []) if "profile" in row]
    log, row = profiled[-1]
    profile, sums = row["profile"], {}
    for kernel in profile["kernels"]:
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel["name"])), "other passes")
        calls, time = sums.get(kind, (0, 0))
        sums[kind] = calls + kernel["calls"], time + kernel["us"]
    rest = profile["busy_us"] - sum(time for _, time in sums.values())
    rows = [[kind, calls, number(time / 1e3, 2), number(100 * time / profile["busy_us"], 1, " %")]
            for kind, (calls, time) in sorted(sums.items(), key=lambda each: -each[1][1])]
    if rest > 0:
        rows.append(["kernels too short for the log", "", number(rest / 1e3, 2),
                     number(100 * rest / profile["busy_us"], 1, " %")])
    return (f"{log['card']}, {log['dtype']}, batch {row['batch']}, `{row['policy']}`, {log['date']}, "
            f"{log['commit']}; the GPU was busy for {profile['busy_us'] / 1e3:.1f} ms:\n\n"
            + table(["kernels", "calls", "ms", "share"], rows))


def peers(logs):
    log = [log for log in logs if "peers" in log][-1]

    def text(values):
        return "; ".join(map(str, values))

    rows = [[peer["program"], peer["batch"], text(peer["median_ms"]),
             text(f"{low} .. {high}" for low, high in zip(peer["min_ms"], peer["max_ms"])),
             number(peer["busy_ms"], 0), number(peer["peak_gib"], 2)] for peer in log["peers"]]
    return f"{log['card']}, driver {log['driver']}, torch {log['torch']}, {log['date']}:\n\n" + table(
        ["program", "batch", "ms a step, median", "min .. max", "GPU busy, ms", "peak GiB"], rows)


# --- docs/memory-report.md ---


def peaks(group):
    rows = []
    for row in fused(group):
        purposes = row.get("by_purpose_gib") or {}
        rows.append([f"`{row['policy']}`", row["batch"], number(row["peak_gib"], 2), number(row["held_gib"], 2),
                     *(number(purposes.get(purpose), 2) for purpose in PURPOSES), measured(row)])
    return rows and table(["policy", "batch", "peak GiB", "held GiB", *PURPOSES, "measured"], rows)


def best_fit(rows, usable):
    """The row of the largest batch that a card has room for."""
    fitting = [row for row in rows if row["held_gib"] <= usable and EFFECTIVE_BATCH % row["batch"] == 0]
    return max(fitting, key=lambda row: row["batch"], default=None)


def fits(group):
    rows = []
    for gb in CARDS_GB:
        usable = gb - RESERVE_GIB
        found = []
        for policy in POLICIES:
            row = best_fit([row for row in fused(group) if row["policy"] == policy], usable)
            if row:
                found.append((EFFECTIVE_BATCH // row["batch"] * row["median_ms"], row))
        fastest = min((milliseconds for milliseconds, _ in found), default=None)
        for milliseconds, row in found:
            time = f"**{milliseconds:.0f}**" if milliseconds == fastest else f"{milliseconds:.0f}"
            rows.append([f"{gb} GB ({usable} GiB)", f"`{row['policy']}`", row["batch"], number(row["held_gib"], 2),
                         EFFECTIVE_BATCH // row["batch"], time])
    return rows and table(["card (usable)", "policy", "largest batch", "held GiB",
                           f"accumulation steps for {EFFECTIVE_BATCH}", f"ms for {EFFECTIVE_BATCH} pictures, here"], rows)


def predictions(group):
    rows = []
    for row in fused(group):
        parts = row.get("predicted_gib")
        if not parts:
            continue
        total = sum(parts.values())
        rows.append([f"`{row['policy']}`", row["batch"], *(number(parts[part], 2) for part in PARTS), number(total, 2),
                     number(row["peak_gib"], 2), f"{100 * (total / row['peak_gib'] - 1):+.2f} %"])
    return rows and table(["policy", "batch", *PARTS, "predicted", "measured", "off by"], rows)


# --- README.md ---


def summary(groups):
    for (card, dtype, rank, size), group in groups.items():
        one, four = group.get(("fused", "lean", 1)), group.get(("fused", "lean", 4))
        block = group.get(("fused", "block", 1))
        if one and four and block and "H100" in card:
            return (f"On an NVIDIA H100 a training step of SDXL at {size} x {size} (rank {rank}, {dtype}) takes "
                    f"{one['median_ms']:.0f} ms and {one['peak_gib']:.1f} GiB, one of four\npictures "
                    f"{four['median_ms']:.0f} ms and {four['peak_gib']:.1f} GiB, and one that keeps the least "
                    f"{block['median_ms']:.0f} ms and {block['peak_gib']:.1f} GiB: [benchmarks](docs/benchmarks.md#on-a-gpu), "
                    f"[memory](docs/memory-report.md).")
    return ""


def filled(path, sections):
    """The document's text with each section between its marks."""
    text = path.read_text()
    for name, body in sections.items():
        begin, end = f"<!-- {name}: by tools/gpu_report.py -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            sys.exit(f"gpu_report.py: {path.relative_to(ROOT)} lacks the marks of '{name}'")
        text = pattern.sub(lambda _: f"{begin}\n\n{body}\n\n{end}", text)
    return text


def documents():
    logs = read_logs()
    groups = last_rows(logs)
    return {
        "docs/benchmarks.md": {"training step": titled(groups, step_times), "ladder": titled(groups, ladder),
                               "kernels": kernels(logs), "cross attention": cross_attention(logs),
                               "peers": peers(logs)},
        "docs/memory-report.md": {"peaks": titled(groups, peaks), "cards": titled(groups, fits),
                                  "predictions": titled(groups, predictions)},
        "README.md": {"speed": summary(groups)},
    }


def main():
    check = sys.argv[1:] == ["--check"]
    for path in map(pathlib.Path, [] if check else sys.argv[1:]):
        keep(path)
    for name, sections in documents().items():
        path = ROOT / name
        text = filled(path, sections)
        if not check:
            path.write_text(text)
        elif text != path.read_text():
            sys.exit(f"{name} is not what docs/data gives: run tools/gpu_report.py")


main()

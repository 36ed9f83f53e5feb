"""The tables of docs/benchmarks.md."""
import re

from gpu import logs as log_files
from gpu.logs import last_rows, measured, number, of, table
from gpu.sdxl_work import bounds_ms

POLICIES = ["lean", "ff", "attn_ff", "block"]
NOT_YET = "Not measured yet; `make bench-gpu` does it."
H100_TFLOPS, H100_TB_S = 737, 3.02  # where a log does not say what its card reaches

# What a kernel is for, by its name; the first pattern that fits counts.
KINDS = {
    "self-attention, gradients": r"sdpa.*bprop|compute_dot_do_o|convert_dq",
    "self-attention": r"sdpa.*fprop",
    "attention to the text": r"(?:^|flame::cuda::)(forward|gradient|sum)_kernel<(flame::)?(bf16|f16)",
    "convolutions": r"implicit_gemm|cudnn|conv2d",
    "matrix products": r"nvjet|splitKreduce|gemm|cublas",
    "norms": r"normali[sz]e|[Gg]roup_?[Nn]orm|layer_norm|^(gather|spread)<",
    "GEGLU": r"for_each_pack",
    "adapters' gradients": r"(?:^|::)gradients_kernel",
    "adapters and AdamW": r"add_gradients|refresh_kernel|adamw|update_kernel|sum_of_squares|begin_step",
    "copies and fills": r"memcpy|memset|copy",
}


def fused(group):
    """The rows of fused transformers, by policy, then batch."""
    rows = [row for (transformers, _, _), row in group.items() if transformers == "fused"]
    return sorted(rows, key=lambda row: (POLICIES.index(row["policy"]), row["batch"]))


def busy_share(row):
    """Percent of a step in which the GPU had work, 100 where the profiled step, whose kernels do not overlap, took longer."""
    busy = row.get("busy_us") or row.get("profile", {}).get("busy_us")
    return busy and min(100.0, busy / 10 / row["median_ms"])


def step_times(group):
    rows = [[f"`{row['policy']}`", row["batch"], number(row["median_ms"]),
             f"{row['min_ms']:.1f} .. {row['max_ms']:.1f}", number(row["median_ms"] / row["batch"]),
             number(row.get("tflops"), 0), number(row.get("percent_of_peak"), 0, " %"),
             number(row.get("percent_of_gemm"), 0, " %"), number(row.get("percent_of_floor"), 0, " %"),
             number(busy_share(row), 1, " %"), number(row["first_s"]), measured(row)] for row in fused(group)]
    return rows and table(["policy", "batch", "ms a step, median", "min .. max", "ms a picture", "TFLOP/s",
                           "of 737 TFLOP/s", "of its own product", "library floor / step", "GPU busy", "first step, s",
                           "measured"], rows)


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


def allocations(group):
    rows = []
    for row in fused(group):
        if row["policy"] != "lean" or not row.get("allocations"):
            continue
        plain, captured = row["allocations"]["plain"], row["allocations"]["captured"]
        rows.append([row["batch"], plain["calls"], number(plain["ms"], 2), number(row["plain_ms"]),
                     number(plain["percent"], 2, " %"), captured["calls"], number(captured["percent"], 2, " %"),
                     measured(row)])
    return rows and table(["batch", "launched by the CPU: calls", "ms in the allocator", "ms a step", "share",
                           "captured: calls", "share", "measured"], rows)


def cross_attention(logs):
    if not of(logs, "cross attention"):
        return NOT_YET
    log = of(logs, "cross attention")[-1]
    rows = [[f"{row['samples']} x {row['queries']}, {row['heads']} heads", row["what"], row["bytes_us"], row["us"],
             row["cudnn_us"], f"{row['cudnn_us'] / row['us']:.1f}"] for row in log["rows"]]
    return f"{log['card']}, {log['dtype']}, 77 keys, {log['date']}, microseconds:\n\n" + table(
        ["queries", "computes", "at memory's speed", "ours", "cuDNN", "cuDNN / ours"], rows)


def kind_of(kernel):
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel["name"])), "other passes")


def kernels(logs):
    """Where the time of profiled steps went, by what their kernels are called: the last one of each batch size."""
    profiled = {}
    for log in of(logs, "kernels") + [log for log in of(logs, "training") if log["transformers"] == "fused"]:
        for row in log["rows"] if log["dtype"] == "bf16" else []:
            if "profile" in row and row["policy"] == "lean":
                profiled[row["batch"]] = (log, row)
    return "\n\n".join(kernel_table(log, row) for _, (log, row) in sorted(profiled.items()))


def kernel_table(log, row):
    profile, sums = row["profile"], {}
    for kernel in profile["kernels"]:
        kind = kind_of(kernel)
        calls, time = sums.get(kind, (0, 0))
        sums[kind] = calls + kernel["calls"], time + kernel["us"] / 1e3
    ceilings = log.get("ceilings") or {}
    bounds = bounds_ms(row["batch"], log.get("rank", 16), log.get("size", 1024),
                       ceilings.get("gemm_tflops", H100_TFLOPS), ceilings.get("copy_tb_s", H100_TB_S))
    busy = profile["busy_us"] / 1e3
    rows = [[kind, calls, number(time, 2), number(100 * time / busy, 1, " %"), number(bounds.get(kind), 2),
             number(bounds[kind] / time * 100, 0, " %") if kind in bounds else ""]
            for kind, (calls, time) in sorted(sums.items(), key=lambda each: -each[1][1])]
    rest = busy - sum(time for _, time in sums.values())
    if rest > 0:
        rows.append(["kernels too short for the log", "", number(rest, 2), number(100 * rest / busy, 1, " %"), "", ""])
    return (f"{log['card']}, {log['dtype']}, batch {row['batch']}, `{row['policy']}`, {log['date']}, "
            f"{log['commit']}; the GPU was busy for {busy:.1f} ms:\n\n"
            + table(["kernels", "calls", "ms", "share", "least possible, ms", "of that"], rows))


def sampling(logs):
    parts = []
    for log in of(logs, "sampling")[-1:]:
        rows = [[row["what"], number(row["median_ms"]), f"{row['min_ms']:.1f} .. {row['max_ms']:.1f}"]
                for row in log["rows"]]
        whole = next(row["median_ms"] for row in log["rows"] if row["what"] == "whole picture")
        busy = log["profile"]["busy_us"] / 10 / whole if "profile" in log else None
        parts.append(f"{log['card']}, {log['dtype']}, {log['size']} x {log['size']}, {log['steps']} steps, "
                     f"{measured(log)}:\n\n" + table(["", "ms, median", "min .. max"], rows) +
                     f"\n\nLoading took {log['load_s']:.2f} s and the first picture, which chooses kernels and captures, "
                     f"{log['first_picture_s']:.2f} s; the peak was {log['peak_gib']:.2f} GiB." +
                     ("" if busy is None else f" The GPU was busy for {busy:.0f} % of a picture."))
    return "\n\n".join(parts) or NOT_YET


def vae(logs):
    rows = [[row["what"], row["dtype"], f"{row['size']} x {row['size']}", row.get("batch", 1), number(row["median_ms"]),
             f"{row['min_ms']:.1f} .. {row['max_ms']:.1f}", number(row.get("peak_gib"), 2), row["card"], measured(row)]
            for row in last_rows(logs, "vae")]
    return rows and table(["", "type", "picture", "batch", "ms, median", "min .. max", "peak GiB", "card", "measured"],
                          rows) or NOT_YET


def start(logs):
    rows = [[row["what"], number(row["first_step_s"], 2), number(row["load_s"], 2), number(row["load_gb_s"], 1),
             number(row["caching_pictures_s"], 1),
             ", ".join(f"{part} {seconds:.1f}" for part, seconds in row.get("parts_s", {}).items()), row["card"],
             measured(row)] for row in last_rows(logs, "start")]
    return rows and table(["", "first step after, s", "of it loading, s", "GB/s", "pictures cached a second", "made of, s",
                           "card", "measured"], rows) or NOT_YET


def short(value):
    return number(value, 1 if value < 100 else 0)


def peers(logs):
    if not of(logs, "peers"):
        return NOT_YET
    rows = []
    order = sorted(last_rows(logs, "peers"), key=lambda row: (row.get("what", ""), row["program"], row.get("batch", 0)))
    for row in order:
        each = [row[key] if isinstance(row[key], list) else [row[key]] for key in ("median_ms", "min_ms", "max_ms")]
        ours = [row[key] for key in ("ours_before_ms", "ours_after_ms") if key in row]
        does = row.get("what") or f"training, batch {row['batch']}"
        rows.append([row["program"], does, "; ".join(map(short, each[0])),
                     "; ".join(f"{short(low)} .. {short(high)}" for low, high in zip(*each[1:])), number(row.get("busy_ms"), 0),
                     number(row["peak_gib"], 2), number(row.get("start_s"), 0), "; ".join(f"{value:.1f}" for value in ours),
                     number(row.get("ours_peak_gib"), 2), f"**{row['ratio']:.1f}**" if "ratio" in row else "",
                     measured(row)])
    log = of(logs, "peers")[-1]
    versions = ", ".join(f"{name} {log[name]}" for name in ("torch", "diffusers", "peft") if log.get(name))
    return f"{log['card']}, driver {log['driver']}, {versions}:\n\n" + table(
        ["program", "does", "ms, median", "min .. max", "GPU busy, ms", "peak GiB", "first one after, s",
         "ours before; after, ms", "ours, GiB", "times ours", "measured"], rows)


def agreement(logs):
    parts = []
    for log in of(logs, "agreement")[-1:]:
        def figures(row, run, *keys):
            return [format(row[run][key], ".3f" if key == "ratio" else ".1e") if row.get(run, {}).get(key) is not None
                    else "" for key in keys]

        rows = [[row["what"], *figures(row, "f32", "error", "limit"), *figures(row, "bf16", "error", "reference", "ratio"),
                 *figures(row, "fused", "error", "ratio")] for row in log["rows"]]
        versions = ", ".join(f"{name} {version}" for name, version in log["versions"].items())
        parts.append(f"{log['card']}, {log['size']} x {log['size']}, {versions}, {measured(log)}:\n\n" + table(
            ["", "f32", "bound", "bf16", "theirs", "ratio", "bf16, fused", "ratio"], rows))
        apart = [f"{row['what']}: {row['reference_apart']:.1e}" for row in log["rows"] if "reference_apart" in row]
        if apart:
            parts.append("What has no bound is not judged. How far apart the reference's own results are from noise that "
                         f"differs by 1e-6: {'; '.join(apart)}.")
    return "\n\n".join(parts) or "Not measured yet; `tools/full_size_parity.sh` does it."


def sections(logs):
    groups = log_files.training_groups(logs)
    return {"training step": log_files.titled(groups, step_times), "ladder": log_files.titled(groups, ladder),
            "allocations": log_files.titled(groups, allocations) or NOT_YET, "kernels": kernels(logs),
            "cross attention": cross_attention(logs), "sampling": sampling(logs), "vae": vae(logs), "start": start(logs),
            "peers": peers(logs), "agreement": agreement(logs)}

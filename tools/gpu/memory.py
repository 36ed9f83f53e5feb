"""The tables of docs/memory-report.md."""
from gpu.benchmarks import NOT_YET, POLICIES, fused
from gpu.logs import measured, number, of, table, titled, training_groups

PURPOSES = ["weights", "adapters", "optimizer", "gradients", "data", "activations"]
PARTS = ["weights", "adapters", "optimizer", "gradients", "kept", "working"]
CARDS_GB = [12, 16, 24]
RESERVE_GIB = 1.5  # of a card: the driver, CUDA's context, a desktop
EFFECTIVE_BATCH = 8


def peaks(group):
    rows = []
    for row in fused(group):
        purposes = row.get("by_purpose_gib") or {}
        rows.append([f"`{row['policy']}`", row["batch"], number(row["peak_gib"], 2), number(row["held_gib"], 2),
                     number(row.get("nvidia_smi_gib"), 2), *(number(purposes.get(purpose), 2) for purpose in PURPOSES),
                     measured(row)])
    return rows and table(["policy", "batch", "peak GiB", "held GiB", "nvidia-smi GiB", *PURPOSES, "measured"], rows)


def predicted_total(row):
    return sum(row["predicted_gib"].values())


def largest_predicted(rows, usable):
    """The largest batch that fits by prediction, and its GiB: each picture adds the same to what is reckoned."""
    low, high = rows[0], rows[-1]
    slope = (predicted_total(high) - predicted_total(low)) / (high["batch"] - low["batch"])
    fixed = predicted_total(low) - slope * low["batch"]
    batch = int((usable - fixed) / slope)
    return batch, fixed + slope * batch


def fits(group):
    rows = []
    if len({row["batch"] for row in fused(group)}) < 2:
        return rows
    for gb in CARDS_GB:
        usable = gb - RESERVE_GIB
        found = []
        for policy in POLICIES:
            of_policy = [row for row in fused(group) if row["policy"] == policy]
            fitting = [row for row in of_policy if row["held_gib"] <= usable and EFFECTIVE_BATCH % row["batch"] == 0]
            if not fitting:
                continue
            row = max(fitting, key=lambda row: row["batch"])
            predicted = [row for row in of_policy if row.get("predicted_gib")]
            batch, gib = largest_predicted(predicted, usable) if len(predicted) > 1 else ("", None)
            found.append((EFFECTIVE_BATCH // row["batch"] * row["median_ms"], row, batch, gib))
        fastest = min((found[0] for found in found), default=None)
        for milliseconds, row, batch, gib in found:
            time = f"**{milliseconds:.0f}**" if milliseconds == fastest else f"{milliseconds:.0f}"
            rows.append([f"{gb} GB ({usable} GiB)", f"`{row['policy']}`", batch, number(gib, 2), row["batch"],
                         number(row["held_gib"], 2), EFFECTIVE_BATCH // row["batch"], time])
    return rows and table(["card (usable)", "policy", "largest batch, predicted", "GiB, predicted",
                           "largest measured", "held GiB", f"accumulation steps for {EFFECTIVE_BATCH}",
                           f"ms for {EFFECTIVE_BATCH} pictures, here"], rows)


def limited(logs):
    """Steps that ran under a limit, which fails where more would be held."""
    rows = {}
    for log in of(logs, "training"):
        for row in log["rows"] if log.get("limit_gib") else []:
            key = log["card"], log["dtype"], log["limit_gib"], row["policy"], row["batch"]
            rows[key] = [number(log["limit_gib"], 1), log["card"], log["dtype"], f"`{row['policy']}`", row["batch"],
                         number(row["median_ms"]), number(row["peak_gib"], 2), number(row["held_gib"], 2),
                         measured({**log, **row})]
    return table(["limit, GiB", "card", "type", "policy", "batch", "ms a step", "peak GiB", "held GiB", "measured"],
                 rows.values()) if rows else NOT_YET


def predictions(group):
    rows = []
    for row in fused(group):
        parts = row.get("predicted_gib")
        if not parts:
            continue
        total = predicted_total(row)
        rows.append([f"`{row['policy']}`", row["batch"], *(number(parts[part], 2) for part in PARTS), number(total, 2),
                     number(row["peak_gib"], 2), f"{100 * (total / row['peak_gib'] - 1):+.2f} %"])
    return rows and table(["policy", "batch", *PARTS, "predicted", "measured", "off by"], rows)


def types(groups):
    """A step of one picture in each type. What is not trained, and what a step keeps, takes twice as much in f32."""
    rows = {}
    for (card, dtype, rank, size), group in groups.items():
        for (transformers, policy, batch), row in group.items():
            if (policy, batch, rank, size) == ("lean", 1, 16, 1024) and row.get("by_purpose_gib"):
                rows[card, transformers, dtype] = row
    lines = []
    for (card, transformers, dtype), row in sorted(rows.items()):
        purposes, half = row["by_purpose_gib"], rows.get((card, "layer by layer", "bf16"))
        reckoned = None
        if dtype == "f32" and half:
            reckoned = half["peak_gib"] + half["by_purpose_gib"]["weights"] + half["by_purpose_gib"]["activations"]
        trained = sum(purposes[purpose] for purpose in ("adapters", "optimizer", "gradients", "data"))
        lines.append([dtype, transformers, number(row["median_ms"]), number(row["peak_gib"], 2),
                      number(purposes["weights"], 2), number(trained, 2), number(purposes["activations"], 2),
                      number(reckoned, 2), card, measured(row)])
    return lines and table(["type", "transformers", "ms a step", "peak GiB", "weights", "adapters and theirs", "activations",
                            "peak by arithmetic", "card", "measured"], lines)


def sections(logs):
    groups = training_groups(logs)
    return {"peaks": titled(groups, peaks), "cards": titled(groups, fits), "limited": limited(logs),
            "types": types(groups) or NOT_YET, "predictions": titled(groups, predictions)}

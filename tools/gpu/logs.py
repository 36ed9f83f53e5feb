"""The logs of GPU benchmarks in docs/data: each is a JSON object with "benchmark", date, card, commit, what was run, "rows"."""
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "docs/data"


def keep(path):
    """Copies the logs in a file to docs/data, where what the same day, commit and setup measured before is replaced."""
    found = json.loads(path.read_text())
    for log in found.get("logs", [found]):
        if not log["rows"] or path.resolve().parent == DATA:
            continue
        limit = f"within{log['limit_gib']}gib" if log.get("limit_gib") else ""
        about = [log["card"].removeprefix("NVIDIA "), log["date"], log.get("commit") or "", log["benchmark"],
                 log.get("dtype") or "", f"rank{log['rank']}" if "rank" in log else "", log.get("transformers", ""), limit]
        name = re.sub(r"[^a-z0-9.]+", "-", " ".join(filter(None, about)).lower())
        file = DATA / f"{name}.json"
        before = json.loads(file.read_text())["rows"] if file.exists() else []
        measured = {identity(row) for row in log["rows"]}
        rows = [row for row in before if identity(row) not in measured] + log["rows"]
        file.write_text(json.dumps({**log, "rows": rows}, indent=1) + "\n")


def identity(row):
    """What a row is of, for a later one of the same to take its place."""
    return tuple(row.get(key) for key in ("program", "policy", "batch", "what", "size", "dtype"))


def read():
    logs = [json.loads(path.read_text()) for path in sorted(DATA.glob("*.json"))]
    return sorted(logs, key=lambda log: (log["date"], log.get("time") or ""))


def of(logs, benchmark):
    return [log for log in logs if log["benchmark"] == benchmark]


def about(log):
    return {key: log.get(key) for key in ("date", "card", "commit", "dtype", "size")}


def training_groups(logs):
    """{(card, dtype, rank, size): {(transformers, policy, batch): the last row of it, with what is said of its log}}."""
    groups = {}
    for log in of(logs, "training"):
        if log.get("limit_gib"):
            continue
        group = groups.setdefault((log["card"], log["dtype"], log["rank"], log["size"]), {})
        for row in log["rows"]:
            group[log["transformers"], row["policy"], row["batch"]] = {**row, **about(log)}
    return groups


def last_rows(logs, benchmark):
    """The last row of each identity, with what is said of its log, in the order of their first appearance."""
    rows = {}
    for log in of(logs, benchmark):
        for row in log["rows"]:
            rows[log["card"], identity(row)] = {**about(log), **row}
    return list(rows.values())


# --- text ---


def table(header, rows):
    numbers = ["---" if i == 0 else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [header, numbers, *rows])


def number(value, digits=1, unit=""):
    return "" if value is None else f"{value:.{digits}f}{unit}"


def measured(row):
    return f"{row['date']}, {row['commit']}" if row["commit"] else row["date"]


def titled(groups, write):
    """A table for each setup, with a line that names the setup."""
    parts = []
    for (card, dtype, rank, size), group in groups.items():
        body = write(group)
        if body:
            parts.append(f"{card}, {dtype}, rank {rank}, {size} x {size}:\n\n{body}")
    return "\n\n".join(parts)

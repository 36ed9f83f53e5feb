#!/usr/bin/env python3
"""Writes the parts of README.md, docs/benchmarks.md and docs/memory-report.md that tell of speed and memory on GPUs.

usage: gpu_report.py [LOG.json ...]
       gpu_report.py --check     fails where the documents are not what the logs give

They are written from the logs in docs/data. A LOG, such as bench/gpu/run.py or bench/peers.py writes, is copied there
first. Of a setup that was measured more than once the last one counts.
"""
import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpu import benchmarks, logs, memory, sdxl_work  # noqa: E402


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
            sys.exit(f"gpu_report.py: {path.relative_to(logs.ROOT)} lacks the marks of '{name}'")
        text = pattern.sub(lambda _: f"{begin}\n\n{body}\n\n{end}", text)
    return text


def documents():
    found = logs.read()
    return {
        "docs/benchmarks.md": benchmarks.sections(found),
        "docs/memory-report.md": memory.sections(found),
        "README.md": {"speed": summary(logs.training_groups(found))},
    }


def check_the_arithmetic():
    """The work of a step is what the documents say it is."""
    flop = sum(operations for operations, _ in sdxl_work.work(1, rank=0).values())
    if abs(flop - 14.349e12) > 0.001e12:
        sys.exit(f"tools/gpu/sdxl_work.py counts {flop / 1e12:.3f} TFLOP a picture instead of 14.349")


def main():
    check = sys.argv[1:] == ["--check"]
    for path in map(Path, [] if check else sys.argv[1:]):
        logs.keep(path)
    for name, sections in documents().items():
        path = logs.ROOT / name
        text = filled(path, sections)
        if not check:
            path.write_text(text)
        elif text != path.read_text():
            sys.exit(f"{name} is not what docs/data gives: run tools/gpu_report.py")
    check_the_arithmetic()


main()

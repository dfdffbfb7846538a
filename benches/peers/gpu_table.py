#!/usr/bin/env python3
"""Joins runs of `blast-bench` and `gpu_peers.py` into a Markdown table with one line per problem that both timed.

    gpu_table.py FILE.jsonl ...

Several runs of one problem are joined by the median of their medians, with the range over the runs.
"""
import json
import statistics
import sys
from collections import defaultdict

PEERS = ["cublas", "torch-bsr", "triton"]


def key(problem):
    return (problem["verb"], problem["d_input"], problem["d_output"], problem["block"], round(problem["sparsity"], 4),
            problem["rows"], problem["dtype"], problem["cold"])


def read(paths):
    times, failed = defaultdict(lambda: defaultdict(list)), set()
    for path in paths:
        for line in map(json.loads, open(path)):
            if line["kind"] == "result":
                times[key(line["problem"])]["burn-blast"].append(line["sparse"]["median"])
                times[key(line["problem"])]["burn dense"].append(line["dense"]["median"])
            elif line["kind"] == "peer" and "seconds" in line:
                times[key(line["problem"])][line["peer"]].append(line["seconds"]["median"])
            elif line["kind"] == "peer":
                failed.add(f"{line['peer']} on {key(line['problem'])}: {line['failed']}")
    return times, failed


def main():
    if len(sys.argv) < 2:
        return __doc__
    times, failed = read(sys.argv[1:])
    others = ["burn dense", *PEERS]
    print("| verb | weight | block | removed | rows | type | cold | burn-blast µs (runs) | "
          + " | ".join(f"over {name}" for name in others) + " |")
    print("|---" * (8 + len(others)) + "|")
    for problem, found in sorted(times.items()):
        if "burn-blast" not in found or not any(peer in found for peer in PEERS):
            continue
        verb, k, n, block, sparsity, rows, dtype, cold = problem
        ours = statistics.median(found["burn-blast"])
        spread = f"{min(found['burn-blast']) * 1e6:.1f} to {max(found['burn-blast']) * 1e6:.1f}"
        over = [f"{statistics.median(found[name]) / ours:.2f}" if name in found else "" for name in others]
        print(f"| {verb} | {k}x{n} | {block} | {sparsity:.0%} | {rows} | {dtype} | {'yes' if cold else ''} "
              f"| {ours * 1e6:.1f} ({spread}) | " + " | ".join(over) + " |")
    print("\nburn-blast and burn dense are timed without a hold: with few rows, their times include waiting for the host.")
    for reason in sorted(failed):
        print(f"\nNot run: {reason}")


if __name__ == "__main__":
    sys.exit(main())

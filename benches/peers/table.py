"""Reads the JSON lines of `cpu_peers.py` on standard input, prints a Markdown table of ratios inside each problem."""
import json
import sys

rows = [json.loads(line) for line in sys.stdin if line.startswith("{")]
key = lambda r: (r["op"], r["k"], r["n"], r["block"], r["sparsity"], r["m"], r["threads"], r["flush_mib"])
print("| verb | weight | block | sparsity | rows | threads | cold | best dense f32 ms | peer | ms | GFLOP/s a core | over dense | over libxsmm |")
print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
for problem in dict.fromkeys(map(key, rows)):
    peers = [r for r in rows if key(r) == problem]
    time = lambda r: r["cpu_p25"]
    dense = min((time(r) for r in peers if "dense" in r["peer"] and r["dtype"] == "f32"), default=None)
    xsmm = next((time(r) for r in peers if r["peer"].startswith("libxsmm")), None)
    for r in peers:
        over = lambda other: f"{other / time(r):.2f}" if other else ""
        op, k, n, b, s, m, threads, flush = problem
        print(f"| {op} | {k}x{n} | {b} | {s:.0%} | {m} | {threads} | {'yes' if flush else ''} | {dense * 1e3 if dense else 0:.3f} "
              f"| {r['peer']} {r['dtype']} | {time(r) * 1e3:.3f} | {r['gflops_cpu_p25'] or 0:.1f} | {over(dense)} | {over(xsmm)} |")

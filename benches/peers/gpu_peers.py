#!/usr/bin/env python3
"""Times other libraries on an NVIDIA GPU, on the problems of `blast-bench`.

y [M, N] = x [M, K] . w [K, N] with a block-sparse w, its gradients, and the gated block
down(silu(x . gate) * (x . up)). Prints JSON lines: first the machine, then one line for each problem and peer with
the quartiles of its seconds, or with the reason why it could not run.

Peers
  cublas    torch.matmul on the dense weights
  torch-bsr torch.sparse._triton_ops.bsr_dense_addmm, weight as BSR [N, K], activations transposed
  triton    one program for each tile of rows and block column, tl.dot over the kept blocks of the column; no
            tuning: what a good compiler makes of the plain algorithm

Each peer is compared with the dense product in f64 before it is timed. The peers of a problem alternate and are timed with
CUDA events, in windows that are queued while the device is held (windows.py), so that the host's time to launch does not count;
--cold goes through copies of the weight that are together larger than the L2 cache, all equally often.
Needs torch with CUDA, and triton. `TRITON_INTERPRET=1 gpu_peers.py --selftest` checks the Triton kernel on a CPU.
"""
import argparse
import json
import sys

import numpy as np
import torch
import triton
import triton.language as tl

from windows import interleaved

SHAPES = {  # d_model, d_ff
    "gpt2-xl": (1600, 6400),
    "llama-3.2-1b": (2048, 8192),
    "llama-3.1-8b": (4096, 14336),
    "llama-3.1-405b": (16384, 53248),
}
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
# Of the Frobenius norm; a wrong block is far outside.
TOLERANCE = 2e-2


@triton.jit
def spmm_kernel(x, values, rows, starts, y, M, N, K, B: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    column = tl.program_id(0)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.arange(0, B)
    k = tl.arange(0, BK)
    total = tl.zeros((BM, B), dtype=tl.float32)
    for block in range(tl.load(starts + column), tl.load(starts + column + 1)):
        row = tl.load(rows + block)
        for part in range(0, B, BK):
            left = tl.load(x + m[:, None] * K + (row * B + part + k)[None, :], mask=m[:, None] < M, other=0.0)
            right = tl.load(values + block * B * B + (part + k)[:, None] * B + n[None, :])
            total += tl.dot(left, right)
    tl.store(y + m[:, None] * N + (column * B + n)[None, :], total.to(y.dtype.element_ty), mask=m[:, None] < M)


class Weight:
    """Exactly round((1 - sparsity) * blocks) kept blocks, drawn by seed."""

    def __init__(self, k, n, block, sparsity, dtype, device, draw):
        self.k, self.n, self.block = k, n, block
        across, along = n // block, k // block
        count = round((1 - sparsity) * across * along)
        flat = np.sort(draw.choice(across * along, count, replace=False))
        columns, rows = flat // along, flat % along
        starts = np.searchsorted(columns, np.arange(across + 1)).astype(np.int32)
        scale = (k * max(1 - sparsity, 1 / along)) ** -0.5
        self.values = (torch.randn((count, block, block), device=device) * scale).to(dtype)
        self.rows = torch.tensor(rows.astype(np.int32), device=device)
        self.columns = torch.tensor(columns, device=device)
        self.starts = torch.tensor(starts, device=device)

    def dense(self):
        grid = (self.k // self.block, self.n // self.block, self.block, self.block)
        grid = torch.zeros(grid, device=self.values.device, dtype=self.values.dtype)
        grid[self.rows.long(), self.columns.long()] = self.values
        return grid.permute(0, 2, 1, 3).reshape(self.k, self.n).contiguous()

    def triton(self, x):
        m = x.shape[0]
        y = torch.empty((m, self.n), dtype=x.dtype, device=x.device)
        tile = 128 if m >= 128 else max(16, triton.next_power_of_2(m))
        spmm_kernel[(self.n // self.block, triton.cdiv(m, tile))](
            x, self.values, self.rows, self.starts, y, m, self.n, self.k, B=self.block, BM=tile,
            BK=min(self.block, 64), num_warps=8 if tile * self.block >= 8192 else 4, num_stages=3)
        return y


class Turns:
    """Another copy at each call."""

    def __init__(self, copies):
        self.copies, self.at = copies, 0

    def __call__(self):
        self.at = (self.at + 1) % len(self.copies)
        return self.copies[self.at]


def forward(weights, x):
    """Peers of y = x . w, each with a function for the first copy of the weight to check it by."""
    from torch.sparse._triton_ops import bsr_dense_addmm
    dense = [w.dense() for w in weights]
    bsr = [d.t().contiguous().to_sparse_bsr((weights[0].block,) * 2) for d in dense]
    zero = torch.zeros((weights[0].n, x.shape[0]), device=x.device, dtype=x.dtype)
    d, s, w = Turns(dense), Turns(bsr), Turns(weights)
    want = x.double() @ dense[0].double()
    return want, {
        "cublas": (lambda: x @ d(), lambda: x @ dense[0]),
        "torch-bsr": (lambda: bsr_dense_addmm(zero, s(), x.t(), beta=0),
                      lambda: bsr_dense_addmm(zero, bsr[0], x.t(), beta=0).t()),
        "triton": (lambda: w().triton(x), lambda: weights[0].triton(x)),
    }


def gradients(weights, x, verb):
    """The dense gradients; no other library has block-sparse ones."""
    w = weights[0].dense()
    dy = torch.randn((x.shape[0], weights[0].n), device=x.device, dtype=x.dtype)
    if verb == "input_gradient":
        want, call = dy.double() @ w.double().t(), lambda: dy @ w.t()
    else:
        want, call = x.double().t() @ dy.double(), lambda: x.t() @ dy
    return want, {"cublas": (call, call)}


def gated(weights, x, down):
    act = torch.nn.functional.silu
    gate, up = weights[0], weights[1 % len(weights)]
    dense = [w.dense() for w in (gate, up, down)]
    g, u, d = (w.double() for w in dense)
    want = (act(x.double() @ g) * (x.double() @ u)) @ d
    cublas = lambda: (act(x @ dense[0]) * (x @ dense[1])) @ dense[2]
    plain = lambda: down.triton(act(gate.triton(x)) * up.triton(x))
    return want, {"cublas": (cublas, cublas), "triton": (plain, plain)}


class Queue:
    """The current stream, for `windows.py`."""

    def __init__(self):
        # In kHz; older versions of torch do not say, and a hold need not be exact.
        self.hertz = 1e3 * getattr(torch.cuda.get_device_properties(0), "clock_rate", 1.8e6)

    def hold(self, seconds):
        torch.cuda._sleep(int(seconds * self.hertz))

    def mark(self):
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def passed(self, event):
        return event.query()

    def between(self, start, end):
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def problems(args):
    for model in args.models.split(","):
        k, n = SHAPES[model]
        for block in map(int, args.block.split(",")):
            for sparsity in map(float, args.sparsity.split(",")):
                for verb in args.verbs.split(","):
                    if k % block == 0 and n % block == 0:
                        yield model, k, n, block, sparsity / 100, verb


def measure(args, device, dtype):
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    draw = np.random.default_rng(args.seed)
    for model, k, n, block, sparsity, verb in problems(args):
        kept = k * n * (1 - sparsity) * dtype.itemsize
        copies = max(1, min(128, int(3 * cache / max(1, kept)) + 1)) if args.cold else 1
        copies = max(copies, 2) if verb == "gated_mlp" else copies
        for rows in map(int, args.rows.split(",")):
            problem = {"model": model, "verb": verb, "rows": rows, "d_input": k, "d_output": n, "block": block,
                       "sparsity": sparsity, "dtype": args.dtype, "cold": args.cold}
            say = lambda more: print(json.dumps({"kind": "peer", "problem": problem, **more}), flush=True)
            try:
                weights = [Weight(k, n, block, sparsity, dtype, device, draw) for _ in range(copies)]
                x = torch.randn((rows, k), device=device, dtype=dtype)
                if verb == "forward":
                    want, peers = forward(weights, x)
                elif verb == "gated_mlp":
                    want, peers = gated(weights, x, Weight(n, k, block, sparsity, dtype, device, draw))
                else:
                    want, peers = gradients(weights, x, verb)
                calls = {}
                for name, (call, once) in peers.items():
                    try:
                        error = ((once().double() - want).norm() / want.norm()).item()
                        assert error < TOLERANCE, f"wrong result: {error:.2e} off"
                        calls[name] = call
                    except Exception as reason:  # a peer that cannot do a shape is named, not hidden
                        say({"peer": name, "failed": str(reason)[:200]})
                del want
                timed, failed = interleaved(Queue(), calls, args.rounds, copies)
                for name, reason in failed.items():
                    say({"peer": name, "failed": reason})
                for name, seconds in timed.items():
                    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
                    say({"peer": name, "seconds": {"low": low, "median": median, "high": high}, "copies": copies})
            except torch.cuda.OutOfMemoryError:
                say({"peer": "all", "failed": "the GPU's memory is too small"})
            peers = calls = weights = x = None
            torch.cuda.empty_cache()


def selftest():
    draw = np.random.default_rng(0)
    for m, k, n, block, sparsity in [(33, 128, 192, 32, 0.5), (16, 64, 128, 64, 0.5), (1, 128, 128, 32, 0.9),
                                     (130, 256, 128, 32, 0.0), (5, 64, 64, 32, 1.0)]:
        weight = Weight(k, n, block, sparsity, torch.float32, "cpu", draw)
        x = torch.randn(m, k)
        error = (weight.triton(x) - x @ weight.dense()).abs().max().item()
        print(f"{m} x {k} x {n}, block {block}, {sparsity:.0%} removed: {error:.1e} off")
        assert error < 1e-4
    print("right")


def main():
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--models", default="llama-3.2-1b,llama-3.1-8b,llama-3.1-405b")
    parser.add_argument("--verbs", default="forward,input_gradient,weight_gradient,gated_mlp")
    parser.add_argument("--rows", default="1,16,256,2048,8192")
    parser.add_argument("--sparsity", default="50,70,80,90,95", help="per cent of the blocks removed")
    parser.add_argument("--block", default="64,128")
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--cold", action="store_true", help="weights out of the L2 cache")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--selftest", action="store_true")
    args = parser.parse_args()
    if args.selftest:
        return selftest()
    if not torch.cuda.is_available():
        return "gpu_peers.py: torch finds no CUDA device; --selftest needs none"
    properties = torch.cuda.get_device_properties(0)
    print(json.dumps({"kind": "machine", "device": properties.name, "l2_bytes": properties.L2_cache_size,
                      "torch": torch.__version__, "triton": triton.__version__, "command": " ".join(sys.argv)}))
    measure(args, "cuda", DTYPES[args.dtype])


if __name__ == "__main__":
    sys.exit(main())

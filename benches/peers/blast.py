"""The kernels of burn-blast for `cpu_peers.py --plugin`: build them first with `cargo build --release -p blast-abi`.

BLAST_ABI names the library if it is not in the target folder of this checkout.
"""
import ctypes as C
import os
import pathlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
lib = C.CDLL(os.environ.get("BLAST_ABI", str(TARGET / "release" / "libblast_abi.so")))
lib.blast_pattern.restype = C.c_void_p
lib.blast_int4_len.restype = C.c_size_t
size = C.c_size_t


def ptr(array):
    return C.c_void_p(array.ctypes.data)


def lines(shape, dtype=np.float32):
    """Elements aligned to a cache line, as on the Flex backend."""
    count, size = int(np.prod(shape)), np.dtype(dtype).itemsize
    raw = np.empty(count + 64 // size, dtype)
    start = (-raw.ctypes.data % 64) // size
    return raw[start : start + count].reshape(shape)


def peers(ctx):
    m, k, n, b = ctx.m, ctx.k, ctx.n, ctx.block
    col_ptr = np.zeros(n // b + 1, np.int64)
    np.add.at(col_ptr, ctx.bcol.astype(np.int64) + 1, 1)
    col_ptr = np.cumsum(col_ptr).astype(np.uint32)
    row_idx = ctx.brow.astype(np.uint32)
    pattern = C.c_void_p(lib.blast_pattern(size(k), size(n), size(b), ptr(col_ptr), ptr(row_idx)))
    assert pattern.value, "the indices are no pattern"
    y, dx, dw = lines((m, n)), lines((m, k)), lines(ctx.vals.shape)
    bf16 = (ctx.vals.view(np.uint32) >> 16).astype(np.uint16)
    x16, y16 = (ctx.x.view(np.uint32) >> 16).astype(np.uint16), lines((m, n), np.uint16)
    dy16, dx16 = (ctx.dy.view(np.uint32) >> 16).astype(np.uint16), lines((m, k), np.uint16)
    dw16 = lines(ctx.vals.shape, np.uint16)
    scales = (np.abs(ctx.vals).max(axis=(1, 2)) / 127).astype(np.float32)
    int8 = np.rint(ctx.vals / scales[:, None, None]).astype(np.int8)
    int4 = lines(lib.blast_int4_len(pattern), np.int8)
    lib.blast_quantize_int4(pattern, ptr(ctx.vals), ptr(int4))
    # Kept alive as long as the calls below.
    ctx.blast = (col_ptr, row_idx, bf16, scales, int8, int4, x16, y16, dy16, dx16, dw16, y, dx, dw)
    x, dy, values, rows = ptr(ctx.x), ptr(ctx.dy), ptr(ctx.vals), size(m)
    call = lambda function, *arguments: lambda: function(pattern, *arguments, rows)

    def rounded(product, allow=lib.blast_allow_int8):
        """Factors are rounded."""

        def both():
            allow(C.c_bool(True))
            product()
            allow(C.c_bool(False))

        return both

    forward = call(lib.blast_spmm_f32, x, values, ptr(y))
    backward = call(lib.blast_spmm_t_f32, ptr(ctx.dy), values, ptr(dx))
    gradient = call(lib.blast_sddmm_f32, x, ptr(ctx.dy), ptr(dw))

    return [
        ("blast", "f32", "fwd", forward, lambda: y),
        ("blast-f32r", "f32, bf16 products", "fwd", rounded(forward, lib.blast_allow_bf16), lambda: y),
        ("blast-bf16w", "bf16", "fwd", call(lib.blast_spmm_bf16w, x, ptr(bf16), ptr(y)), lambda: y),
        (
            "blast-bf16", "bf16", "fwd", call(lib.blast_spmm_bf16, ptr(x16), ptr(bf16), ptr(y16)),
            lambda: (y16.astype(np.uint32) << 16).view(np.float32),
        ),
        ("blast-int8", "int8", "fwd", rounded(call(lib.blast_spmm_int8, x, ptr(int8), ptr(scales), ptr(y))), lambda: y),
        ("blast-int8w", "int8", "fwd", call(lib.blast_spmm_int8, x, ptr(int8), ptr(scales), ptr(y)), lambda: y),
        ("blast-int4w", "int4", "fwd", call(lib.blast_spmm_int4, x, ptr(int4), ptr(y)), lambda: y),
        ("blast", "f32", "dx", backward, None),
        ("blast-f32r", "f32, bf16 products", "dx", rounded(backward, lib.blast_allow_bf16), None),
        ("blast-bf16", "bf16", "dx", call(lib.blast_spmm_t_bf16, ptr(dy16), ptr(bf16), ptr(dx16)), None),
        ("blast", "f32", "dw", gradient, None),
        ("blast-f32r", "f32, bf16 products", "dw", rounded(gradient, lib.blast_allow_bf16), None),
        ("blast-bf16", "bf16", "dw", call(lib.blast_sddmm_bf16, ptr(x16), ptr(dy16), ptr(dw16)), None),
    ]

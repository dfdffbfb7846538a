#!/usr/bin/env python3
"""Limits of an NVIDIA GPU that the kernel ladder of the documentation assumes. Prints JSON lines.

- bytes/s read from the L2 cache and from memory, by a Triton kernel that only reads, over buffers of several sizes
- seconds of a launch: many tiny kernels one by one, and as one captured graph

Needs torch with CUDA, and triton.
"""
import json
import sys
import time

import torch
import triton
import triton.language as tl


@triton.jit
def read_kernel(source, out, elements, laps, BLOCK: tl.constexpr):
    """Every program reads the whole buffer, from its own place on, `laps` times."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    tiles = elements // BLOCK
    for step in range(0, laps * tiles // programs):
        tile = (program + step * programs + step // tiles) % tiles
        total += tl.load(source + tile * BLOCK + tl.arange(0, BLOCK))
    tl.store(out + program * BLOCK + tl.arange(0, BLOCK), total)


def seconds_of(call, rounds=11):
    call()
    torch.cuda.synchronize()
    all_seconds = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        all_seconds.append(start.elapsed_time(end) / 1e3)
    return sorted(all_seconds)[rounds // 2]


def bandwidth(mib):
    block, programs = 4096, 8 * torch.cuda.get_device_properties(0).multi_processor_count
    elements = mib * 2**20 // 4 // block * block
    laps = max(1, 2**33 // (4 * elements))
    source = torch.ones(elements, device="cuda")
    out = torch.empty(programs * block, device="cuda")
    seconds = seconds_of(lambda: read_kernel[(programs,)](source, out, elements, laps, BLOCK=block, num_warps=8))
    read = laps * (elements // block) // programs * programs * block * 4
    assert abs(out.sum().item() * 4 / read - 1) < 1e-3, "the kernel did not read what it should"
    return read / seconds


def launches(count=1000):
    x = torch.zeros(32, device="cuda")

    def many():
        for _ in range(count):
            x.add_(1.0)

    many()
    torch.cuda.synchronize()
    start = time.perf_counter()
    many()
    torch.cuda.synchronize()
    alone = (time.perf_counter() - start) / count
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        many()
    return alone, seconds_of(graph.replay) / count


def main():
    if not torch.cuda.is_available():
        return "gpu_probe.py: torch finds no CUDA device"
    properties = torch.cuda.get_device_properties(0)
    say = lambda **what: print(json.dumps(what), flush=True)
    say(device=properties.name, multiprocessors=properties.multi_processor_count, l2_bytes=properties.L2_cache_size)
    for mib in (4, 8, 16, 24, 32, 64, 256, 2048):
        say(read_mib=mib, bytes_per_second=bandwidth(mib))
    alone, captured = launches()
    say(launch_seconds=alone, launch_in_graph_seconds=captured)


if __name__ == "__main__":
    sys.exit(main())

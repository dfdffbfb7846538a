"""Compiles generated CUDA C++ as CubeCL's runtime does, then assembles it, without a GPU.

usage: compile.py TOOLKIT ARCH CACHE SOURCE.cu ...

NVRTC makes PTX, ptxas makes machine code, nvdisasm lists it. One JSON object a source goes to the standard
output, in the order given: registers, spilled bytes, how many of those accesses stand in loops, stack, and how often
each of some instructions occurs.
These facts are kept in the folder CACHE under a hash of all that they follow from, so a kernel that has not
changed is not compiled again; what a compiler refuses is never kept.
Needs nothing but Python's standard library and the folder that toolkit.sh prints.
"""

import ctypes
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

INSTRUCTIONS = ("HMMA", "LDSM", "LDGSTS", "LDG", "LDG.128", "STG", "BAR", "LDL", "STL", "I2F")
# Kernels that are assembled and listed together: nvdisasm takes 0.4 s to start, a kernel 0.05 s after that.
TOGETHER = 32


class Nvrtc:
    """The three calls of NVRTC that a compilation takes."""

    def __init__(self, root: Path):
        lib = root / "lib"
        # NVRTC opens this one by name, so it has to be there already.
        builtins = sorted(lib.glob("libnvrtc-builtins.so.*"))[0]
        self.builtins = ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self.api = ctypes.CDLL(str(sorted(lib.glob("libnvrtc.so.*"))[0]))
        self.include = root / "include"

    def text(self, program, name: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self.api, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.api, f"nvrtcGet{name}")(program, buffer)
        return buffer.value

    def ptx(self, source: Path, arch: str) -> str:
        # The runtime also asks for line numbers. They change no instruction, and ptxas does not take those of
        # several files at once.
        options = [
            f"--gpu-architecture={arch}",
            f"--include-path={self.include}",
            f"--include-path={self.include / 'cccl'}",
        ]
        program = ctypes.c_void_p()
        code = source.read_bytes()
        self.api.nvrtcCreateProgram(ctypes.byref(program), code, None, 0, None, None)
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = self.api.nvrtcCompileProgram(program, len(options), array)
        log = self.text(program, "ProgramLog")
        if failed:
            raise SystemExit(f"NVRTC refuses {source.name} for {arch}:\n{log.decode()}")
        ptx = self.text(program, "PTX").decode()
        self.api.nvrtcDestroyProgram(ctypes.byref(program))
        return ptx


def run(*command) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True)


def assemble(root: Path, arch: str, ptx: list[str], folder: Path) -> dict[str, dict]:
    """Registers and instructions of the machine code of each kernel, by its name in the code."""
    files = [folder / f"{at}.ptx" for at in range(len(ptx))]
    for file, code in zip(files, ptx):
        file.write_text(code)
    cubin = folder / "kernels.cubin"
    done = run(root / "bin" / "ptxas", f"--gpu-name={arch}", "-v", "-o", cubin, *files)
    if done.returncode:
        raise SystemExit(f"ptxas refuses kernels for {arch}:\n{done.stderr}")
    listed = run(root / "bin" / "nvdisasm", "-c", cubin)
    if listed.returncode:
        raise SystemExit(f"nvdisasm refuses kernels for {arch}:\n{listed.stderr}")
    # "^" stands before each kernel's part; what is before the first belongs to none.
    costs = re.split(r"Compiling entry function '(\w+)'", done.stderr)[1:]
    listings = re.split(r"^\.text\.(\w+):", listed.stdout, flags=re.M)[1:]
    listings = dict(zip(listings[::2], listings[1::2]))
    return {
        entry: facts(cost, listings[entry]) for entry, cost in zip(costs[::2], costs[1::2])
    }


def facts(cost: str, listing: str) -> dict:
    """Of one kernel, from what ptxas says of it and from its listing."""
    number = lambda pattern: int(re.search(pattern, cost).group(1))
    # An instruction may carry a predicate: "@!P0 LDGSTS.E.BYPASS.128 ...".
    names = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9.]+)", listing, re.M)

    def count(instruction: str) -> int:
        """Those of the name before the dot that have every word after it among their modifiers."""
        base, *words = instruction.split(".")
        parts = [name.split(".") for name in names]
        return sum(own[0] == base and all(word in own for word in words) for own in parts)

    return {
        "registers": number(r"Used (\d+) registers"),
        "spill_stores": number(r"(\d+) bytes spill stores"),
        "spill_loads": number(r"(\d+) bytes spill loads"),
        "spills_in_loops": spills_in_loops(listing),
        "stack": number(r"(\d+) bytes stack frame"),
        "instructions": {name: count(name) for name in INSTRUCTIONS},
    }


def spills_in_loops(listing: str) -> int:
    """Reads and writes of spilled registers between a jump backwards and where it goes."""
    lines = listing.splitlines()
    labels = {line[:-1].strip(): at for at, line in enumerate(lines) if re.match(r"^\.L_\w+:$", line)}
    inside = set()
    for at, line in enumerate(lines):
        jump = re.search(r"\bBRA\b.*`\((\.L_\w+)\)", line)
        start = labels.get(jump.group(1), at) if jump else at
        inside.update(range(start, at))
    return sum(bool(re.search(r"\s(LDL|STL)\b", lines[at])) for at in inside)


class Cache:
    """Facts by the hash of a source, of this program and of the toolkit's version."""

    def __init__(self, folder: Path, root: Path, arch: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        version = run(root / "bin" / "ptxas", "--version").stdout
        self.seed = hashlib.sha256(f"{version}{arch}".encode() + Path(__file__).read_bytes())

    def path(self, source: Path) -> Path:
        key = self.seed.copy()
        key.update(source.read_bytes())
        return self.folder / f"{key.hexdigest()}.json"

    def keep(self, path: Path, found: dict) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False) as file:
            json.dump(found, file)
        os.replace(file.name, path)


def fill(cache: Cache, root: Path, arch: str, missing: dict[Path, Path]) -> None:
    """Compiles sources, given by where their facts go."""
    nvrtc = Nvrtc(root)
    paths = list(missing)
    for start in range(0, len(paths), TOGETHER):
        group = paths[start : start + TOGETHER]
        with ThreadPoolExecutor() as pool:
            ptx = list(pool.map(lambda path: nvrtc.ptx(missing[path], arch), group))
        with tempfile.TemporaryDirectory() as folder:
            found = assemble(root, arch, ptx, Path(folder))
        for path, code in zip(group, ptx):
            [entry] = re.findall(r"\.entry (\w+)", code)
            cache.keep(path, found[entry])


def main() -> None:
    root, arch, folder, *sources = sys.argv[1:]
    root, sources = Path(root), [Path(source) for source in sources]
    cache = Cache(Path(folder), root, arch)
    places = [cache.path(source) for source in sources]
    missing = {place: source for place, source in zip(places, sources) if not place.exists()}
    if missing:
        fill(cache, root, arch, missing)
    for source, place in zip(sources, places):
        print(json.dumps({"name": source.stem, **json.loads(place.read_text())}))


if __name__ == "__main__":
    main()

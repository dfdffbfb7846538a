"""Compiles generated CUDA C++ as CubeCL's runtime does, then assembles it, without a GPU.

usage: compile.py TOOLKIT ARCH SOURCE.cu ...

NVRTC makes PTX, ptxas makes machine code, nvdisasm lists it. One JSON object a source goes to the standard
output, in the order given: registers, spilled bytes, stack, and how often each of some instructions occurs.
Needs nothing but Python's standard library and the folder that toolkit.sh prints.
"""

import ctypes
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

INSTRUCTIONS = ("HMMA", "LDSM", "LDGSTS", "LDG", "LDG.128", "STG", "BAR", "LDL", "STL", "I2F")


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

    def ptx(self, source: Path, arch: str) -> bytes:
        options = [
            f"--gpu-architecture={arch}",
            f"--include-path={self.include}",
            f"--include-path={self.include / 'cccl'}",
            "-lineinfo",
        ]
        program = ctypes.c_void_p()
        code = source.read_bytes()
        self.api.nvrtcCreateProgram(ctypes.byref(program), code, None, 0, None, None)
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = self.api.nvrtcCompileProgram(program, len(options), array)
        log = self.text(program, "ProgramLog")
        if failed:
            raise SystemExit(f"NVRTC refuses {source.name} for {arch}:\n{log.decode()}")
        ptx = self.text(program, "PTX")
        self.api.nvrtcDestroyProgram(ctypes.byref(program))
        return ptx


def assemble(root: Path, ptx: bytes, arch: str, name: str) -> dict:
    """Registers and instructions of the machine code."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = f"{folder}/kernel.cubin"
        (Path(folder) / "kernel.ptx").write_bytes(ptx)
        run = subprocess.run(
            [root / "bin" / "ptxas", f"--gpu-name={arch}", "-v", "-o", cubin, f"{folder}/kernel.ptx"],
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise SystemExit(f"ptxas refuses {name} for {arch}:\n{run.stderr}")
        listing = subprocess.run(
            [root / "bin" / "nvdisasm", "-c", cubin], capture_output=True, text=True, check=True
        ).stdout
    number = lambda pattern: int(re.search(pattern, run.stderr).group(1))
    # An instruction may carry a predicate: "@!P0 LDGSTS.E.BYPASS.128 ...".
    names = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9.]+)", listing, re.M)

    def count(instruction: str) -> int:
        """Those of the name before the dot that have every word after it among their modifiers."""
        base, *words = instruction.split(".")
        parts = [name.split(".") for name in names]
        return sum(own[0] == base and all(word in own for word in words) for own in parts)

    return {
        "name": name,
        "arch": arch,
        "registers": number(r"Used (\d+) registers"),
        "spill_stores": number(r"(\d+) bytes spill stores"),
        "spill_loads": number(r"(\d+) bytes spill loads"),
        "stack": number(r"(\d+) bytes stack frame"),
        "instructions": {name: count(name) for name in INSTRUCTIONS},
    }


def main() -> None:
    root, arch, *sources = sys.argv[1:]
    root, sources = Path(root), [Path(source) for source in sources]
    nvrtc = Nvrtc(root)

    def one(source: Path) -> dict:
        return assemble(root, nvrtc.ptx(source, arch), arch, source.stem)

    with ThreadPoolExecutor() as pool:
        for result in pool.map(one, sources):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

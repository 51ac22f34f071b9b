"""Registers, shared memory and stack of every kernel and target, as the compiler has left them.

  resources.py [--library FILE] [--write]

Read with cuobjdump from the built library; nothing is compiled. Prints the table, or writes it to
csrc/cuda/resources.md, which a test holds against the library.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

import kernel_names

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "csrc" / "cuda" / "resources.md"
BLOCK = 256  # threads, kBlock in csrc/cuda/tilings.h

# Threads and KiB of shared memory of a multiprocessor; all have 64 Ki registers. From the compute
# capabilities in NVIDIA's programming guide.
MULTIPROCESSORS = {"sm_80": (2048, 164), "sm_90": (2048, 228), "sm_100": (2048, 228),
                   "sm_120": (1536, 100)}
REGISTERS = 65536


@dataclass(frozen=True)
class Usage:
    registers: int
    shared: int  # bytes, static
    stack: int   # bytes per thread: what does not fit into registers, or a called function's frame

    def blocks(self, target):
        """Blocks of 256 threads that a multiprocessor holds. Registers are given out by the warp
        in units of 256; a kilobyte of shared memory per block goes to the system."""
        threads, kilobytes = MULTIPROCESSORS[re.match(r"sm_\d+", target)[0]]
        per_warp = -(-self.registers * 32 // 256) * 256
        by_registers = REGISTERS // per_warp // (BLOCK // 32)
        # From compute capability 9.0 on, the system's kilobyte is part of the number.
        system = 1024 if target == "sm_80" else 0
        by_shared = kilobytes * 1024 // max(self.shared + system, 1)
        return min(threads // BLOCK, by_registers, by_shared)


def parse(text):
    """{target: {mangled name: Usage}} from `cuobjdump --dump-resource-usage`."""
    found, target, name = {}, None, None
    for line in text.splitlines():
        if match := re.match(r"arch = (sm_\w+)", line):
            target = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif name and (match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", line)):
            registers, stack, shared = map(int, match.groups())
            found.setdefault(target, {})[name] = Usage(registers, shared, stack)
            name = None
    return found


def find_cuobjdump():
    """The toolkit's, or else the one that Triton brings with it."""
    beside = [str(pathlib.Path(p).parent) for p in [shutil.which("nvcc"), os.environ.get("CUDACXX")]
              if p]
    path = os.pathsep.join([os.environ.get("PATH", ""), *beside, "/usr/local/cuda/bin"])
    if tool := shutil.which("cuobjdump", path=path):
        return tool
    for folder in map(pathlib.Path, sys.path):
        tool = folder / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump"
        if tool.is_file():
            return str(tool)
    return None


def read(library, tool):
    """{kernel: {target: Usage}} of the library's kernels, by their brief names."""
    done = subprocess.run([tool, "--dump-resource-usage", str(library)], capture_output=True,
                          text=True, check=False)
    kernels = {}
    for target, usages in parse(done.stdout).items():
        names = kernel_names.demangled(list(usages))
        for name, usage in zip(names, usages.values(), strict=True):
            kernels.setdefault(kernel_names.brief(name), {})[target] = usage
    return kernels


def compiler(library):
    """The version of nvcc in the build folder that holds the library, or None."""
    for path in pathlib.Path(library).resolve().parent.glob("CMakeFiles/*/CMakeCUDACompiler.cmake"):
        if match := re.search(r'CMAKE_CUDA_COMPILER_VERSION "([\d.]+)"', path.read_text()):
            return match[1]
    return None


def table(kernels, version):
    targets = sorted({t for usages in kernels.values() for t in usages},
                     key=lambda t: int(re.search(r"\d+", t)[0]))

    def cell(target, usage):
        if usage is None:
            return "-"
        stack = f", {usage.stack} B of stack" if usage.stack else ""
        return f"{usage.registers}, {usage.shared} B, {usage.blocks(target)}{stack}"

    lines = [
        "# What the kernels take", "",
        "Registers per thread, static shared memory per block (from sm_90 on with the kilobyte that",
        "the system takes) and blocks of 256 threads that a multiprocessor holds; of resident and",
        "cooperative kernels as many as their dynamic shared memory lets it, which is not counted",
        "here. Written by `python scripts/gpu/resources.py --write` from a build with",
        f"nvcc {version}.", "",
        "| kernel | " + " | ".join(targets) + " |", "|---|" + "---|" * len(targets)]
    lines += [f"| `{name}` | " + " | ".join(cell(t, usages.get(t)) for t in targets) + " |"
              for name, usages in sorted(kernels.items())]
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=pathlib.Path, metavar="FILE",
                        default=os.environ.get("TORCHBN_LIBRARY") or ROOT / "build" / "libtorchbn.so")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    tool = find_cuobjdump()
    if not tool:
        sys.exit("cuobjdump is missing: neither the CUDA toolkit's nor Triton's was found")
    kernels = read(options.library, tool)
    if not kernels:
        sys.exit(f"there are no CUDA kernels in {pathlib.Path(options.library).name}")
    text = table(kernels, compiler(options.library))
    if options.write:
        TABLE.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()

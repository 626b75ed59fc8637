#!/usr/bin/env python3
"""A virtual environment with PyTorch for the CPU, without the gigabytes of CUDA libraries that PyPI's wheel asks for.

    python3 tests/python/make_torch_environment.py FOLDER [PACKAGE ...]

PyTorch's wheel is installed alone. The libraries that it is linked to and that CPU work never calls are stood in for by
stubs, whose functions all return 1. FOLDER/bin/torch-python runs Python with them on the loader's path. Needs a C
compiler and binutils.
"""

import pathlib
import re
import stat
import subprocess
import sys

NEEDED = ["numpy", "filelock", "typing_extensions", "sympy", "networkx", "jinja2", "fsspec", "setuptools>=77"]
CUDA = ["nvidia-cuda-runtime", "nvidia-cuda-cupti"]
# The beginnings of the functions that a library has, where its own name does not say so.
FUNCTIONS = {"cusparseLt": "cusparseLt", "cublasLt": "cublasLt", "cusparse": "cusparse(?!Lt)", "cublas": "cublas(?!Lt)",
             "nccl": "p?nccl", "cufile": "cuFile"}


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def linked(library):
    """What a library is linked to, the symbol versions that it asks of each, and the functions that it lacks."""
    needed = set(re.findall(r"\(NEEDED\).*\[(.+?)\]", output("readelf", "-d", "-W", library)))
    versions, file = {}, None
    for line in output("readelf", "-V", "-W", library).splitlines():
        if found := re.search(r"File: (\S+)", line):
            file = found[1]
        if file and (found := re.search(r"Name: (\S+)\s+Flags", line)):
            versions.setdefault(file, set()).add(found[1])
    lines = output("nm", "-D", "--undefined-only", library).splitlines()
    return needed, versions, {line.split()[-1].split("@")[0] for line in lines if line.strip()}


def stub(folder, name, functions, versions):
    stem = re.match(r"lib([A-Za-z]+)", name)[1]
    stem = "nvshmem" if stem.startswith("nvshmem") else stem
    pattern = re.compile(FUNCTIONS.get(stem, stem))
    own = sorted(function for function in functions if pattern.match(function))
    source, script = folder / f"{name}.c", folder / f"{name}.map"
    source.write_text("".join(f"long {function}(void) {{ return 1; }}\n" for function in own))
    versioned = []
    if versions:
        first, *others = sorted(versions)
        script.write_text(f"{first} {{ global: *; }};\n" + "".join(f"{other} {{ }};\n" for other in others))
        versioned = [f"-Wl,--version-script={script}"]
    output("cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", *versioned, "-o", folder / name, source)


def main(folder, packages):
    folder = pathlib.Path(folder).resolve()
    if not (folder / "bin/python").exists():
        subprocess.check_call([sys.executable, "-m", "venv", folder])
    pip = [folder / "bin/python", "-m", "pip", "install", "-q"]
    subprocess.check_call([*pip, "--no-deps", "torch", *CUDA])
    subprocess.check_call([*pip, *NEEDED, *packages])
    site = next(folder.glob("lib/python*/site-packages"))
    present = {path.name for path in site.rglob("*.so*")}
    needed, versions, functions = set(), {}, set()
    for library in (site / "torch/lib").glob("*.so*"):
        its_needed, its_versions, its_functions = linked(library)
        needed |= its_needed
        functions |= its_functions
        for file, tags in its_versions.items():
            versions.setdefault(file, set()).update(tags)
    stubs = folder / "stubs"
    stubs.mkdir(exist_ok=True)
    for name in sorted(needed - present):
        if re.match(r"lib(cu|nv|nccl)", name):
            stub(stubs, name, functions, versions.get(name, set()))
    real = sorted({str(path.parent) for path in site.glob("nvidia/**/*.so*")})
    program = folder / "bin/torch-python"
    path = ":".join([str(stubs), *real])
    program.write_text(f'#!/bin/sh\nexec env LD_LIBRARY_PATH="{path}" "{folder}/bin/python" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    print(output(program, "-c", "import torch; print('torch', torch.__version__, float(torch.ones(2, 2).sum()))").strip())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])

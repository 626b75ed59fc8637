#!/usr/bin/env python3
"""Checks a wheel where nothing of Rust is: in fresh virtual environments, on a PATH without cargo and rustc.

    python3 tests/python/check_wheel.py WHEEL TORCH_ENVIRONMENT

In the first, which has NumPy alone: the program on the quickstart, and the tests that need no torch. In the second, which sees
the torch and transformers of TORCH_ENVIRONMENT (make_torch_environment.py): the other tests, the examples.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ("cargo", "rustc", "rustup", "maturin")


def main(wheel, torch):
    wheel, torch = pathlib.Path(wheel).resolve(), pathlib.Path(torch).resolve()
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        alone = environment(place / "alone", wheel, ["numpy", "pytest", "safetensors"])
        run(alone, "-c", "import calabi; assert 'alone' in calabi.__file__, calabi.__file__")
        check_program(alone, place)
        check_missing(alone)
        tests(alone, place, "not torch")
        beside = environment(place / "beside", wheel, [], torch)
        tests(beside, place, "torch", torch)
        run(beside, "-m", "mypy.stubtest", "calabi._engine", "--mypy-config-file", ROOT / "python/pyproject.toml", torch=torch)
        for example in ("basic_usage.py", "advanced_usage.py", "hf_compression_example.py"):
            run(beside, ROOT / "python/examples" / example, torch=torch, folder=place)
        assert (place / "spectra.png").stat().st_size > 10_000
    print("the wheel, the program, the tests, the stubs and the examples hold without Rust's toolchain")


def environment(folder, wheel, packages, torch=None):
    """A virtual environment with the wheel."""
    subprocess.check_call([sys.executable, "-m", "venv", folder])
    pip = [folder / "bin/python", "-m", "pip", "install", "-q"]
    subprocess.check_call([*pip, *(["--no-deps"] if torch else []), wheel, *packages])
    if torch:
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "torch.pth").write_text(f"{next(torch.glob('lib/python*/site-packages'))}\n")
    return folder


def path(folder):
    """The PATH of this process without the folders of Rust's tools, which are nowhere else."""
    kept = [place for place in os.environ["PATH"].split(":") if not any(pathlib.Path(place, tool).exists() for tool in TOOLS)]
    kept = ":".join([str(folder / "bin"), *kept])
    assert not any(shutil.which(tool, path=kept) for tool in TOOLS), "a tool of Rust is on the PATH"
    return kept


def run(environment, *arguments, torch=None, folder=None, program="python"):
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CARGO_HOME")}
    variables["PATH"] = path(environment)
    if torch:
        # The libraries that stand in for CUDA's.
        line = (torch / "bin/torch-python").read_text().splitlines()[-1]
        variables["LD_LIBRARY_PATH"] = line.split('LD_LIBRARY_PATH="', 1)[1].split('"', 1)[0]
    command = [environment / "bin" / program, *map(str, arguments)]
    ran = subprocess.run(command, env=variables, cwd=folder or environment, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def check_program(environment, place):
    output = place / "digits.onnx"
    recipe = ROOT / "examples/pipelines/quickstart.toml"
    printed = run(environment, "run", recipe, "--set", f"model.output='{output}'", program="calabi-cli")
    assert output.is_file() and "parameters of the model" in printed, printed
    print(printed)


def check_missing(environment):
    """What needs torch says how to have it."""
    said = run(environment, "-c", "import calabi\ntry:\n    calabi.LowRankLinear\nexcept ImportError as e:\n    print(e)")
    assert said == "calabi.LowRankLinear needs torch: pip install 'calabi[torch]'\n", said


def tests(environment, place, which, torch=None):
    files = [path for path in sorted((ROOT / "python/tests").glob("test_*.py")) if ("torch" in path.name) == (which == "torch")]
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", ROOT / "python/tests"]
    printed = run(environment, "-m", "pytest", *options, *files, torch=torch, folder=place)
    summary = printed.strip().splitlines()[-1]
    assert "passed" in summary and "skipped" not in summary, printed
    print(f"{which}: {summary}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

"""Compresses real ONNX models to a share of their layers' parameters, and runs the results in other runtimes.

    python measure_onnx_models.py PATH_OF_CALABI_CLI PATH_OF_RUN_RTEN [--keep 0.7] MODEL.onnx ...

Needs onnx, onnxruntime, openvino and tract; RUN_RTEN is the example of calabi-nn. Prints a Markdown table: nodes factorized,
bytes before and after, how far the outputs are from the original's in onnxruntime (relative, the worst output), how far
OpenVINO's, tract's and rten's are from onnxruntime's on the compressed model, and the latency in onnxruntime on one thread,
before and after (medians of interleaved rounds). Data free and on noise, or on token numbers: what the rewriting does is
measured here, not what a task loses.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
import onnx
import openvino as ov
import tract

from onnx_outputs import far, opened

warnings.simplefilter("ignore")
# Free dimensions, by parts of their names, else by their places.
NAMED = {"batch": 1, "sequence": 64, "unk": 1, "p2o.DynamicDimension.0": 1, "past": 0}
IMAGE = {0: 1, 2: 64, 3: 192}
ROUNDS = 15
# Smaller outputs count as this: on noise a segmentation is 1e-7 everywhere.
SMALL = 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("rten", type=pathlib.Path)
    parser.add_argument("models", type=pathlib.Path, nargs="+")
    parser.add_argument("--keep", type=float, default=0.7)
    args = parser.parse_args()
    print("| model | factorized | MB before | after | off the original | OpenVINO | tract | rten | ms before | after |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            print(row(args, model.resolve(), pathlib.Path(folder)), flush=True)


def row(args, model, work):
    session = opened(str(model))
    fed = inputs(session, model)
    small = work / "small.onnx"
    report = compress(args, model, small, work)
    onnx.checker.check_model(str(small), full_check=True)
    after = opened(str(small))
    before_out, after_out = session.run(None, fed), after.run(None, fed)
    factorized = sum(layer["outcome"] == "factorized" for layer in report["layers"])
    times = interleaved(session, after, fed)
    size = [report["bytes"][when] / 1e6 for when in ("before", "after")]
    cells = [
        model.stem, f"{factorized} of {len(report['layers'])}", *(f"{mb:.2f}" for mb in size), f"{far(after_out, before_out, SMALL):.2e}",
        openvino(model, small, fed, after_out),
        in_tract(model, small, fed, after_out), rten(args.rten, model, small, fed, after_out), *(f"{1e3 * seconds:.2f}" for seconds in times),
    ]
    return "| " + " | ".join(cells) + " |"


def inputs(session, model):
    random = np.random.default_rng(3)
    found = {}
    for value in session.get_inputs():
        dims = [size(value, place, dim, model) for place, dim in enumerate(value.shape)]
        if value.name == "sr":
            found[value.name] = np.array(16000, dtype=np.int64)
        elif "int" in value.type:
            high = 2 if "mask" in value.name else 1 if "type" in value.name else 200
            low = 1 if "mask" in value.name else 0
            dtype = np.int32 if "32" in value.type else np.int64
            found[value.name] = random.integers(low, high, dims).astype(dtype)
        else:
            half = np.float16 if "float16" in value.type else np.float32
            found[value.name] = (0.5 * random.standard_normal(dims)).astype(half)
    return found


def size(value, place, dim, model):
    if isinstance(dim, int) and dim > 0:
        return dim
    if "silero" in model.name and value.name == "input":
        return 1 if place == 0 else 576
    for part, number in NAMED.items():
        if isinstance(dim, str) and part in dim:
            return number
    if "_rec_" in model.name and place == 2:
        return 48
    return IMAGE.get(place, 1)


def compress(args, model, small, work):
    """The report of a run."""
    (work / "p.toml").write_text(
        f'[model]\ninput = "{model}"\noutput = "{small}"\n[rank]\nkind = "budget"\nkeep = {args.keep}\n'
    )
    ran = subprocess.run([args.program, "run", work / "p.toml", "--format", "json"], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{model}: {ran.stderr}")
    return json.loads(ran.stdout)


def rten(program, original, small, fed, expected):
    given = [
        {"name": name, "dims": value.shape, "floats" if value.dtype.kind == "f" else "integers": value.ravel().tolist()}
        for name, value in fed.items()
    ]
    ran = [subprocess.run([program, path], input=json.dumps(given), capture_output=True, text=True) for path in (original, small)]
    if ran[0].returncode:
        return f"refuses the original ({ran[0].stderr.strip().splitlines()[-1][:60]})"
    if ran[1].returncode:
        return f"FAILS ({ran[1].stderr.strip().splitlines()[-1]})"
    found = [np.array(values).reshape(value.shape) for values, value in zip(json.loads(ran[1].stdout), expected)]
    return f"{far(found, expected, SMALL):.1e}"


def openvino(original, small, fed, expected):
    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    try:
        core.compile_model(core.read_model(str(original)), "CPU")
    except Exception as error:
        return f"refuses the original ({str(error).strip().splitlines()[-1][:50]})"
    ran = core.compile_model(core.read_model(str(small)), "CPU")(fed)
    return f"{far([ran[index] for index in range(len(expected))], expected, SMALL):.1e}"


def in_tract(original, small, fed, expected):
    try:
        run_tract(original, fed)
    except Exception as error:
        return f"refuses the original ({str(error).strip().splitlines()[0][:60]})"
    return f"{far(run_tract(small, fed), expected, SMALL):.1e}"


def run_tract(path, fed):
    model = tract.onnx().load(str(path))
    values = []
    for index in range(model.input_count()):
        value = fed[model.input_name(index)]
        kind = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32"}[str(value.dtype)]
        model.set_input_fact(index, ",".join([*map(str, value.shape), kind]))
        values.append(value)
    return [output.to_numpy() for output in model.into_model().into_runnable().run(values)]


def interleaved(before, after, fed):
    times = ([], [])
    for _ in range(ROUNDS + 2):
        for session, spent in zip((before, after), times):
            start = time.perf_counter()
            session.run(None, fed)
            spent.append(time.perf_counter() - start)
    return [statistics.median(spent[2:]) for spent in times]


if __name__ == "__main__":
    main()

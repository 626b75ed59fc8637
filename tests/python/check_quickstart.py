"""What the quickstart wrote, as other programs see it: the checker, onnxruntime, the safetensors package, a JSON schema.

    python check_quickstart.py PATH_OF_CALABI_CLI

Needs numpy, safetensors, onnx, onnxruntime and jsonschema.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import jsonschema
import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(sys.argv[1]).resolve()
QUICKSTART = ROOT / "examples/quickstart"


def calabi(*args):
    """Runs the program and gives what it prints on stdout."""
    return subprocess.run([PROGRAM, *map(str, args)], check=True, capture_output=True, text=True).stdout


def logits(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def check_onnx(folder):
    """The report's error and accuracy are those that onnxruntime sees."""
    pipeline = ROOT / "examples/pipelines/quickstart.toml"
    small = folder / "small.onnx"
    report = json.loads(calabi("run", pipeline, "--set", f"model.output={small}", "--format", "json"))
    onnx.checker.check_model(str(small), full_check=True)
    data = np.load(QUICKSTART / "held-out.npz")
    images, labels = data["image"], data["labels"]
    before, after = logits(QUICKSTART / "digits.onnx", images), logits(small, images)
    error = np.linalg.norm(before - after) / np.linalg.norm(before)
    assert abs(error - report["verify"]["outputs"][0]["relative_error"]) < 1e-4, error
    accuracy = float((after.argmax(1) == labels).mean())
    assert abs(accuracy - report["verify"]["accuracy"]["after"]) < 1e-9, accuracy
    assert report["bytes"]["after"] == small.stat().st_size < (QUICKSTART / "digits.onnx").stat().st_size


def check_safetensors(folder):
    """The factors multiply back to what the report says."""
    (folder / "p.toml").write_text(
        f'[model]\ninput = "{QUICKSTART}/digits.safetensors"\noutput = "small.safetensors"\n'
        '[rank]\nkind = "budget"\nkeep = 0.5\n'
    )
    report = json.loads(calabi("run", folder / "p.toml", "--format", "json"))
    before, after = load_file(QUICKSTART / "digits.safetensors"), load_file(folder / "small.safetensors")
    factorized = [layer for layer in report["layers"] if layer["outcome"] == "factorized"]
    assert factorized
    for layer in factorized:
        weight = before[layer["name"] + ".weight"].astype(np.float64)
        left, right = (after[f"{layer['name']}.{side}.weight"].astype(np.float64) for side in ("left", "right"))
        error = np.linalg.norm(weight - left @ right) / np.linalg.norm(weight)
        assert abs(error**2 - layer["predicted_error"] ** 2) <= 2e-3 * layer["predicted_error"] ** 2 + 1e-12, layer
    biases = [name for name in after if name.endswith(".left.bias")]
    assert len(biases) == len(factorized), biases


def check_schema():
    """The schema accepts the example pipelines, and refuses a misspelt setting."""
    schema = json.loads(calabi("schema"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for path in sorted((ROOT / "examples/pipelines").glob("*.toml")):
        validator.validate(tomllib.loads(path.read_text()))
    wrong = {"model": {"input": "a", "output": "b"}, "rank": {"kind": "energy", "treshold": 0.9}}
    assert list(validator.iter_errors(wrong)), "a misspelt setting passes the schema"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        check_onnx(pathlib.Path(folder))
        check_safetensors(pathlib.Path(folder))
    check_schema()
    print("the quickstart's results are what the reports say")

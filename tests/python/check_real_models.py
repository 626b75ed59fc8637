"""Compresses MiniLM and SmolLM2 with several rules, and looks at what was written with other programs.

    python check_real_models.py PATH_OF_CALABI_CLI FOLDER

FOLDER holds `minilm` and `smollm2` (Hugging Face folders), `minilm-dynamo.onnx` (an export of MiniLM) and
`sotu/test.txt` (English text). Prints a Markdown table; a figure that breaks a promise ends the script.
Needs numpy, safetensors, tokenizers, onnx and onnxruntime; a full run takes some ten minutes.
"""

import hashlib
import json
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from safetensors import safe_open
from tokenizers import Tokenizer

PROGRAM, FOLDER = (pathlib.Path(arg).resolve() for arg in sys.argv[1:3])
RULES = {
    "full rank": {"rank": 'kind = "fraction"\nkeep = 1.0', "layers": "break_even = false"},
    "budget 0.8": {"rank": 'kind = "budget"\nkeep = 0.8'},
    "budget 0.6": {"rank": 'kind = "budget"\nkeep = 0.6'},
    "energy 0.8": {"rank": 'kind = "energy"\nthreshold = 0.8'},
    "combined 0.8": {"rank": 'kind = "combined"\nenergy = 0.8'},
    "spectral-gap, else energy 0.8": {"rank": 'kind = "spectral-gap"\notherwise = { energy = 0.8 }'},
}


def compress(work, model, name, rule, threads=2):
    """Runs the program; gives the report and the peak memory of its process in MiB."""
    output = work / name
    (work / "p.toml").write_text(
        f'[model]\ninput = "{model}"\noutput = "{output}"\n[layers]\n{rule.get("layers", "")}\n[rank]\n{rule["rank"]}\n'
    )
    command = [PROGRAM, "run", work / "p.toml", "--format", "json", "--force", "--threads", str(threads)]
    measured = "import resource, subprocess, sys\nsubprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL)\n"
    measured += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", measured, *map(str, command)], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout), int(ran.stderr) / 1024, output


def equal(measured, predicted):
    """DESIGN section 3, for factors stored in f32."""
    return abs(measured**2 - predicted**2) <= 2e-3 * predicted**2 + 1e-12


def tensors(folder):
    """Every tensor of a checkpoint folder, read when it is asked for."""
    files = [safe_open(path, "np") for path in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}


def check_factors_of_checkpoint(report, before, after):
    """Recomputes the error of every written layer; gives the worst difference of squares."""
    old, new = tensors(before), tensors(after)
    for layer in report["layers"]:
        if layer["outcome"] != "factorized":
            continue
        name = layer["name"]
        weight = old[f"{name}.weight"].get_tensor(f"{name}.weight").astype(np.float64)
        left, right = (new[key].get_tensor(key).astype(np.float64) for key in (f"{name}.left.weight", f"{name}.right.weight"))
        assert left.shape == (layer["shape"][0], layer["rank"]) and right.shape == (layer["rank"], layer["shape"][1])
        error = np.linalg.norm(weight - left @ right) / np.linalg.norm(weight)
        assert equal(error, layer["predicted_error"]), (name, error, layer["predicted_error"])


def initializers(path):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def check_factors_of_graph(report, before, after):
    """The same for ONNX: each factorized node's weight against the product of the two that stand for it."""
    old_graph, new_graph = onnx.load(before).graph, onnx.load(after).graph
    old, new = initializers(before), initializers(after)
    producers = {node.output[0]: node for node in new_graph.node}
    nodes = {node.name: node for node in old_graph.node}
    for layer in report["layers"]:
        if layer["outcome"] != "factorized":
            continue
        node = nodes[layer["name"]]
        weight = next(old[name] for name in node.input if name in old).astype(np.float64)
        second = producers[node.output[0]]
        first = producers[second.input[0]]
        product = new[first.input[1]].astype(np.float64) @ new[second.input[1]].astype(np.float64)
        error = np.linalg.norm(weight - product) / np.linalg.norm(weight)
        assert equal(error, layer["predicted_error"]), (layer["name"], error, layer["predicted_error"])


def sentences(count):
    text = (FOLDER / "sotu/test.txt").read_text()
    found = [s.strip() for s in re.split(r"(?<=[.!?])\s+", text) if 40 < len(s.strip()) < 200]
    return found[:: len(found) // count][:count]


def embeddings(path, texts):
    """Mean-pooled embeddings of sentences, by onnxruntime."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "minilm/tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(128)
    batch = tokenizer.encode_batch(texts)
    ids, mask = (np.array([getattr(e, key) for e in batch], np.int64) for key in ("ids", "attention_mask"))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    states = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    pooled = (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    return states, pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def digest(path):
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def row(model, rule, report, peak, quality="-"):
    removed = 1 - report["parameters"]["after"] / report["parameters"]["before"]
    factorized = sum(layer["outcome"] == "factorized" for layer in report["layers"])
    sizes = f"{report['bytes']['before'] / 1e6:.1f} -> {report['bytes']['after'] / 1e6:.1f} MB"
    print(f"| {model} | {rule} | {factorized} of {len(report['layers'])} | {100 * removed:.1f} % | {sizes} | {quality} | "
          f"{report['seconds']:.1f} s | {peak:.0f} MiB |", flush=True)


def check_minilm_onnx(work):
    model, texts = FOLDER / "minilm-dynamo.onnx", sentences(100)
    states, original = embeddings(model, texts)
    for name, rule in RULES.items():
        report, peak, output = compress(work, model, "minilm.onnx", rule)
        onnx.checker.check_model(str(output), full_check=True)
        new_states, new = embeddings(output, texts)
        check_factors_of_graph(report, model, output)
        cosines = (original * new).sum(1)
        quality = f"cosine {cosines.mean():.4f} (worst {cosines.min():.4f})"
        if name == "full rank":
            error = np.linalg.norm(states - new_states) / np.linalg.norm(states)
            assert error < 1e-4, error
            quality += f", outputs differ by {error:.1e}"
        row("MiniLM, ONNX", name, report, peak, quality)


def check_checkpoint(work, model, name):
    for rule_name, rule in RULES.items():
        report, peak, output = compress(work, model, f"{name}-small", rule)
        check_factors_of_checkpoint(report, model, output)
        config = json.loads((output / "config.json").read_text())
        assert config["model_type"] == "calabi" and config["calabi"]["ranks"], config
        row(name, rule_name, report, peak)


def check_determinism(work, model, output_name):
    digests = set()
    for threads in (1, 2, 2):
        _, _, output = compress(work, model, output_name, RULES["budget 0.8"], threads)
        digests.add(digest(output))
    assert len(digests) == 1, "other bytes with another number of threads"


if __name__ == "__main__":
    print("| model | rule | factorized | removed | files | against the original | time | peak memory |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        folder = pathlib.Path(folder)
        check_minilm_onnx(folder)
        check_determinism(folder, FOLDER / "minilm-dynamo.onnx", "minilm.onnx")
        for name in ("minilm", "smollm2"):
            check_checkpoint(folder, FOLDER / name, name)
            check_determinism(folder, FOLDER / name, f"{name}-small")
    print("\nevery written layer's error is the predicted one; same bytes with 1 and 2 threads, and twice in a row")

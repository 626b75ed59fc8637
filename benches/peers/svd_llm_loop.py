#!/usr/bin/env python3
"""All linear layers of a checkpoint in the metric of their inputs: the loop of SVD-LLM, and calabi-cli, on one thread.

    torch-python benches/peers/svd_llm_loop.py MODEL STATISTICS [--program target/release/calabi-cli] [--keep 0.25]

MODEL is a checkpoint folder, STATISTICS what `calabi-cli calibrate` wrote for it. The loop is what the published tool does for
each layer (Cholesky factor of the Gram matrix in f64, its inverse, torch.linalg.svd of the scaled weight, truncation), from
weights in memory to factors in memory. calabi-cli reads the checkpoint and writes the new one; its CPU seconds are those
of the process, and those of a run that keeps every layer dense (reading, copying, writing) are said apart. The loss is
tr(E D E') over all layers, from the factors themselves.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import json
import pathlib
import resource
import subprocess
import tempfile
import time

import torch
from safetensors import safe_open

torch.set_num_threads(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("statistics", type=pathlib.Path)
    parser.add_argument("--program", default="target/release/calabi-cli")
    parser.add_argument("--keep", type=float, default=0.25, help="share of min(m, n) that is the rank")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(args, pathlib.Path(folder))


def compare(args, folder):
    metrics, layers = statistics(args.statistics)
    weights = read(args.model, [f"{name}.weight" for name in layers])
    ranks = {name: max(1, int(-(-args.keep * min(weights[f"{name}.weight"].shape) // 1))) for name in layers}
    loop, ours, dense = [], [], []
    for _ in range(args.rounds):
        start = time.process_time()
        factors = {name: svd_llm(weights[f"{name}.weight"], metrics[source], ranks[name]) for name, source in layers.items()}
        loop.append(time.process_time() - start)
        ours.append(calabi(args, folder, f'kind = "fraction"\nkeep = {args.keep}'))
        dense.append(calabi(args, folder / "dense", 'kind = "fixed"\nrank = 1', 'min_features = 1000000\n'))
    theirs = sum(loss(weights[f"{n}.weight"], *factors[n], metrics[s]) for n, s in layers.items())
    mine = read_factors(folder / "small", layers)
    own = sum(loss(weights[f"{n}.weight"], *mine[n], metrics[s]) for n, s in layers.items())
    seconds = {name: sorted(found)[len(found) // 2] for name, found in (("loop", loop), ("ours", ours), ("copy", dense))}
    print(json.dumps({
        "layers": len(layers),
        **{name: round(value, 2) for name, value in seconds.items()},
        "ratio": round(seconds["loop"] / seconds["ours"], 2),
        "ratio without copying": round(seconds["loop"] / (seconds["ours"] - seconds["copy"]), 2),
        "loss of ours as a share of the loop's": round(own / theirs, 6),
    }))


def statistics(path):
    """The Gram matrix of each input in f64, and the input of each layer."""
    with safe_open(path, "pt") as file:
        layers = json.loads(file.metadata()["layers"])
        metrics = {}
        for name in set(layers.values()):
            mean = file.get_tensor(f"mean.{name}").double()
            metrics[name] = file.get_tensor(f"covariance.{name}").double() + torch.outer(mean, mean)
    return metrics, layers


def read(folder, names):
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name).float() for name in names if name in file.keys()}
    return found


def read_factors(folder, layers):
    names = [f"{name}.{side}.weight" for name in layers for side in ("left", "right")]
    found = read(folder, names)
    return {name: (found[f"{name}.left.weight"], found[f"{name}.right.weight"]) for name in layers}


def svd_llm(weight, gram, rank):
    """Whitening as SVD-LLM does it; where Cholesky fails, a multiple of the identity is added until it does not."""
    ridge = 0.0
    while True:
        try:
            scaling = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype))
            break
        except torch.linalg.LinAlgError:
            ridge = max(1e-6 * gram.diagonal().mean().item(), 10 * ridge)
    inverse = torch.linalg.inv(scaling).float()
    u, s, vt = torch.linalg.svd(weight @ scaling.float(), full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, (root[:, None] * vt[:rank]) @ inverse


def loss(weight, left, right, gram):
    error = weight.double() - left.double() @ right.double()
    return ((error @ gram) * error).sum().item()


def calabi(args, folder, rank, layers=""):
    """CPU seconds of a run on one thread."""
    folder.mkdir(exist_ok=True)
    pipeline = folder / "pipeline.toml"
    pipeline.write_text(
        f'[model]\ninput = "{args.model.absolute()}"\noutput = "{folder}/small"\n[layers]\nmultiple = 1\n{layers}'
        f'[calibration]\nstatistics = "{args.statistics.absolute()}"\nbias = "none"\nshrinkage = 0\n[rank]\n{rank}\n'
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [args.program, "run", pipeline, "--force", "--threads", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

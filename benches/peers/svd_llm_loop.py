#!/usr/bin/env python3
"""All linear layers of a checkpoint in the metric of their inputs: the loop of SVD-LLM, and calabi, on one thread.

    torch-python benches/peers/svd_llm_loop.py MODEL STATISTICS [--program target/release/calabi-cli] [--keep 0.25]

MODEL is a checkpoint folder, STATISTICS what `calabi-cli calibrate` wrote for it. The loop is what the published tool does for
each layer (Cholesky factor of the Gram matrix in f64, its inverse, torch.linalg.svd of the scaled weight, truncation), from
weights and Gram matrices in memory to factors in memory. calabi does it twice: from the same matrices in memory to factors in
memory (`calabi/examples/time_loop.rs`, which also measures what its factors lose), and as a whole run of calabi-cli, which
reads the checkpoint and the statistics, writes the new checkpoint and reports on it. Seconds are those of the processor,
medians of interleaved rounds. The loss is tr(E D E') over all layers, from the factors themselves.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import torch
from built import build
from safetensors import safe_open
from safetensors.torch import save_file

torch.set_num_threads(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("statistics", type=pathlib.Path)
    parser.add_argument("--program", default="target/release/calabi-cli")
    parser.add_argument("--keep", type=float, default=0.25, help="share of min(m, n) that is the rank")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    in_memory = build("time_loop", "calabi")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        compare(args, in_memory, pathlib.Path(folder))


def compare(args, program, folder):
    metrics, layers = statistics(args.statistics)
    weights = read(args.model, [f"{name}.weight" for name in layers])
    ranks = {name: max(1, int(-(-args.keep * min(weights[f"{name}.weight"].shape) // 1))) for name in layers}
    loop, run = [], []
    with InMemory(program, args.keep, folder, (weights, metrics, layers)) as in_memory:
        for _ in range(args.rounds):
            start = time.process_time()
            factors = {name: svd_llm(weights[f"{name}.weight"], metrics[source], ranks[name]) for name, source in layers.items()}
            loop.append(time.process_time() - start)
            in_memory.round()
            run.append(calabi(args, folder))
    found = {"loop": factors, "in memory": read_factors(folder, layers), "run": read_factors(folder / "small", layers)}
    losses = {name: sum(loss(weights[f"{n}.weight"], *found[name][n], metrics[s]) for n, s in layers.items()) for name in found}
    seconds = {name: sorted(each)[len(each) // 2] for name, each in (("loop", loop), ("in memory", in_memory.seconds), ("run", run))}
    print(json.dumps({
        "layers": len(layers),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "ratio in memory": round(seconds["loop"] / seconds["in memory"], 2),
        "ratio of a run": round(seconds["loop"] / seconds["run"], 2),
        "loss as a share of the loop's": {name: round(losses[name] / losses["loop"], 6) for name in ("in memory", "run")},
    }))


class InMemory:
    """Our loop, in a process of its own that waits for rounds; its factors are there once it has ended."""

    def __init__(self, program, keep, folder, model):
        weights, metrics, layers = model
        matrices = folder / "matrices.safetensors"
        sources = {name: f"gram.{source}" for name, source in layers.items()}
        tensors = {name: weights[f"{name}.weight"].contiguous() for name in layers}
        tensors |= {f"gram.{source}": gram.contiguous() for source, gram in metrics.items()}
        save_file(tensors, matrices, metadata={"layers": json.dumps(sources)})
        command = [program, matrices, folder / "factors.safetensors", str(keep)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds = []

    def round(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.process.stdout.readline()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        if self.process.wait() != 0:
            sys.exit("time_loop failed")


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


def calabi(args, folder):
    """CPU seconds of a run on one thread."""
    pipeline = folder / "pipeline.toml"
    pipeline.write_text(
        f'[model]\ninput = "{args.model.absolute()}"\noutput = "{folder}/small"\n[layers]\nmultiple = 1\n'
        f'[calibration]\nstatistics = "{args.statistics.absolute()}"\nbias = "none"\nshrinkage = 0\n'
        f'[rank]\nkind = "fraction"\nkeep = {args.keep}\n'
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [args.program, "run", pipeline, "--force", "--threads", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

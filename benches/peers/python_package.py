#!/usr/bin/env python3
"""The Python package beside torch, and beside the program:

    torch-python benches/peers/python_package.py PROGRAM MODEL [--rounds 5] [--size 2048]

One layer (SIZE², Gaussian, r = 12.5 % and 25 %) by `calabi.factorize`, by `torch.linalg.svd`, and by torch's Gram matrix,
`eigh` and projection, interleaved, all on one thread: medians of wall seconds, and the relative error of each.

`compress_hf_model` on MODEL (half of its layers' parameters) against `calabi-cli run` with the same settings: medians of wall
seconds, of the first call of a process and of the second; peak memory of both; whether their logits are the same.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

CALL = """
import json, os, resource, sys, time
import torch, transformers, calabi
taken = []
for output in (sys.argv[2] + "-first", sys.argv[2]):
    os.sync()
    began = time.perf_counter()
    model = calabi.compress_hf_model(sys.argv[1], keep=0.5, output=output, dtype=torch.float32)
    taken.append(time.perf_counter() - began)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"first": taken[0], "call": taken[1], "engine": model.calabi_report.seconds, "peak": peak}))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=2048)
    given = parser.parse_args()
    layer(given.size, given.rounds)
    model(given.program, given.model, given.rounds)


def layer(size, rounds):
    import calabi
    import factorizations
    import torch

    factorizations.use_threads(1)
    weight = torch.randn(size, size, generator=torch.Generator().manual_seed(1)).numpy()

    def ours(a, r):
        made = calabi.factorize(a, r, threads=1)
        return torch.from_numpy(made.left), torch.from_numpy(made.right)

    ways = {"ours": ours, "svd": factorizations.torch_svd, "gram_eigh": factorizations.torch_gram_eigh}
    dense = torch.from_numpy(weight)
    for r in (size // 8, size // 4):
        seconds, errors = {name: [] for name in ways}, {}
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                left, right = way(weight, r)
                seconds[name].append(time.perf_counter() - began)
                errors[name] = ((left @ right - dense).norm() / dense.norm()).item()
        median = {name: statistics.median(taken) for name, taken in seconds.items()}
        figures = "  ".join(f"{name} {median[name]:.3f} s (error {errors[name]:.6f})" for name in ways)
        print(f"{size}x{size} r {r}: {figures}; svd / ours {median['svd'] / median['ours']:.2f}, "
              f"gram_eigh / ours {median['gram_eigh'] / median['ours']:.2f}", flush=True)


def model(program, folder, rounds):
    taken = {"program": [], "first": [], "call": [], "engine": []}
    peaks = {"program": 0.0, "package": 0.0}
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        recipe = place / "recipe.toml"
        for at in range(rounds):
            theirs, ours = place / f"theirs{at}", place / f"ours{at}"
            for old in place.glob(f"*{at - 1}*"):
                shutil.rmtree(old)
            # What was written before is on the disk, and does not slow what is timed.
            os.sync()
            recipe.write_text(
                f'[model]\ninput = "{pathlib.Path(folder).resolve()}"\noutput = "{theirs}"\n[layers]\nexclude = ["lm_head"]\n'
                '[rank]\nkind = "budget"\nkeep = 0.5\n'
            )
            seconds, _, peak = run([program, "run", recipe])
            taken["program"].append(seconds)
            peaks["program"] = max(peaks["program"], peak)
            _, printed, _ = run([sys.executable, "-c", CALL, folder, ours])
            said = json.loads(printed.splitlines()[-1])
            for key in ("first", "call", "engine"):
                taken[key].append(said[key])
            peaks["package"] = max(peaks["package"], said["peak"])
        difference = compared(theirs, ours)
    median = {name: statistics.median(values) for name, values in taken.items()}
    print(f"calabi-cli run {median['program']:.2f} s, {peaks['program']:.0f} MiB; compress_hf_model {median['call']:.2f} s "
          f"({median['engine']:.2f} s in the engine, the rest loads), {peaks['package']:.0f} MiB with torch and the model: "
          f"ratio {median['call'] / median['program']:.2f}; the first call of a process, which imports what transformers "
          f"has of the architecture, {median['first']:.2f} s; largest difference of logits {difference:.1e}")


def run(command):
    began = time.perf_counter()
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak = 0.0
    while child.poll() is None:
        peak = max(peak, peak_of(child.pid))
        time.sleep(0.01)
    assert child.returncode == 0, f"{command} failed"
    return time.perf_counter() - began, child.stdout.read(), peak


def peak_of(process):
    """Peak resident memory in MiB, as the kernel tells it: `wait4` counts what the process was forked from."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), default=0.0)


def compared(theirs, ours):
    """The largest difference of logits, relative to the largest logit."""
    import calabi  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.randint(1, 1000, (2, 64), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        a, b = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits for folder in (theirs, ours))
    return ((a - b).abs().max() / a.abs().max()).item()


if __name__ == "__main__":
    main()

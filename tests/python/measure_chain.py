"""The chain of calibration on SmolLM2: uniform Gram, sensitivity, sequential, refinement, at two budgets.

    python tests/python/measure_chain.py target/release/calabi-cli .cache/smollm2 CALIBRATION.txt TEST.txt FOLDER [STEPS]

Prints a table: perplexity on the first 12 windows of 512 tokens of TEST (dense beside it), KL and agreement of [verify] on
12 other windows, time and peak memory of each step. FOLDER keeps statistics, sensitivities and models, and a step that is
there already is not made again. STEPS are among uniform, sensitivity, sequential, refined.
"""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

WINDOWS = 12
KEEPS = (0.8, 0.6)
STEPS = ("uniform", "sensitivity", "sequential", "refined")


def call(*command):
    """Runs a program: its stdout, seconds, and its peak memory in MiB."""
    begun = time.time()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} ended with {status}")
    return out, time.time() - begun, usage.ru_maxrss / 1024


def pipeline(folder, name, model, calibration, test, keep, sensitivity, more=""):
    text = f"""
[model]
input = "{model.resolve()}"
output = "{folder / name}"
[calibration]
data = "{calibration.resolve()}"
samples = 64
sequence = 512
statistics = "{folder / 'statistics.safetensors'}"
{more}
[rank]
kind = "budget"
keep = {keep}
sensitivity = "{sensitivity}"
[verify]
data = "{test.resolve()}"
samples = 12
[report]
json = "{folder / name}.json"
"""
    path = folder / f"{name}.toml"
    refine = "[refine]\n" if name.startswith("refined") else ""
    path.write_text(text + refine)
    return path


def uniform_plan(program, path, keep):
    """The same share of its parameters for every layer."""
    layers = json.loads(call(program, "plan", path, "--format", "json")[0])["layers"]
    text = "version = 1\n"
    for layer in layers:
        m, n = layer["shape"]
        rank = int(keep * m * n / (m + n))
        text += f'\n[[layer]]\nname = "{layer["name"]}"\nshape = [{m}, {n}]\nrank = {rank}\n'
    plan = path.with_suffix(".plan.toml")
    plan.write_text(text)
    return plan


def perplexity(program, model, test):
    out, seconds, _ = call(program, "eval", model, "--text", test, "--window", 512, "--windows", WINDOWS, "--format", "json")
    return json.loads(out)["perplexity"], seconds


def main():
    program, model, calibration, test, folder = (Path(argument) for argument in sys.argv[1:6])
    steps = sys.argv[6:] or STEPS
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print("| step | keep | perplexity | KL | agreement | time | peak memory |\n|---|---|---|---|---|---|---|", flush=True)
    print(f"| dense | 1 | {perplexity(program, model, test)[0]:.2f} | | | | |", flush=True)
    statistics = folder / "statistics.safetensors"
    if not statistics.exists():
        path = pipeline(folder, "statistics", model, calibration, test, 0.8, "off")
        path.write_text(path.read_text().replace(f'statistics = "{statistics}"\n', ""))
        _, seconds, memory = call(program, "calibrate", path, "-o", statistics)
        print(f"| statistics | | | | | {seconds:.0f} s | {memory:.0f} MiB |", flush=True)
    for keep in KEEPS:
        for step in steps:
            name = f"{step}-{keep}"
            measured = folder / "sensitivity-0.8.json"
            known = f"file:{measured}" if measured.exists() else "measured"
            more = "sequential = true" if step in ("sequential", "refined") else ""
            path = pipeline(folder, name, model, calibration, test, keep, "off" if step == "uniform" else known, more)
            plan = ["--plan", uniform_plan(program, path, keep)] if step == "uniform" else []
            seconds, memory = 0.0, 0.0
            if not (folder / name).exists():
                _, seconds, memory = call(program, "run", path, "--format", "json", *plan)
            outputs = json.loads((folder / f"{name}.json").read_text())["verify"]["outputs"][0]
            found, _ = perplexity(program, folder / name, test)
            print(f"| {step} | {keep} | {found:.2f} | {outputs['kl']:.4f} | {100 * outputs['agreement']:.1f} % "
                  f"| {seconds:.0f} s | {memory:.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()

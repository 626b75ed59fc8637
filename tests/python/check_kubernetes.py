#!/usr/bin/env python3
"""The Kubernetes job that calabi-cli prints: valid by the schema of batch/v1 Job, and its command does what one machine does.

    check_kubernetes.py CALABI_CLI

Needs kubernetes-validate (schemas of Kubernetes, from PyPI). No cluster: each index runs as a pod would, the container's
command with JOB_COMPLETION_INDEX and the container's environment.
"""

import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

SHARDS = 3
PIPELINE = """model = { input = "m.safetensors", output = "s.safetensors" }
rank = { kind = "budget", keep = 0.5 }
"""


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        check(program, pathlib.Path(folder).resolve())


def check(program, folder):
    write_model(folder / "m.safetensors")
    (folder / "p.toml").write_text(PIPELINE)
    call(program, folder, "run", "p.toml")
    output = folder / "s.safetensors"
    alone = output.read_bytes()
    output.unlink()
    call(program, folder, "plan", "p.toml", "-o", "plan.toml")
    paths = ("--plan", str(folder / "plan.toml"), "--work", str(folder / "store"))
    job = yaml.safe_load(call(program, folder, "submit", "--kubernetes", "--shards", str(SHARDS), "--print", *paths))
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    assert (job["kind"], job["spec"]["completions"], job["spec"]["completionMode"]) == ("Job", SHARDS, "Indexed")
    for index in range(SHARDS):
        run_pod(program, folder, job, index)
    call(program, folder, "merge", *paths)
    assert output.read_bytes() == alone, "not the bytes of one machine"
    print(f"a Kubernetes job of {SHARDS} indices: valid by its schema, and the bytes of one machine")


def run_pod(program, folder, job, index):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    own = {variable["name"]: variable["value"] for variable in container["env"]}
    path = f"{program.parent}:{os.environ['PATH']}"
    environment = os.environ | own | {"JOB_COMPLETION_INDEX": str(index), "PATH": path}
    subprocess.run(container["command"], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def call(program, folder, *arguments):
    return subprocess.run([program, *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def write_model(path):
    random.seed(3)
    header, data = {}, b""
    for i in range(5):
        rows, cols = 60 + 8 * i, 72
        weight = struct.pack(f"<{rows * cols}f", *(random.random() - 0.5 for _ in range(rows * cols)))
        offsets = [len(data), len(data) + len(weight)]
        header[f"{i}.weight"] = {"dtype": "F32", "shape": [rows, cols], "data_offsets": offsets}
        data += weight
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Kills a run at random moments, runs it again, and compares what it wrote with what an undisturbed run writes.

    tests/python/measure_kills.py CALABI_CLI PIPELINE [--kills 50] [--seed 1]

Every other time the run has a work store. The output goes to a temporary folder. Exits with 1 where a byte differs.
"""

import argparse
import hashlib
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("pipeline")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(measure(args, pathlib.Path(folder)))


def measure(args, folder):
    output, store = folder / "small", folder / "store"
    command = [args.program, "run", args.pipeline, "--force", "--set", f"model.output={output}"]
    started = time.monotonic()
    run(command)
    whole = time.monotonic() - started
    wanted = digest(output)
    same = found = at_work = 0
    for kill in range(args.kills):
        remove(output)
        shutil.rmtree(store, ignore_errors=True)
        more = ["--work", str(store)] if kill % 2 else []
        at_work += killed(command + more, random.uniform(0, whole))
        said = run(command + more + ["--verbose"])
        found += "decomposed before" in said
        same += digest(output) == wanted
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    print(f"an undisturbed run takes {whole:.1f} s; killed at work {at_work} of {args.kills} times")
    print(f"{same} of {args.kills} resumed to the same bytes; {found} found layers of the killed run; left over: {left}")
    return same != args.kills or bool(left)


def killed(command, delay):
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(delay)
        at_work = process.poll() is None
        process.kill()
    return at_work


def run(command):
    ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ran.returncode:
        sys.exit(f"{command}: {ran.stderr}")
    return ran.stderr


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def digest(path):
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    hashes = [(str(file.relative_to(path.parent)), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files if file.is_file()]
    return hashlib.sha256(repr(hashes).encode()).hexdigest()


if __name__ == "__main__":
    main()

"""Our example programs, optimized, for the scripts beside this one."""

import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def build(example, package, *features):
    """Builds an example of a package; cargo says where it is."""
    command = ["cargo", "build", "--release", "-p", package, "--example", example, "--message-format=json", *features]
    found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    built = [json.loads(line) for line in found.stdout.splitlines()]
    return next(b["executable"] for b in built if b.get("target", {}).get("name") == example)

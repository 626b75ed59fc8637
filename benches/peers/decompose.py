#!/usr/bin/env python3
"""Times the factorization of a weight: ours beside numpy and, where it is installed, torch. Interleaved, one thread.

    benches/peers/decompose.py [--json] [--shapes 768x768,1536x576] [--ranks 0.25] [--rounds 5] [--kind faer]

A round of each: the leading r singular vectors of the smaller side and the projection of the weight on them, from f32 in
memory to two f32 factors. CPU seconds, medians over the rounds. Columns:

  ours        calabi-svd (--kind: faer, full, randomized, lapack), built by cargo before
  svd         torch.linalg.svd, else numpy.linalg.svd: all singular vectors
  gram_eigh   the Gram matrix of the smaller side in f32 and its eigh, in torch, else numpy; vectors below 1e-3 are noise
  lowrank     torch.svd_lowrank with its defaults: a few per cent off the optimum
  floor       two products of the weight with r vectors: no method does with less
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import json
import statistics
import subprocess
import tempfile
import time

import numpy as np

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None

from built import build


def main():
    args = arguments()
    features = ["--features", "lapack"] if args.kind == "lapack" else []
    program = args.program or build("time_factorization", "calabi-svd", *features)
    rows = []
    for shape in args.shapes.split(","):
        m, n = map(int, shape.split("x"))
        for share in map(float, args.ranks.split(",")):
            rows.append(row(program, args.kind, weight(m, n), max(1, round(share * min(m, n))), args.rounds))
    print(json.dumps(rows, indent=1) if args.json else table(rows))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--shapes", default="768x768,1536x576,768x3072")
    parser.add_argument("--ranks", default="0.25", help="shares of min(m, n)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kind", default="faer", help="faer, full, randomized or lapack")
    parser.add_argument("--program", help="the example time_factorization, built before; else cargo builds it")
    return parser.parse_args()


def weight(m, n):
    """Independent entries whose columns fade: the spectrum falls slowly, as those of trained weights do."""
    a = np.random.default_rng(1).standard_normal((m, n)) * (1.0 + np.arange(n)) ** -0.5
    return np.ascontiguousarray(a, dtype=np.float32)


def row(program, kind, a, r, rounds):
    m, n = a.shape
    times, errors = {}, {}
    with tempfile.NamedTemporaryFile() as file:
        a.tofile(file)
        file.flush()
        command = [program, kind, str(m), str(n), str(r), file.name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ours:
            for _ in range(rounds + 1):
                note(times, errors, "ours", *ours_once(ours))
                for name, peer in peers(r).items():
                    note(times, errors, name, *timed(peer, a))
            ours.stdin.close()
    seconds = {name: round(statistics.median(found[1:]), 4) for name, found in times.items()}
    return {"shape": [m, n], "rank": r, **seconds, "errors": errors}


def note(times, errors, name, seconds, error):
    times.setdefault(name, []).append(seconds)
    errors[name] = error


def ours_once(ours):
    ours.stdin.write("\n")
    ours.stdin.flush()
    answer = json.loads(ours.stdout.readline())
    return answer["cpu"], answer["error"]


def peers(r):
    found = {"svd": numpy_svd, "gram_eigh": numpy_gram_eigh, "floor": floor}
    if torch:
        found |= {"svd": torch_svd, "gram_eigh": torch_gram_eigh, "lowrank": torch_lowrank}
    return {name: lambda a, peer=peer: peer(a, r) for name, peer in found.items()}


def timed(peer, a):
    start = time.process_time()
    factors = peer(a)
    seconds = time.process_time() - start
    if factors is None:
        return seconds, None
    left, right = map(np.asarray, factors)
    return seconds, round(float(np.linalg.norm(a - left @ right) / np.linalg.norm(a)), 6)


def numpy_svd(a, r):
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    return u[:, :r], s[:r, None] * vt[:r]


def numpy_gram_eigh(a, r):
    if a.shape[0] <= a.shape[1]:
        u = np.ascontiguousarray(np.linalg.eigh(a @ a.T)[1][:, : -r - 1 : -1])
        return u, u.T @ a
    v = np.ascontiguousarray(np.linalg.eigh(a.T @ a)[1][:, : -r - 1 : -1])
    return a @ v, v.T


def floor(a, r):
    sketch = a @ np.ones((a.shape[1], r), dtype=np.float32)
    sketch.T @ a


def torch_svd(a, r):
    u, s, vt = torch.linalg.svd(torch.from_numpy(a), full_matrices=False)
    return u[:, :r], s[:r, None] * vt[:r]


def torch_gram_eigh(a, r):
    a = torch.from_numpy(a)
    if a.shape[0] <= a.shape[1]:
        u = torch.linalg.eigh(a @ a.T)[1][:, -r:]
        return u, u.T @ a
    v = torch.linalg.eigh(a.T @ a)[1][:, -r:]
    return a @ v, v.T


def torch_lowrank(a, r):
    u, s, v = torch.svd_lowrank(torch.from_numpy(a), q=r)
    return u, s[:, None] * v.T


def table(rows):
    names = [name for name in rows[0] if name not in ("shape", "rank", "errors")]
    lines = ["CPU seconds on one thread (median); in brackets: how many times ours; error of the factors"]
    for row in rows:
        lines.append(f"{row['shape'][0]}x{row['shape'][1]}, rank {row['rank']}")
        for name in names:
            error = row["errors"][name]
            shown = "" if error is None else f"  error {error:.6f}"
            lines.append(f"  {name:<10} {row[name]:>8.4f} s  ({row[name] / max(row['ours'], 1e-6):.2f}){shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

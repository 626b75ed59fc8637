#!/usr/bin/env python3
"""Times the factorization of a weight: ours beside numpy and, where they are installed, scipy and torch. Interleaved.

    benches/peers/decompose.py [--json] [--shapes 768x768,1536x576] [--ranks 0.25] [--rounds 5] [--kind faer]
                               [--threads 1,2] [--weights FOLDER[:GLOB]]

A round of each: the leading r singular vectors of the smaller side and the projection of the weight on them, from f32 in
memory to two f32 factors. CPU and wall seconds a layer, medians over the rounds. Ours takes one thread a layer: with two
threads two layers run side by side in two processes, and a peer gives both threads to one layer. Columns:

  ours            calabi-svd (--kind: faer, full, randomized, lapack), built by cargo before
  svd             torch.linalg.svd, else numpy.linalg.svd: all singular vectors
  svd_transposed  the same of the transpose, where the weight is not square
  numpy_svd       numpy.linalg.svd beside torch's
  scipy_svd       scipy.linalg.svd (gesdd)
  gram_eigh       the Gram matrix of the smaller side in f32 and its eigh, in torch, else numpy; vectors below 1e-3 are noise
  lowrank         torch.svd_lowrank with its defaults: a few per cent off the optimum
  floor           two products of the weight with r vectors: no method does with less
  method_floor    the operations of the exact method at the rate of a large f32 product, measured in the same run
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
for library in LIBRARIES:
    os.environ[library] = os.environ.get("DECOMPOSE_THREADS", "1")

import numpy as np

import factorizations
import weights
from built import build

# CPU seconds.
SHORT = 0.5


def main():
    args = arguments()
    features = ["--features", "lapack"] if args.kind == "lapack" else []
    args.program = args.program or build("time_factorization", "calabi-svd", *features)
    counts = args.threads.split(",")
    if counts == [os.environ["OMP_NUM_THREADS"]]:
        rows = measured(args, int(counts[0]))
    else:
        rows = [row for count in counts for row in in_process(args, count)]
    print(json.dumps(rows, indent=1) if args.json else table(rows))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--shapes", default="768x768,2048x2048,2048x5632,1536x576,30522x384", help="`none`: only --weights")
    parser.add_argument("--weights", action="append", default=[], metavar="FOLDER[:GLOB]", help="a layer of each shape too")
    parser.add_argument("--ranks", default="0.25", help="shares of min(m, n)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1", help="1 or 2 or 1,2")
    parser.add_argument("--kind", default="faer", help="faer, full, randomized or lapack")
    parser.add_argument("--program", help="the example time_factorization, built before; else cargo builds it")
    return parser.parse_args()


def in_process(args, count):
    """The rows of one number of threads, from a process of its own: BLAS libraries read it when they are loaded."""
    command = [sys.executable, __file__, "--json", "--threads", count, "--program", args.program, "--kind", args.kind]
    command += ["--shapes", args.shapes, "--ranks", args.ranks, "--rounds", str(args.rounds)]
    for chosen in args.weights:
        command += ["--weights", chosen]
    environment = os.environ | {"DECOMPOSE_THREADS": count}
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def measured(args, threads):
    factorizations.use_threads(threads)
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        # Ours and the peers take turns on one processor: one that slept begins slower than one that worked.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rate, rows = product_rate(), []
    for name, a in matrices(args):
        for share in map(float, args.ranks.split(",")):
            rank = max(1, round(share * min(a.shape)))
            rows.append({"name": name, "threads": threads} | row(args, threads, a, rank, rate))
    return rows


def matrices(args):
    for shape in args.shapes.split(",") if args.shapes != "none" else []:
        yield shape, weights.made(*map(int, shape.split("x")))
    for chosen in args.weights:
        yield from weights.of_checkpoint(chosen).items()


def product_rate(size=2048):
    """Operations a CPU second of the best of three large products."""
    a = np.ones((size, size), dtype=np.float32)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        factorizations.multiplied(a, a)
        seconds.append(time.process_time() - start)
    return 2 * size**3 / min(seconds)


def method_operations(m, n, r):
    """Gram matrix, tridiagonalization, back-transform of r vectors, projection."""
    small, large = sorted((m, n))
    return small**2 * large + 4 / 3 * small**3 + 2 * small**2 * r + 2 * m * n * r


def row(args, threads, a, r, rate):
    m, n = a.shape
    times, errors = {}, {}
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile())
        a.tofile(file)
        file.flush()
        command = [args.program, args.kind, str(m), str(n), str(r), file.name]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        ours = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(threads)]
        for _ in range(args.rounds + 1):
            found = {"ours": in_a_row(lambda: ours_once(ours))}
            for name, peer in factorizations.peers(a.shape).items():
                found[name] = in_a_row(lambda peer=peer: timed(peer, a, r))
            for name, (cpu, wall, error) in found.items():
                times.setdefault(name, []).append((cpu, wall))
                errors[name] = error
        for process in ours:
            process.stdin.close()
    cpu, wall = ({name: median(found, clock) for name, found in times.items()} for clock in (0, 1))
    least = method_operations(m, n, r) / rate
    return {
        "shape": [m, n],
        "rank": r,
        **cpu,
        "method_floor": round(least, 5),
        "shares": {"floor": share(cpu["floor"], cpu["ours"]), "method_floor": share(least, cpu["ours"])},
        "ratios": {name: share(value, cpu["ours"]) for name, value in cpu.items()},
        "wall": wall,
        "wall_ratios": {name: share(value, wall["ours"]) for name, value in wall.items()},
        "errors": errors,
    }


def median(found, clock):
    """Over the rounds but the first, which warms up."""
    return round(statistics.median(times[clock] for times in found[1:]), 5)


def share(a, b):
    return round(a / max(b, 1e-6), 3)


def in_a_row(once):
    """What is short is run twice in a row, and the second one counts: a layer among others, not one after a pause."""
    found = once()
    return once() if found[0] < SHORT else found


def ours_once(processes):
    """A layer in each process, side by side; seconds a layer."""
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [json.loads(process.stdout.readline()) for process in processes]
    cpu = statistics.mean(answer["cpu"] for answer in answers)
    wall = max(answer["wall"] for answer in answers) / len(processes)
    return cpu, wall, answers[0]["error"]


def timed(peer, a, r):
    cpu, wall = time.process_time(), time.perf_counter()
    factors = peer(a, r)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if factors is None:
        return cpu, wall, None
    left, right = map(np.asarray, factors)
    return cpu, wall, round(float(np.linalg.norm(a - left @ right) / np.linalg.norm(a)), 6)


def table(rows):
    lines = ["CPU and wall seconds a layer (medians); in brackets: how many times ours; error of the factors"]
    for row in rows:
        lines.append(f"{row['name']} {row['shape'][0]}x{row['shape'][1]}, rank {row['rank']}, threads: {row['threads']}")
        for name, wall in row["wall"].items():
            error = row["errors"][name]
            shown = "" if error is None else f"  error {error:.6f}"
            cpu, ratio, wall_ratio = row[name], row["ratios"][name], row["wall_ratios"][name]
            lines.append(f"  {name:<14} {cpu:>8.4f} s ({ratio:.2f})  wall {wall:>8.4f} s ({wall_ratio:.2f}){shown}")
        least, part = row["method_floor"], row["shares"]["method_floor"]
        lines.append(f"  {'method_floor':<14} {least:>8.4f} s, {100 * part:.0f} % of ours")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

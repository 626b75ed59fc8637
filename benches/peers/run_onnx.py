#!/usr/bin/env python3
"""Times an ONNX model in our runtime beside onnxruntime: the same samples, interleaved rounds, the same threads.

    benches/peers/run_onnx.py MODEL [--samples 32] [--sequence 128] [--threads 2] [--rounds 5] [--json]

MODEL takes input_ids and attention_mask (an export of MiniLM). Both run it in batches of 32 samples; ours by cargo's
example onnx_speed (--program: built before). Seconds are medians over the rounds; tokens a second; the largest
difference of the outputs.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime

from built import build


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        row = compare(args, pathlib.Path(folder))
    print(json.dumps(row) if args.json else "\n".join(f"{name:>22}  {value:.4g}" for name, value in row.items()))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--program", help="the example onnx_speed, built before; else cargo builds it")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


def compare(args, folder):
    session = peer(args.model, args.threads)
    inputs = samples(session, args.samples, args.sequence)
    np.savez(folder / "data.npz", **inputs)
    ours = subprocess.Popen(
        [args.program or build("onnx_speed", "calabi-nn"), args.model, folder / "data.npz"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "RAYON_NUM_THREADS": str(args.threads)},
    )
    ask(ours, f"save {folder}/ours")
    outputs = peer_outputs(session, inputs)  # both have run once before anything is timed
    rounds = [(float(ask(ours, "time")), peer_time(session, inputs)) for _ in range(args.rounds)]
    ours.stdin.close()
    ours.wait()
    mine, theirs = (statistics.median(times) for times in zip(*rounds))
    tokens = args.samples * args.sequence
    difference = np.abs(np.fromfile(folder / "ours", np.float32) - np.concatenate([o.ravel() for o in outputs]))
    return {
        "ours, tokens/s": tokens / mine,
        "onnxruntime, tokens/s": tokens / theirs,
        "time, ours/theirs": mine / theirs,
        "largest difference": float(difference.max()),
    }


def ask(program, command):
    program.stdin.write(command + "\n")
    program.stdin.flush()
    answer = program.stdout.readline().strip()
    assert answer, f"{command}: the program ended"
    return answer


def peer(model, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def samples(session, count, length):
    random = np.random.default_rng(1)
    values = {
        "input_ids": random.integers(1000, 20000, (count, length)),
        "attention_mask": np.ones((count, length), np.int64),
        "token_type_ids": np.zeros((count, length), np.int64),
    }
    return {wanted.name: values[wanted.name] for wanted in session.get_inputs()}


def peer_outputs(session, inputs):
    count = len(next(iter(inputs.values())))
    batches = [session.run(None, {n: v[i : i + 32] for n, v in inputs.items()}) for i in range(0, count, 32)]
    return [np.concatenate(parts) for parts in zip(*batches)]


def peer_time(session, inputs):
    started = time.perf_counter()
    peer_outputs(session, inputs)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

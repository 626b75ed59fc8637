#!/usr/bin/env python3
"""Times a checkpoint folder, dense or factorized: our `hf` runtime beside transformers, interleaved, the same threads.

    torch-python benches/peers/run_hf.py FOLDER TEXT [--windows 12] [--tokens 512] [--rounds 3] [--threads 2] [--json]

TEXT is tokenized once, without special tokens, and cut into windows. A round of each: the logits of all windows from
token numbers, weights in memory for transformers, read block by block by ours. Wall seconds, medians over the rounds.
Also the perplexity of both, and the largest difference of the first windows' logits.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import tokenizers
import torch
import transformers

from built import build


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    text = pathlib.Path(args.text).read_text(encoding="utf-8")
    tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(args.folder) / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids[: args.windows * args.tokens]
    ids = np.array(ids, dtype=np.int64).reshape(args.windows, args.tokens)
    found = compare(args, ids)
    print(json.dumps(found, indent=1) if args.json else table(found))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("text")
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--program", help="the example hf_speed, built before; else cargo builds it")
    return parser.parse_args()


def compare(args, ids):
    program = args.program or build("hf_speed", "calabi-nn")
    model = transformers.AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32, trust_remote_code=True)
    model = model.eval()
    with tempfile.TemporaryDirectory() as folder:
        ids_file, logits_file = pathlib.Path(folder) / "ids", pathlib.Path(folder) / "logits"
        ids.tofile(ids_file)
        command = [program, args.folder, str(ids_file), str(len(ids)), str(logits_file)]
        threads = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=threads) as ours:
            rounds = [(ours_once(ours), theirs_once(model, ids)) for _ in range(args.rounds + 1)]
            ours.stdin.close()
        first = np.fromfile(logits_file, dtype=np.float32).reshape(-1, ids.shape[1], model.config.vocab_size)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids[:1])).logits.numpy()
    speed = [[ids.size / seconds for seconds, _ in pair] for pair in rounds[1:]]
    return {
        "tokens_a_second": {"ours": median(ours for ours, _ in speed), "transformers": median(t for _, t in speed)},
        "ratio": median(ours / theirs for ours, theirs in speed),
        "perplexity": dict(zip(("ours", "transformers"), (round(math.exp(loss), 4) for _, loss in rounds[0]))),
        "largest_difference_of_logits": float(np.abs(first[:1] - expected).max()),
        "relative_difference_of_logits": float(np.linalg.norm(first[:1] - expected) / np.linalg.norm(expected)),
    }


def median(values):
    return round(statistics.median(values), 3)


def ours_once(ours):
    ours.stdin.write("\n")
    ours.stdin.flush()
    answer = json.loads(ours.stdout.readline())
    return answer["seconds"], answer["loss"]


@torch.no_grad()
def theirs_once(model, ids, batch=2):
    seconds, loss = 0.0, 0.0
    for i in range(0, len(ids), batch):
        window = torch.from_numpy(ids[i : i + batch])
        start = time.perf_counter()
        logits = model(window).logits
        seconds += time.perf_counter() - start
        loss += torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), window[:, 1:].flatten(), reduction="sum").item()
    return seconds, loss / (ids.shape[0] * (ids.shape[1] - 1))


def table(found):
    lines = [f"{'':<14}{'ours':>12}{'transformers':>14}"]
    for name in ("tokens_a_second", "perplexity"):
        lines.append(f"{name:<16}{found[name]['ours']:>10}{found[name]['transformers']:>14}")
    lines.append(f"ratio {found['ratio']}, largest difference of logits {found['largest_difference_of_logits']:.2e}, "
                 f"relative {found['relative_difference_of_logits']:.2e}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

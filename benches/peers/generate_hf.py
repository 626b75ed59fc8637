#!/usr/bin/env python3
"""Times greedy writing by checkpoint folders, dense or factorized: calabi-nn beside transformers. Interleaved.

    torch-python benches/peers/generate_hf.py TEXT FOLDER [FOLDER ...]
        [--prompt 512] [--tokens 50] [--rounds 3] [--threads 2]

The prompt is the first tokens of TEXT, by the first FOLDER's tokenizer. Every measurement is a process of its own, so
that its peak memory is its own: the prompt at once (prefill), then token after token with keys and values kept. All in
f32. Medians of the rounds; ratios are of rounds. The last column numbers the texts that were written: the same number,
the same tokens.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from built import build


def main():
    if sys.argv[1] == "--theirs":
        return theirs(*sys.argv[2:])
    args = arguments()
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(args.folders[0]) / "tokenizer.json"))
    text = pathlib.Path(args.text).read_text(encoding="utf-8")
    ids = np.array(tokenizer.encode(text[: 40 * args.prompt], add_special_tokens=False).ids[: args.prompt], dtype=np.uint32)
    assert len(ids) == args.prompt, f"the text has {len(ids)} tokens"
    program = build("generate", "calabi-nn")
    with tempfile.TemporaryDirectory() as work:
        prompt = pathlib.Path(work) / "prompt"
        ids.tofile(prompt)
        commands = {
            "calabi-nn": [program],
            "transformers": [sys.executable, __file__, "--theirs"],
        }
        found = {(folder, name): [] for folder in args.folders for name in commands}
        for _ in range(args.rounds):
            for folder, name in found:
                command = [*commands[name], folder, str(prompt), str(args.tokens)]
                env = os.environ | {"RAYON_NUM_THREADS": str(args.threads), "OMP_NUM_THREADS": str(args.threads)}
                ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
                found[folder, name].append(json.loads(ran.stdout.splitlines()[-1]))
    report(args, found)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def theirs(folder, prompt, count):
    """The same in transformers, in this process: a loop of single steps, as `generate` has costs of its own."""
    import torch
    import transformers

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    ids = torch.from_numpy(np.fromfile(prompt, dtype=np.uint32).astype(np.int64))[None]
    start = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True).eval()
    found = {"load": time.perf_counter() - start}
    with torch.no_grad():
        model(ids[:, :8])
        start = time.perf_counter()
        out = model(ids, use_cache=True, logits_to_keep=1)
        written = [out.logits[0, -1].argmax().item()]
        found["prefill"] = time.perf_counter() - start
        start = time.perf_counter()
        while len(written) < int(count):
            out = model(torch.tensor([written[-1:]]), past_key_values=out.past_key_values, use_cache=True)
            written.append(out.logits[0, -1].argmax().item())
        found["decode"] = time.perf_counter() - start
    status = pathlib.Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    print(json.dumps(found | {"tokens": written, "peak_mib": int(peak.split()[1]) / 1024}))


def report(args, found):
    texts = []
    print(f"{'':<28}{'':<14}{'prefill tok/s':>14}{'decode tok/s':>14}{'peak MiB':>10}  text")
    for (folder, name), rounds in found.items():
        prefill = statistics.median(args.prompt / r["prefill"] for r in rounds)
        decode = statistics.median((args.tokens - 1) / r["decode"] for r in rounds)
        peak = statistics.median(r["peak_mib"] for r in rounds)
        assert all(r["tokens"] == rounds[0]["tokens"] for r in rounds), "rounds differ"
        if rounds[0]["tokens"] not in texts:
            texts.append(rounds[0]["tokens"])
        text = texts.index(rounds[0]["tokens"]) + 1
        print(f"{pathlib.Path(folder).name:<28}{name:<14}{prefill:>14.1f}{decode:>14.2f}{peak:>10.0f}  {text}")
    for folder in args.folders:
        pairs = list(zip(found[folder, "calabi-nn"], found[folder, "transformers"]))
        ratio = {part: statistics.median(b[part] / a[part] for a, b in pairs) for part in ("prefill", "decode")}
        print(f"{pathlib.Path(folder).name}: calabi-nn to transformers: prefill {ratio['prefill']:.2f}, decode {ratio['decode']:.2f}")


if __name__ == "__main__":
    main()

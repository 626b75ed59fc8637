"""MiniLM's ONNX graph with and without calibration: cosine of sentence embeddings to the original's.

    python tests/python/measure_minilm.py target/release/calabi-cli .cache

The folder holds minilm-dynamo.onnx, minilm/tokenizer.json and sotu/ (shared/tools). Calibrated on sentences of 1990 to
2005, judged by onnxruntime on 200 sentences of 2006 to 2016.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

KEEPS = (0.7, 0.5)
RULES = {
    "data-free": ("", "off"),
    "norm (no data)": ('objective = "norm"', "off"),
    "diagonal": ('objective = "diagonal"', "off"),
    "gram": ("", "off"),
    "gram, sensitivity": ("", "measured"),
    "gram, sensitivity, bias residual": ('bias = "residual"', "measured"),
    "gram, sensitivity, bias joint": ('bias = "joint"', "measured"),
}


def sentences(path, count):
    text = Path(path).read_text().replace("\n", " ")
    found = [part.strip() + "." for part in text.split(". ") if 40 < len(part.strip()) < 300]
    step = max(1, len(found) // count)
    return found[::step][:count]


def embeddings(model, tokenizer, texts):
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    wanted, rows = {i.name for i in session.get_inputs()}, []
    for text in texts:
        encoded = tokenizer.encode(text)
        given = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
        given = {name: np.array([values], dtype=np.int64) for name, values in given.items() if name in wanted}
        mean = session.run(None, given)[0][0].mean(0)
        rows.append(mean / np.linalg.norm(mean))
    return np.array(rows)


def main():
    program, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    model = folder / "minilm-dynamo.onnx"
    tokenizer = Tokenizer.from_file(str(folder / "minilm/tokenizer.json"))
    tokenizer.no_padding()
    texts = sentences(folder / "sotu/test.txt", 200)
    original = embeddings(model, tokenizer, texts)
    print("| rule | keep | cosine | worst | time |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        (work / "calibration.txt").write_text("\n".join(sentences(folder / "sotu/calibration.txt", 512)))
        for keep in KEEPS:
            for rule, (more, sensitivity) in RULES.items():
                data = 'data = "calibration.txt"\nsamples = 512\nsequence = 128\nsensitivity_samples = 64'
                calibration = f'[calibration]\n{data}\ntokenizer = "{folder}/minilm/tokenizer.json"\n{more}\n'
                text = f'[model]\ninput = "{model}"\noutput = "small.onnx"\n'
                text += "" if rule == "data-free" else calibration
                text += f'[rank]\nkind = "budget"\nkeep = {keep}\nsensitivity = "{sensitivity}"\n'
                (work / "p.toml").write_text(text)
                run = [program, "run", work / "p.toml", "--force", "--format", "json"]
                report = json.loads(subprocess.run(run, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
                cosines = (embeddings(work / "small.onnx", tokenizer, texts) * original).sum(1)
                print(f"| {rule} | {keep} | {cosines.mean():.4f} | {cosines.min():.4f} | {report['seconds']:.1f} s |", flush=True)


if __name__ == "__main__":
    main()

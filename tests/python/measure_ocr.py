"""What calibration is worth on convolutions: the PP-OCR recognition model on lines of printed text.

    python measure_ocr.py PATH_OF_CALABI_CLI PP_OCR_REC.onnx TEXT.txt

Needs numpy, onnxruntime and pillow. Renders 96 lines of four words of the text, dark on light or light on dark, with some
noise; two thirds calibrate, the rest are read. For each budget, data free and calibrated, prints a row of a Markdown table:
the mean divergence of the compressed model's character probabilities from the original's, and the shares of the original's
characters, and of its whole lines, that it reads alike.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onnx_outputs import opened

LINES, CALIBRATE = 96, 64
RANDOM = np.random.default_rng(1)
WAYS = {
    "data free": "",
    "`gram`": '[calibration]\ndata = "lines.npz"\nobjective = "gram"\n',
    "`gram`, bias `residual`": '[calibration]\ndata = "lines.npz"\nobjective = "gram"\nbias = "residual"\n',
}


def main():
    program, model, text = (pathlib.Path(arg).resolve() for arg in sys.argv[1:4])
    words = re.findall(r"[A-Za-z0-9',.]+", text.read_text(errors="ignore"))
    lines = np.stack([line(" ".join(words[37 * i : 37 * i + 4])) for i in range(LINES)])
    held_out = {"x": lines[CALIBRATE:]}
    expected = opened(str(model)).run(None, held_out)[0]
    print("| keep | | KL | characters | lines | MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        np.savez(work / "lines.npz", x=lines[:CALIBRATE])
        for keep in (0.9, 0.8, 0.6):
            for way, calibration in WAYS.items():
                small = compress(program, model, work, keep, calibration)
                found = opened(str(small)).run(None, held_out)[0]
                size = small.stat().st_size / 1e6
                print(f"| {keep} | {way} | " + " | ".join(compared(expected, found)) + f" | {size:.1f} |", flush=True)


def line(text):
    """A line of text as the model reads it: 3 x 48 x 320, from -1 to 1."""
    paper, ink = (255, 30) if RANDOM.random() < 0.7 else (40, 230)
    image = Image.new("RGB", (320, 48), (paper,) * 3)
    place = tuple(int(at) for at in RANDOM.integers(2, 10, 2))
    font = ImageFont.load_default(size=int(RANDOM.integers(22, 36)))
    ImageDraw.Draw(image).text(place, text, font=font, fill=(ink,) * 3)
    pixels = np.asarray(image, np.float32) / 255
    pixels = pixels + RANDOM.normal(0, 0.02, pixels.shape)
    return ((pixels - 0.5) / 0.5).transpose(2, 0, 1).astype(np.float32)


def compress(program, model, work, keep, calibration):
    (work / "p.toml").write_text(
        f'[model]\ninput = "{model}"\noutput = "small.onnx"\n[layers]\nmin_features = 1\n'
        f'[rank]\nkind = "budget"\nkeep = {keep}\n{calibration}'
    )
    subprocess.run([program, "run", work / "p.toml", "--force"], check=True, capture_output=True)
    return work / "small.onnx"


def compared(expected, found):
    divergence = (expected * (np.log(expected + 1e-9) - np.log(found + 1e-9))).sum(-1).mean()
    wanted, read = expected.argmax(-1), found.argmax(-1)
    characters = (wanted == read)[wanted != 0].mean()
    lines = np.mean([collapsed(a) == collapsed(b) for a, b in zip(wanted, read)])
    return [f"{divergence:.3f}", f"{100 * characters:.1f} %", f"{100 * lines:.0f} %"]


def collapsed(classes):
    """Repeated classes once, blanks left out."""
    return [c for i, c in enumerate(classes) if c and (i == 0 or classes[i - 1] != c)]


if __name__ == "__main__":
    main()

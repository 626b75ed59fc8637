"""Writes small ONNX models as a corpus to begin with: the suite of the onnx package, and graphs of our own.

    python fuzz/seeds.py FOLDER
"""

import glob
import os
import pathlib
import sys
import warnings

import onnx

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "python"))
from crafted_graphs import graphs

warnings.simplefilter("ignore")
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for name, model, _, _ in graphs():
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
for path in glob.glob(os.path.dirname(onnx.__file__) + "/backend/test/data/*/*/model.onnx"):
    data = pathlib.Path(path).read_bytes()
    if len(data) < 20_000:
        (folder / f"{pathlib.Path(path).parent.name}.onnx").write_bytes(data)

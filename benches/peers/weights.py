"""The matrices that `decompose.py` factorizes: made ones, and those of a checkpoint, read without torch."""

import fnmatch
import json
import pathlib
import struct

import numpy as np


def made(m, n):
    """Independent entries whose columns fade: the spectrum falls slowly, as those of trained weights do."""
    a = np.random.default_rng(1).standard_normal((m, n)) * (1.0 + np.arange(n)) ** -0.5
    return np.ascontiguousarray(a, dtype=np.float32)


def of_checkpoint(chosen):
    """FOLDER[:GLOB]: the first linear layer of each shape, by name. Embeddings are tables, not layers."""
    folder, _, pattern = chosen.partition(":")
    found, shapes = {}, set()
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            for name in sorted(header):
                shape = tuple(header[name].get("shape", ()))
                if not is_layer(name, shape, pattern or "*") or shape in shapes:
                    continue
                shapes.add(shape)
                begin, end = header[name]["data_offsets"]
                file.seek(8 + length + begin)
                found[name] = decoded(file.read(end - begin), header[name]["dtype"]).reshape(shape)
    if not found:
        raise SystemExit(f"no layer in {chosen}")
    return found


def is_layer(name, shape, pattern):
    return len(shape) == 2 and "embed" not in name and name.endswith(".weight") and fnmatch.fnmatch(name, pattern)


def decoded(data, dtype):
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)

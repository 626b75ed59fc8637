"""What scripts that compare ONNX models share: a model in onnxruntime on one thread, and the distance of outputs."""

import numpy as np
import onnxruntime


def opened(model, fused=True):
    """A session of a model's path or bytes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def far(found, expected, least=1e-9):
    """The largest distance of two lists of outputs, relative to the expected; numbers below `least` count as that."""
    worst = 0.0
    for a, b in zip(found, expected):
        a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        if a.shape != b.shape:
            return np.inf
        worst = max(worst, float(np.linalg.norm(a - b) / max(np.linalg.norm(b), least * b.size**0.5, 1e-300)))
    return worst

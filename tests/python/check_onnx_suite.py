"""Takes every model of the onnx package's own test suite through calabi, and looks at what comes out.

    python check_onnx_suite.py PATH_OF_CALABI_CLI PATH_OF_COPY_ONNX [NAME_CONTAINS]

Needs onnx and onnxruntime; COPY_ONNX is the example of calabi-io. Each model is rewritten twice: with nothing selected
through the writer of compressed models, which must give the same bytes, and, where it has layers, by the program with
every layer factorized at full rank (break-even off), which must pass the checker with full shape inference, run in
onnxruntime, and give the outputs that the suite expects, to 1e-4 of their norm (3e-2 where numbers are of 16 bits) - if the
original does. Graphs of our own with integer weights are written a third time, with factors as integers, to 3e-2. No node case has a constant weight: cases of operators with weights are also run with their weight bound as
an initializer. Prints counts: models, layers factorized, weights left alone and why.
"""

import collections
import glob
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from crafted_graphs import graphs
from onnx_outputs import far, opened

warnings.simplefilter("ignore")
PROGRAM, COPY = (pathlib.Path(arg).resolve() for arg in sys.argv[1:3])
ONLY = sys.argv[3] if len(sys.argv) > 3 else ""
DATA = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
# Which input is the weight.
WEIGHTS = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "Gather": 0, "Einsum": 1}
TIGHT, LOOSE = 1e-4, 3e-2
onnxruntime.set_default_logger_severity(4)


def file_models():
    """Name, bytes, folder, and pairs of inputs and outputs."""
    for path in sorted(glob.glob(str(DATA / "*" / "*" / "model.onnx"))) + sorted(glob.glob(str(DATA / "light" / "*.onnx"))):
        path = pathlib.Path(path)
        sets = sorted(path.parent.glob("test_data_set_*")) if path.name == "model.onnx" else []
        name = str(path.relative_to(DATA))
        yield name, path.read_bytes(), [[tensors(folder, kind) for kind in ("input", "output")] for folder in sets]


def tensors(folder, kind):
    """The values in a folder of test data, in their order; none where one is no tensor."""
    values = []
    for index in range(len(list(folder.glob(f"{kind}_*.pb")))):
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString((folder / f"{kind}_{index}.pb").read_bytes())
            values.append(numpy_helper.to_array(tensor))
        except Exception:
            return None
    return values


def node_cases():
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        if case.model is None:
            continue
        sets = [list(map(list, pair)) for pair in case.data_sets]
        yield f"node/{case.name}", case.model.SerializeToString(), sets
        for slot in bindable(case.model):
            bound = bind(case.model, slot, sets)
            if bound:
                yield bound


def crafted():
    """Graphs of our own: what the original gives is what is expected, and so many layers."""
    for name, model, inputs, layers in graphs():
        data = model.SerializeToString()
        # onnxruntime's fusions of dequantised weights round what they multiply to 8 bits.
        yield f"crafted/{name}", data, [[inputs, outputs(data, inputs, fused=False)]], layers


def bindable(model):
    """The inputs of a case's only node that may be a weight."""
    [*nodes] = model.graph.node
    if len(nodes) != 1 or nodes[0].domain not in ("", "ai.onnx"):
        return []
    slots = {0, 1} if nodes[0].op_type in ("MatMul", "Gemm") else {WEIGHTS.get(nodes[0].op_type)}
    return sorted(slot for slot in slots if slot is not None and slot < len(nodes[0].input))


def bind(model, slot, sets):
    """The same case with one input as an initializer."""
    name = model.graph.node[0].input[slot]
    names = [value.name for value in model.graph.input]
    if len(sets) != 1 or name not in names:
        return None
    index = names.index(name)
    weight = np.asarray(sets[0][0][index])
    new = onnx.ModelProto()
    new.CopyFrom(model)
    new.graph.initializer.append(numpy_helper.from_array(weight, name))
    if new.ir_version >= 4:
        del new.graph.input[index]
        inputs = sets[0][0][:index] + sets[0][0][index + 1 :]
    else:
        inputs = sets[0][0]
    label = f"bound/{model.graph.name}/{model.graph.node[0].op_type}/{slot}"
    return label, new.SerializeToString(), [[inputs, sets[0][1]]]


def copy(work, data):
    """What is said of a model, and its bytes after a copy."""
    (work / "m.onnx").write_bytes(data)
    ran = subprocess.run([COPY], input=f"{work / 'm.onnx'}\t{work / 'same.onnx'}\n", capture_output=True, text=True, check=True)
    answer = json.loads(ran.stdout)
    return answer, None if "error" in answer else (work / "same.onnx").read_bytes()


def rewrite(work, extra=""):
    """The model at full rank: report and bytes, or none and the error."""
    (work / "p.toml").write_text(
        f'[model]\ninput = "m.onnx"\noutput = "full.onnx"\n{extra}[layers]\nbreak_even = false\nmultiple = 1\nembeddings = true\n'
        '[rank]\nkind = "fraction"\nkeep = 1.0\n'
    )
    command = [PROGRAM, "run", work / "p.toml", "--format", "json", "--force", "--threads", "1"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        return None, ran.stderr.strip()
    return json.loads(ran.stdout), (work / "full.onnx").read_bytes()


def accepted(data):
    try:
        onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
        return None
    except Exception as error:
        return str(error)


def outputs(data, inputs, fused=True):
    session = opened(data, fused)
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs)))


def dead(data, original):
    """What nothing reads, though something does in the original, or it is not there."""

    def names(data):
        model = onnx.load_from_string(data)
        made, read, graphs = set(), set(), [model.graph, *model.functions]
        while graphs:
            graph = graphs.pop()
            made |= {tensor.name for tensor in getattr(graph, "initializer", [])}
            read |= {getattr(value, "name", value) for value in graph.output}
            for node in graph.node:
                made |= set(node.output)
                read |= set(node.input)
                graphs += [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
        return made - read - {""}

    return names(data) - names(original)


def as_integers(work, data, floats, sets):
    """What is wrong with the model whose factors are integers where weights were, if anything."""
    report, small = rewrite(work, "requantise = true\n")
    if report is None:
        return small
    if small == floats:
        return None
    error = runs(small, sets, fused=False)
    wrong = accepted(small) or (dead(small, data) and "something is dead")
    return wrong or (isinstance(error, str) or error > LOOSE) and f"its outputs are off: {error}"


def runs(data, sets, fused=True):
    """How far the outputs are from the expected ones, or why it does not run."""
    worst = 0.0
    for inputs, expected in sets:
        if inputs is None or expected is None or not all(isinstance(v, np.ndarray) for v in [*inputs, *expected]):
            return "inputs or outputs are no tensors"
        try:
            worst = max(worst, far(outputs(data, inputs, fused), expected))
        except Exception as error:
            return str(error).splitlines()[0]
    return worst


def check(case):
    name, data, sets, *layers = case
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        said, same = copy(work, data)
        if same is None:
            return name, "refused", said["error"], None
        if same != data:
            return name, "FAILED", "nothing was selected, and the bytes differ", said
        if layers and [said["layers"]] != layers:
            return name, "FAILED", f"{said['layers']} layers, not {layers[0]}: {said['left_alone']}", said
        if not said["layers"]:
            return name, "nothing to factorize", None, said
        report, small = rewrite(work)
        if report is None:
            return name, "FAILED", f"at full rank: {small}", said
        problem = as_integers(work, data, small, sets) if name.startswith("crafted/") else None
        if problem:
            return name, "FAILED", f"with factors as integers: {problem}", said
    factorized = [layer for layer in report["layers"] if layer["outcome"] == "factorized"]
    if len(factorized) != said["layers"]:
        return name, "FAILED", "not every layer is factorized", report
    problem = accepted(data)
    before = None if problem else runs(data, sets)
    after = accepted(small)
    if not problem and after:
        return name, "FAILED", f"the checker refuses it: {after}", report
    if problem or isinstance(before, str) or (sets and before > LOOSE):
        return name, "factorized; the original does not run", problem or before, report
    left = dead(small, data)
    if left:
        return name, "FAILED", f"nothing reads {left}", report
    error = runs(small, sets)
    half = any(t.data_type in (10, 16) for t in onnx.load_from_string(data).graph.initializer)
    if isinstance(error, str) or error > (LOOSE if half else max(TIGHT, 3 * before)):
        return name, "FAILED", f"its outputs are off: {error} (the original: {before})", report
    return name, "factorized, and right" if sets else "factorized, and accepted", error, report


def listed(report):
    """The layers of a report; what copying says has their number only."""
    layers = report["layers"]
    return layers if isinstance(layers, list) else []


def main():
    cases = [case for case in [*crafted(), *file_models(), *node_cases()] if ONLY in case[0]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(check, cases))
    kinds = collections.Counter(kind for _, kind, _, _ in found)
    why = collections.Counter(alone["why"] for *_, report in found if report for alone in report["left_alone"])
    layers = sum(layer["outcome"] == "factorized" for *_, report in found if report for layer in listed(report))
    worst = max((e for _, kind, e, _ in found if kind == "factorized, and right"), default=0.0)
    print(f"{len(cases)} models; {layers} layers factorized at full rank; largest error {worst:.1e}")
    for kind, count in kinds.most_common():
        print(f"{count:6}  {kind}")
    print("left alone:")
    for reason, count in why.most_common():
        print(f"{count:6}  {reason}")
    for name, kind, detail, _ in found:
        if kind in ("FAILED", "refused") or "does not run" in kind:
            print(f"{kind}: {name}: {detail}")
    sys.exit(kinds["FAILED"] > 0)


if __name__ == "__main__":
    main()

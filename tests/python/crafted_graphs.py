"""Graphs in which weights stand where exporters put them: each a name, a model, and inputs."""

import numpy as np
import onnx
from onnx import numpy_helper, parser

RANDOM = np.random.default_rng(7)
HEAD = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1, "own" : 1]>'


def noise(*dims, dtype=np.float32):
    return RANDOM.standard_normal(dims).astype(dtype)


def ints(*values):
    return np.array(values, dtype=np.int64)


def model(text, weights, ir=None, opset=None, head=HEAD):
    """A model from the text of its graph, and of its functions; weights are initializers by name."""
    made = parser.parse_model(head + text)
    for name, value in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(value, name))
        if ir is not None and ir < 4:
            element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            made.graph.input.append(onnx.helper.make_tensor_value_info(name, element, value.shape))
    made.ir_version = ir or made.ir_version
    if opset:
        made.opset_import[0].version = opset
    return made


def within(made, name, value, attribute="then_branch"):
    """Puts an initializer into the subgraph of the only If."""
    node = next(node for node in made.graph.node if node.op_type == "If")
    graph = next(found.g for found in node.attribute if found.name == attribute)
    graph.initializer.append(numpy_helper.from_array(value, name))
    return made


def constant(name, value):
    return onnx.helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def prepended(made, *nodes):
    for node in reversed(nodes):
        made.graph.node.insert(0, node)
    return made


def graphs():
    """(name, model, inputs, how many layers)."""
    x = noise(5, 12)
    plain = "g (float[N,12] x) => (float[N,8] y) { y = MatMul(x, w) }"
    yield "constant", prepended(model(plain, {}), constant("w", noise(12, 8))), [x], 1
    yield "listed-as-input", model(plain.replace("N", "5"), {"w": noise(12, 8)}, ir=3, opset=9), [x], 1
    turned = "g (float[N,12] x) => (float[N,8] y) { t = Transpose(w) y = MatMul(x, t) }"
    yield "transpose", model(turned, {"w": noise(8, 12)}), [x], 1
    yield "transpose-of-constant", prepended(model(turned, {}), constant("w", noise(8, 12))), [x], 1
    cast = "g (float[N,12] x) => (float[N,8] y) { i = Identity(w) c = Cast<to: int = 1>(i) y = MatMul(x, c) }"
    yield "cast", model(cast, {"w": noise(12, 8, dtype=np.float16)}), [x], 1
    shaped = "g (float[N,12] x) => (float[N,8] y) { s = Reshape(w, to) y = MatMul(x, s) }"
    yield "reshape", model(shaped, {"w": noise(12, 2, 4), "to": ints(0, -1)}), [x], 1
    kept = "g (float[N,12] x) => (float[N,8] y, float[M,8] z) { s = Reshape(w, to) y = MatMul(x, s) z = Reshape(x, to) }"
    yield "reshape-whose-shape-is-kept", model(kept, {"w": noise(12, 8), "to": ints(-1, 8)}), [noise(4, 12)], 1
    heads = """g (float[N,12] x) => (float[N,8] y) {
        a = Reshape(w, up) b = Transpose<perm = [2, 0, 1]>(a) c = Reshape(b, down) y = MatMul(x, c) }"""
    yield "reshape-transpose-reshape", model(heads, {"w": noise(8, 12), "up": ints(2, 4, 12), "down": ints(12, 8)}), [x], 1
    twice = "g (float[N,12] x, float[N,12] z) => (float[N,8] y, float[N,8] u) { y = MatMul(x, w) u = MatMul(z, w) }"
    yield "shared", model(twice, {"w": noise(12, 8)}), [x, noise(5, 12)], 1
    both = "g (float[N,12] x, float[N,8] z) => (float[N,8] y, float[N,12] u) { y = MatMul(x, w) t = Transpose(w) u = MatMul(z, t) }"
    yield "shared-and-turned", model(both, {"w": noise(12, 8)}), [x, noise(5, 8)], 1
    tied = """g (int64[N] i) => (float[N,20] y) {
        e = Gather(w, i) h = Relu(e) t = Transpose(w) y = MatMul(h, t) }"""
    yield "tied-embedding", model(tied, {"w": noise(20, 12)}), [ints(3, 0, 19)], 1
    halves = """g (int64[N] i) => (float[N,20] y) {
        c = Cast<to: int = 1>(w) e = Gather(c, i) t = Transpose(c) y = MatMul(e, t) }"""
    yield "tied-and-cast", model(halves, {"w": noise(20, 12, dtype=np.float16)}), [ints(3, 0, 19)], 1
    some = "g (float[N,12] x) => (float[N,8] y, float[12,8] z) { y = MatMul(x, w) z = Relu(w) }"
    yield "shared-with-another", model(some, {"w": noise(12, 8)}), [x], 0
    yield "batched", model("g (float[3,5,12] x) => (float[3,5,8] y) { y = MatMul(x, w) }", {"w": noise(3, 12, 8)}), [noise(3, 5, 12)], 1
    yield "batched-before", model("g (float[12,5] x) => (float[3,8,5] y) { y = MatMul(w, x) }", {"w": noise(3, 8, 12)}), [noise(12, 5)], 1
    yield "einsum", model('g (float[B,S,12] x) => (float[B,S,8] y) { y = Einsum<equation = "bsd,ed->bse">(x, w) }', {"w": noise(8, 12)}), [noise(2, 5, 12)], 1
    yield "einsum-before", model('g (float[12,B] x) => (float[8,B] y) { y = Einsum<equation = "ed, db -> eb">(w, x) }', {"w": noise(8, 12)}), [noise(12, 5)], 1
    fused = "g (float[12,N] x) => (float[N,8] y) { y = com.microsoft.FusedMatMul<transA = 1, transB = 1, alpha = 0.5>(x, w) }"
    yield "fused", model(fused, {"w": noise(8, 12)}), [noise(12, 5)], 1
    yield from quantised(x)
    yield from inner_graphs(x)
    yield from convolutions()
    yield from gemms()


def quantised(x):
    text = "g (float[N,12] x) => (float[N,8] y) {{ d = DequantizeLinear{}(w, s{}) y = MatMul(x, d) }}"
    whole = RANDOM.integers(-128, 128, (12, 8)).astype(np.int8)
    yield "per-tensor", model(text.format("", ""), {"w": whole, "s": np.float32(0.02)}), [x], 1
    byte = {"w": (whole.astype(np.int16) + 128).astype(np.uint8), "s": np.abs(noise(8)), "z": np.arange(124, 132, dtype=np.uint8)}
    yield "per-axis", model(text.format("<axis = 1>", ", z"), byte), [x], 1
    yield "per-row", model(text.format("<axis = -2>", ""), {"w": whole, "s": np.abs(noise(12))}), [x], 1
    blocks = {"w": whole, "s": np.abs(noise(3, 8)), "z": RANDOM.integers(-9, 9, (3, 8)).astype(np.int8)}
    yield "blocked", model(text.format("<axis = 0, block_size = 4>", ", z"), blocks, opset=21), [x], 1
    turned = text.replace("y = MatMul(x, d)", "t = Transpose(d) y = MatMul(x, t)").format("<axis = 0>", "")
    yield "per-axis-turned", model(turned, {"w": whole.T.copy(), "s": np.abs(noise(8))}), [x], 1
    for name, element in (("int4", onnx.TensorProto.INT4), ("uint4", onnx.TensorProto.UINT4)):
        made = model(text.format("", ""), {"s": np.float32(0.1)}, opset=21)
        values = RANDOM.integers(*((-8, 8) if name == "int4" else (0, 16)), 96).tolist()
        made.graph.initializer.append(onnx.helper.make_tensor("w", element, (12, 8), values))
        yield name, made, [x], 1
    cast = "g (float[N,12] x) => (float[N,8] y) { f = Cast<to: int = 1>(w) d = Mul(f, s) y = MatMul(x, d) }"
    yield "cast-and-scaled", model(cast, {"w": whole, "s": np.abs(noise(12, 1))}), [x], 1
    activations = """g (float[N,12] x) => (float[N,8] y) {
        q = QuantizeLinear(x, a) r = DequantizeLinear(q, a) d = DequantizeLinear(w, s) y = MatMul(r, d) }"""
    weights = {"w": (whole.astype(np.int16) + 128).astype(np.uint8), "s": np.float32(0.02), "a": np.float32(0.05)}
    yield "activations", model(activations, weights), [np.abs(x)], 1


def inner_graphs(x):
    branches = """g (bool c, float[N,12] x) => (float[N,8] y) {
        y = If(c) <
            then_branch = a () => (float[N,8] p) { p = MatMul(x, WEIGHT) },
            else_branch = b () => (float[N,8] q) { s = MatMul(x, outer) q = Neg(s) }> }"""
    both = within(model(branches.replace("WEIGHT", "inner"), {"outer": noise(12, 8)}), "inner", noise(12, 8))
    yield "subgraph", both, [np.array(True), x], 2
    yield "captured", model(branches.replace("WEIGHT", "outer"), {"outer": noise(12, 8)}), [np.array(False), x], 1
    turned = branches.replace("{\n        y = If", "{ t = Transpose(outer)\n        y = If").replace("outer)\n            q", "t)\n q")
    turned = turned.replace("MatMul(x, outer)", "MatMul(x, t)").replace("WEIGHT", "t")
    yield "captured-and-turned", model(turned, {"outer": noise(8, 12)}), [np.array(False), x], 1
    functions = """g (float[N,12] x) => (float[N,8] y) { y = own.linear(x) }
        <domain: "own", opset_import: ["" : 20]> linear (x) => (y) { t = Identity(w) y = MatMul(x, t) }"""
    made = model(functions, {})
    made.functions[0].node.insert(0, constant("w", noise(12, 8)))
    yield "function", made, [x], 1


def convolutions():
    def conv(name, dims, kernel, attributes="", bias=True, operator="Conv"):
        outputs = kernel[1] if operator == "ConvTranspose" else kernel[0]
        weights = {"w": noise(*kernel)} | ({"b": noise(outputs)} if bias else {})
        shape = ",".join(map(str, dims))
        free = ",".join(f"o{i}" for i in range(len(dims)))
        text = f"g (float[{shape}] x) => (float[{free}] y) {{ y = {operator}{attributes}(x, w{', b' if bias else ''}) }}"
        return name, model(text, weights), [noise(*dims)], 1

    yield conv("conv-1d", (2, 6, 15), (8, 6, 3), "<strides = [2], pads = [1, 1]>")
    yield conv("conv-2d", (2, 6, 11, 9), (8, 6, 3, 2), "<kernel_shape = [3, 2], dilations = [2, 1], pads = [1, 0, 2, 1]>")
    yield conv("conv-3d", (1, 4, 7, 6, 5), (8, 4, 3, 2, 2), "<strides = [1, 2, 1]>", bias=False)
    yield conv("conv-same", (1, 6, 9, 9), (8, 6, 3, 3), '<auto_pad = "SAME_UPPER", strides = [2, 2]>')
    few = (16, 2, 5, 4)  # of few inputs: one axis after the other costs less
    yield conv("conv-separable", (2, 2, 13, 17), few, "<strides = [2, 1], dilations = [1, 2], pads = [1, 2, 0, 3]>")
    yield conv("conv-separable-same", (1, 2, 13, 17), few, '<auto_pad = "SAME_LOWER", strides = [2, 3], kernel_shape = [5, 4]>', bias=False)
    yield conv("conv-separable-plain", (1, 2, 13, 17), few)
    yield conv("conv-point", (1, 6, 9, 9), (8, 6, 1, 1), bias=False)
    yield conv("conv-transpose", (1, 6, 5, 7), (6, 8, 3, 3), "<strides = [2, 2], output_padding = [1, 0], pads = [1, 1, 0, 1]>", operator="ConvTranspose")
    yield conv("conv-transpose-1d", (2, 6, 7), (6, 4, 3), "<dilations = [2]>", bias=False, operator="ConvTranspose")
    shared = "g (float[1,6,9,9] x, float[1,6,5,5] z) => (float[a,b,c,d] y, float[e,f,g,h] u) { y = Conv(x, w, b0) u = Conv<strides = [2, 2]>(z, w) }"
    yield "conv-shared", model(shared, {"w": noise(8, 6, 3, 3), "b0": noise(8)}), [noise(1, 6, 9, 9), noise(1, 6, 5, 5)], 1


def gemms():
    for a in (0, 1):
        for b in (0, 1):
            x = noise(12, 5) if a else noise(5, 12)
            dims = "12,N" if a else "N,12"
            text = f"g (float[{dims}] x) => (float[N,8] y) {{ y = Gemm<transA = {a}, transB = {b}, alpha = 0.5, beta = 2.0>(x, w, c) }}"
            yield f"gemm-{a}{b}", model(text, {"w": noise(8, 12) if b else noise(12, 8), "c": noise(8)}), [x], 1

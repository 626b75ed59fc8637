//! Which operators have weights, at which inputs, and which of these are factorized.

use super::structure::{Node, Structure};

/// What a node does with its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    MatMul,
    Gemm,
    /// A `MatMul` of onnxruntime's that transposes and scales.
    FusedMatMul,
    Conv,
    ConvTranspose,
    /// Rows of a matrix, by their numbers: an embedding.
    Gather,
    Einsum,
    /// Not factorized, and why.
    Other(&'static str),
}

/// An operator with weights.
struct Row {
    domain: &'static str,
    name: &'static str,
    /// The inputs where weights may stand; none of them named means all.
    weights: &'static [usize],
    operator: Operator,
}

const DEFORMED: Operator = Operator::Other("a deformable convolution is not factorized");
const QUANTISED: Operator =
    Operator::Other("a quantised operator: not handled; compress the model before it is quantised");
const FUSED: Operator = Operator::Other("a fused operator: not handled; export the model without fusion");
const RECURRENT: Operator = Operator::Other("weights of a recurrent operator are not factorized");
const MICROSOFT: &str = "com.microsoft";

const fn row(domain: &'static str, name: &'static str, weights: &'static [usize], operator: Operator) -> Row {
    Row { domain, name, weights, operator }
}

const OPERATORS: &[Row] = &[
    row("", "MatMul", &[0, 1], Operator::MatMul),
    row("", "Gemm", &[0, 1], Operator::Gemm),
    row("", "Conv", &[1], Operator::Conv),
    row("", "ConvTranspose", &[1], Operator::ConvTranspose),
    row("", "DeformConv", &[1], DEFORMED),
    row("", "ConvInteger", &[1], QUANTISED),
    row("", "QLinearConv", &[3], QUANTISED),
    row("", "MatMulInteger", &[0, 1], QUANTISED),
    row("", "QLinearMatMul", &[0, 3], QUANTISED),
    row("", "Gather", &[0], Operator::Gather),
    row("", "LSTM", &[1, 2], RECURRENT),
    row("", "GRU", &[1, 2], RECURRENT),
    row("", "RNN", &[1, 2], RECURRENT),
    row("", "Einsum", &[], Operator::Einsum),
    row(MICROSOFT, "FusedMatMul", &[0, 1], Operator::FusedMatMul),
    row(MICROSOFT, "FusedGemm", &[0, 1], FUSED),
    row(MICROSOFT, "FusedConv", &[1], FUSED),
    row(MICROSOFT, "NhwcConv", &[1], FUSED),
    row(MICROSOFT, "NhwcFusedConv", &[1], FUSED),
    row(MICROSOFT, "Attention", &[1], FUSED),
    row(MICROSOFT, "EmbedLayerNormalization", &[2, 3, 4], FUSED),
    row(MICROSOFT, "MoE", &[], FUSED),
    row(MICROSOFT, "QMoE", &[], QUANTISED),
    row(MICROSOFT, "GemmFloat8", &[0, 1], QUANTISED),
    row(MICROSOFT, "MatMulNBits", &[1], QUANTISED),
    row(MICROSOFT, "MatMulBnb4", &[1], QUANTISED),
    row(MICROSOFT, "MatMulFpQ4", &[1], QUANTISED),
    row(MICROSOFT, "MatMulInteger16", &[0, 1], QUANTISED),
    row(MICROSOFT, "MatMulIntegerToFloat", &[1], QUANTISED),
    row(MICROSOFT, "DynamicQuantizeMatMul", &[1], QUANTISED),
    row(MICROSOFT, "DynamicQuantizeLSTM", &[1, 2], QUANTISED),
    row(MICROSOFT, "QAttention", &[1], QUANTISED),
    row(MICROSOFT, "QGemm", &[0, 3], QUANTISED),
    row(MICROSOFT, "QEmbedLayerNormalization", &[2, 3, 4], QUANTISED),
    row(MICROSOFT, "QLinearConv", &[3], QUANTISED),
    row(MICROSOFT, "GatherBlockQuantized", &[0], QUANTISED),
];

/// What a node does, and the inputs where its weights may stand; none where the standard says that it has no weights.
pub(crate) fn of(structure: &Structure, node: &Node) -> Option<(Operator, Vec<usize>)> {
    let all = || (0..node.inputs.len()).collect();
    if structure.calls_function(node) {
        return Some((
            Operator::Other("a call of one of the model's functions: inline it first (onnx.inliner)"),
            all(),
        ));
    }
    let standard = structure.is_standard(node.domain);
    let domain = if standard { "" } else { structure.text(node.domain) };
    let name = structure.text(node.operator);
    match OPERATORS.iter().find(|row| row.domain == domain && row.name == name) {
        Some(row) if row.weights.is_empty() => Some((row.operator, all())),
        Some(row) => Some((row.operator, row.weights.to_vec())),
        None if standard => None,
        None => Some((Operator::Other("an operator that is not known here"), all())),
    }
}

//! Which tensors are layers, how they are read, and why others are left alone.

use calabi_api::ndarray::Array2;
use calabi_api::{Cost, DType, FormatError, LayerFormat, LayerSource, Role, Shape, registry};
use calabi_io::SafeTensors;
use safetensors::Dtype;

use super::support::{Place, Tensor, layer, open, open_bytes, reference, why};

const F32: DType = DType::F32;

fn model(tensors: &[Tensor]) -> Box<dyn LayerSource> {
    let place = Place::new();
    open(&place.write("m.safetensors", &reference(tensors))).unwrap()
}

/// A folder with this configuration and these tensors.
fn folder(config: &str, tensors: &[Tensor]) -> Box<dyn LayerSource> {
    let place = Place::new();
    place.write("f/config.json", config.as_bytes());
    place.write("f/model.safetensors", &reference(tensors));
    open(&place.path("f")).unwrap()
}

fn names(source: &dyn LayerSource) -> Vec<&str> {
    source.layers().iter().map(|layer| layer.name.as_str()).collect()
}

#[test]
fn the_format_is_registered() {
    let plugin = registry::find::<dyn LayerFormat>("safetensors").unwrap();
    assert!(plugin.origin().starts_with("calabi-io "));
}

#[test]
fn files_are_detected_by_name_or_first_bytes() {
    let place = Place::new();
    let bytes = reference(&[Tensor::counting("a.weight", F32, &[2, 2])]);
    assert!(SafeTensors {}.detect(&place.write("a.safetensors", b"")));
    assert!(SafeTensors {}.detect(&place.write("weights", &bytes)));
    assert!(!SafeTensors {}.detect(&place.write("a.onnx", b"\x08\x07\x12\x07pytorch")));
    assert!(!SafeTensors {}.detect(&place.path("none")));
}

#[test]
fn a_layer_says_what_it_is() {
    let source = model(&[Tensor::counting("a.b.weight", DType::F16, &[3, 5]), Tensor::raw("n", Dtype::I64, &[2])]);
    let layer = layer(&*source, "a.b");
    assert_eq!((layer.shape, layer.dtype, layer.role), (Shape::new(3, 5).unwrap(), DType::F16, Role::Linear));
    assert_eq!(layer.cost.dense, Cost { parameters: 15, bytes: 30 });
    assert_eq!(layer.cost.per_rank, Cost { parameters: 8, bytes: 16 });
    assert_eq!(layer.cost.fixed, Cost::default());
    let totals = source.totals();
    assert_eq!((totals.format, totals.cost.parameters, totals.files.len()), ("safetensors", 17, 1));
}

#[test]
fn layers_stand_in_the_order_of_the_blocks() {
    let blocks = ["l.10.x.weight", "l.2.x.weight", "l.1.x.weight"].map(|name| Tensor::counting(name, F32, &[2, 2]));
    assert_eq!(names(&*model(&blocks)), ["l.1.x", "l.2.x", "l.10.x"]);
}

#[test]
fn weights_of_every_type_are_read() {
    let values = [1.0, -0.5, 0.25, 3.0, 65504.0, -2.0];
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        let source = model(&[Tensor::of("a.weight", dtype, &[2, 3], values)]);
        let expected = Array2::from_shape_vec((2, 3), values.map(|v| dtype.rounded(v)).to_vec()).unwrap();
        assert_eq!(source.read(layer(&*source, "a")).unwrap(), expected, "{dtype}");
    }
}

#[test]
fn weights_larger_than_a_piece_are_read() {
    let (m, n) = (701, 1003);
    for dtype in [F32, DType::F64, DType::BF16] {
        let source = model(&[Tensor::of("a.weight", dtype, &[m, n], (0..m * n).map(|i| (i % 199) as f32))]);
        let expected = Array2::from_shape_fn((m, n), |(i, j)| ((i * n + j) % 199) as f32);
        assert!(source.read(layer(&*source, "a")).unwrap() == expected, "{dtype}");
    }
}

#[test]
fn unaligned_weights_are_read() {
    let header = concat!(
        r#"{"n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"#,
        r#""a.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[1,9]}}"#
    );
    let mut bytes = super::support::file(header, 1);
    bytes.extend([1.5_f32, -2.0].iter().flat_map(|v| v.to_le_bytes()));
    let place = Place::new();
    let source = open(&place.write("m.safetensors", &bytes)).unwrap();
    assert_eq!(source.read(layer(&*source, "a")).unwrap(), calabi_api::ndarray::array![[1.5, -2.0]]);
}

#[test]
fn what_is_not_finite_is_refused_by_name_and_place() {
    for (dtype, value) in
        [(F32, f32::NAN), (F32, f32::INFINITY), (DType::F16, f32::NEG_INFINITY), (DType::BF16, f32::NAN)]
    {
        let place = Place::new();
        let values = [0.0, 1.0, 2.0, 3.0, value, 5.0];
        let path = place.write("m.safetensors", &reference(&[Tensor::of("a.b.weight", dtype, &[2, 3], values)]));
        let source = open(&path).unwrap();
        let error = source.read(layer(&*source, "a.b")).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: tensor a.b.weight holds {value} at row 1, column 1", path.display())
        );
        assert!(error.refuses_input());
    }
}

#[test]
fn what_f32_cannot_hold_is_refused() {
    let mut tensor = Tensor::counting("a.weight", DType::F64, &[1, 2]);
    tensor.bytes[8..].copy_from_slice(&1e39_f64.to_le_bytes());
    let place = Place::new();
    let source = open(&place.write("m.safetensors", &reference(&[tensor]))).unwrap();
    let error = source.read(layer(&*source, "a")).unwrap_err();
    assert!(matches!(error, FormatError::NonFinite { row: 0, col: 1, .. }), "{error}");
}

#[test]
fn conv1d_is_read_transposed() {
    let tensors = [
        Tensor::counting("transformer.h.0.attn.c_attn.weight", F32, &[2, 6]),
        Tensor::counting("transformer.h.0.attn.c_proj.weight", F32, &[2, 2]),
        Tensor::counting("lm_head.weight", F32, &[5, 2]),
    ];
    let place = Place::new();
    place.write("f/config.json", br#"{"model_type": "gpt2"}"#);
    place.write("f/model.safetensors", &reference(&tensors));
    let source = open(&place.path("f")).unwrap();
    let fused = layer(&*source, "transformer.h.0.attn.c_attn");
    assert_eq!(fused.shape, Shape::new(6, 2).unwrap());
    let weight = source.read(fused).unwrap();
    assert!(weight.is_standard_layout());
    assert_eq!(weight, Array2::from_shape_fn((6, 2), |(out, input)| (input * 6 + out) as f32 - 100.0));
    let square = source.read(layer(&*source, "transformer.h.0.attn.c_proj")).unwrap();
    assert_eq!(square, calabi_api::ndarray::array![[-100.0, -98.0], [-99.0, -97.0]]);
    assert_eq!(layer(&*source, "lm_head").shape, Shape::new(5, 2).unwrap());
}

#[test]
fn conv1d_is_known_by_the_model_type_else_by_the_shape_of_its_attention() {
    let shapes = |source: &dyn LayerSource| source.layers().iter().map(|l| l.shape.to_string()).collect::<Vec<_>>();
    let wide = [
        Tensor::counting("h.0.attn.c_attn.weight", F32, &[2, 6]),
        Tensor::counting("h.0.mlp.c_fc.weight", F32, &[2, 8]),
    ];
    let tall = [
        Tensor::counting("h.0.attn.c_attn.weight", F32, &[6, 2]),
        Tensor::counting("h.0.mlp.c_fc.weight", F32, &[8, 2]),
    ];
    assert_eq!(shapes(&*model(&wide)), ["6x2", "8x2"]);
    assert_eq!(shapes(&*model(&tall)), ["6x2", "8x2"]);
    assert_eq!(shapes(&*folder(r#"{"model_type":"gpt2"}"#, &wide)), ["6x2", "8x2"]);
    assert_eq!(shapes(&*folder(r#"{"model_type":"gpt_bigcode"}"#, &tall)), ["6x2", "8x2"]);
    assert_eq!(shapes(&*folder(r#"{"model_type":"gpt_bigcode"}"#, &wide)), ["2x6", "2x8"]);
}

#[test]
fn tables_integers_and_oddities_are_left_alone() {
    let source = model(&[
        Tensor::counting("model.embed_tokens.weight", F32, &[4, 2]),
        Tensor::raw("q.weight", Dtype::F8_E4M3, &[2, 2]),
        Tensor::raw("ids", Dtype::I64, &[1, 4]),
        Tensor::counting("pos", F32, &[2, 2]),
        Tensor::counting("none.weight", F32, &[0, 2]),
        Tensor::counting("mlp.experts.gate_up_proj", F32, &[2, 2, 2]),
        Tensor::counting("conv.weight", F32, &[2, 2, 1, 1]),
        Tensor::counting("norm.weight", F32, &[2]),
        Tensor::counting("s.weight", F32, &[2, 2]),
        Tensor::counting("s.weight_scale", F32, &[2, 1]),
        Tensor::counting(".weight", F32, &[2, 2]),
        Tensor::counting("real.weight", F32, &[2, 2]),
    ]);
    assert_eq!(names(&*source), ["real"]);
    assert_eq!(why(&*source, "model.embed_tokens.weight"), "embedding table: looked up by row, not multiplied");
    assert_eq!(why(&*source, "q.weight"), "quantised or integer type F8_E4M3: scales would have to be applied first");
    assert_eq!(why(&*source, "ids"), "quantised or integer type I64: scales would have to be applied first");
    assert_eq!(why(&*source, "pos"), "its name does not end in .weight: no linear layer");
    assert_eq!(why(&*source, "none.weight"), "it is empty");
    assert_eq!(why(&*source, "mlp.experts.gate_up_proj"), "3-D experts: many matrices in one tensor");
    assert_eq!(why(&*source, "conv.weight"), "4-D: a convolution's kernel or many matrices in one tensor");
    assert_eq!(why(&*source, "s.weight"), "quantised: s.weight_scale would have to be applied first");
    assert_eq!(why(&*source, ".weight"), "its name does not end in .weight: no linear layer");
    let ids = source.left_alone().iter().find(|left| left.name == "ids").unwrap();
    assert_eq!((ids.dims.as_slice(), ids.dtype.as_str()), (&[1, 4][..], "I64"));
}

#[test]
fn a_head_is_a_layer_unless_it_is_tied() {
    let head = [Tensor::counting("lm_head.weight", F32, &[4, 2])];
    assert_eq!(names(&*model(&head)), ["lm_head"]);
    assert_eq!(names(&*folder(r#"{"tie_word_embeddings":false}"#, &head)), ["lm_head"]);
    for config in [r#"{"tie_word_embeddings":true}"#, r#"{"text_config":{"tie_word_embeddings": true}}"#] {
        let source = folder(config, &head);
        assert_eq!(names(&*source), [""; 0]);
        assert!(why(&*source, "lm_head.weight").starts_with("tied to the embedding table"));
    }
}

#[test]
fn a_quantised_model_is_left_alone_whole() {
    let tensors = [Tensor::counting("a.weight", F32, &[2, 2]), Tensor::counting("pos", F32, &[2, 2])];
    let source = folder(r#"{"quantization_config":{"quant_method":"gptq"}}"#, &tensors);
    assert_eq!(names(&*source), [""; 0]);
    for name in ["a.weight", "pos"] {
        assert!(why(&*source, name).starts_with("the model is quantised"), "{name}");
    }
    assert_eq!(names(&*folder(r#"{"quantization_config":null}"#, &tensors)), ["a"]);
}

#[test]
fn factors_are_not_factorized_again() {
    let source = model(&[
        Tensor::counting("a.left.weight", F32, &[4, 1]),
        Tensor::counting("a.right.weight", F32, &[1, 3]),
        Tensor::counting("b.left.weight", F32, &[4, 3]),
        Tensor::counting("b.weight", F32, &[2, 2]),
    ]);
    assert_eq!(names(&*source), ["b.left"]);
    assert_eq!(why(&*source, "a.left.weight"), "already factorized");
    assert_eq!(why(&*source, "a.right.weight"), "already factorized");
    assert!(why(&*source, "b.weight").starts_with("a tensor b.left.weight is there already"));
}

#[test]
fn a_layer_of_another_model_is_refused() {
    let (one, two) = (Tensor::counting("a.weight", F32, &[2, 2]), Tensor::counting("a.weight", F32, &[3, 2]));
    let (one, two) = (model(&[one]), model(&[two]));
    let error = two.read(layer(&*one, "a")).unwrap_err();
    assert!(matches!(error, FormatError::Misuse(_)), "{error}");
}

#[test]
fn a_name_with_control_characters_is_a_layer_like_any_other() {
    let header = r#"{"a\u0007.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}"#;
    let source = open_bytes(&super::support::file(header, 4)).unwrap();
    assert_eq!(names(&*source), ["a\u{7}"]);
}

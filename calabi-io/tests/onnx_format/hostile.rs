//! Files that are damaged or made to do harm are refused, and never bring the program down.

use calabi_api::{DType, Rank, Replacement, WriteOptions};
use proptest::prelude::*;
use prost::Message;

use crate::schema::{Graph, Holder, Model, Tensor, Type, Value};
use crate::support::{Case, counting, factors, model, node, raw, small, value};
use crate::untouched::rich;

/// Opens a file, reads all its layers, and rewrites it, unless it is refused.
fn survives(bytes: &[u8]) -> bool {
    let case = Case::of_bytes(bytes);
    let source = match case.try_open() {
        Ok(source) => source,
        Err(error) => {
            assert!(error.refuses_input(), "{error}");
            return false;
        }
    };
    let readable = source.layers().iter().filter(|layer| source.read(layer).is_ok());
    let declared: Vec<_> = readable.map(|layer| Replacement { layer, rank: Rank::ONE, bias: false }).collect();
    let mut sink = source.create(&case.output(), &declared, &WriteOptions::default()).unwrap();
    for replacement in &declared {
        let shape = replacement.layer.shape;
        sink.write(replacement.layer, &factors(shape.rows(), shape.cols(), 1)).unwrap();
    }
    sink.finish().unwrap();
    let again = Case { path: case.output(), folder: case.folder };
    again.open();
    true
}

#[test]
fn every_prefix_is_refused_or_a_model() {
    let bytes = rich().encode_to_vec();
    let graph_ends = bytes.len() - Model { graph: None, ..rich() }.encode_to_vec().len();
    for length in 0..bytes.len() {
        let opened = survives(&bytes[..length]);
        assert!(!opened || length > graph_ends, "{length}");
    }
    assert!(survives(&bytes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn mutated_bytes_are_refused_or_a_model(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<(prop::sample::Index, prop::sample::Index)>()),
    ) {
        let mut bytes = rich().encode_to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((from, to)) = cut {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            bytes.drain(from.min(to)..from.max(to));
        }
        survives(&bytes);
    }

    #[test]
    fn any_bytes_are_refused_or_a_model(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        survives(&bytes);
    }
}

#[test]
fn garbage_is_refused_with_its_place() {
    let message = Case::of_bytes(b"this is no model").refusal();
    assert!(message.contains("not an ONNX model") && message.contains("at byte"), "{message}");
    assert!(Case::of_bytes(b"").refusal().contains("has no graph"));
    let error = Case::of_bytes(b"\xff").try_open().unwrap_err();
    assert!(error.help().is_some());
}

#[test]
fn models_that_lack_what_all_have_are_refused() {
    assert!(Case::new(&Model { graph: None, ..small() }).refusal().contains("no graph"));
    assert!(Case::new(&Model { ir_version: 0, ..small() }).refusal().contains("no IR version"));
    assert!(Case::new(&Model { opsets: vec![], ..small() }).refusal().contains("no operator set"));
    let twice = [small().encode_to_vec(), small().encode_to_vec()].concat();
    assert!(Case::of_bytes(&twice).refusal().contains("second graph"));
}

/// The refusal of a small model with another weight.
fn weight(change: impl FnOnce(&mut Tensor)) -> String {
    let mut model = small();
    change(&mut model.main().initializers[0]);
    Case::new(&model).refusal()
}

#[test]
fn tensors_whose_data_are_not_what_they_say_are_refused() {
    assert!(weight(|w| w.dims = vec![4, -3]).contains("dimension -3"));
    assert!(weight(|w| w.dims = vec![i64::MAX, i64::MAX]).contains("overflow"));
    assert!(weight(|w| w.dims = vec![1 << 31, 1 << 31, 3]).contains("overflow"));
    assert!(weight(|w| w.dims = vec![1 << 60]).contains("overflow"));
    assert!(weight(|w| w.dims = vec![1; 65]).contains("more than 64 dimensions"));
    assert!(weight(|w| w.dims = vec![4, 4]).contains("takes 64"));
    assert!(weight(|w| w.raw = Some(vec![0; 47])).contains("takes 48"));
    assert!(weight(|w| w.raw = None).contains("no data"));
    assert!(weight(|w| w.floats = vec![0.0; 12]).contains("two places"));
    assert!(weight(|w| (w.raw, w.floats) = (None, vec![0.0; 11])).contains("takes 12"));
    assert!(weight(|w| (w.raw, w.doubles) = (None, vec![0.0; 12])).contains("has another"));
    assert!(weight(|w| (w.raw, w.data_type, w.int32s) = (None, 10, vec![0; 13])).contains("takes 12"));
    assert!(weight(|w| w.raw = None).contains("tensor w"));
}

#[test]
fn a_typed_number_of_too_many_bits_is_refused_when_read() {
    let mut model = small();
    model.main().initializers[0] = raw("w", DType::F16, &[4, 3], [1.0; 12]).typed();
    model.main().initializers[0].int32s[4] = -1;
    let source = Case::new(&model).open();
    assert!(source.read(&source.layers()[0]).unwrap_err().refuses_input());
}

/// A field that holds a message, many times nested.
fn nested(keys: &[u8], times: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for key in keys.iter().cycle().take(times) {
        let mut outer = vec![*key];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.extend(&bytes);
        bytes = outer;
    }
    bytes
}

#[test]
fn ten_thousand_levels_are_refused() {
    // Inside out: a graph (6) in an attribute (5) in a node (1).
    let bytes = nested(&[0x32, 0x2a, 0x0a], 10_000);
    let inner = [vec![0x08, 10], nested(&[0x3a], 1), bytes].concat();
    let mut graph = vec![0x3a];
    prost::encoding::encode_varint(inner.len() as u64, &mut graph);
    assert!(Case::of_bytes(&[graph, inner].concat()).try_open().is_err());

    let mut deep = Graph { nodes: vec![node("Relu", &["x"], "y")], ..Default::default() };
    for _ in 0..33 {
        deep = Graph { nodes: vec![node("If", &["x"], "y").graph("then_branch", deep)], ..Default::default() };
    }
    assert!(Case::new(&model(17, deep)).refusal().contains("nested more than 100 deep"));

    let mut kind = Type::default();
    for _ in 0..60 {
        let holder = Holder { element: Some(Box::new(kind)) };
        kind = Type { sequence: Some(Box::new(holder)), ..Default::default() };
    }
    let mut typed = small();
    typed.main().values = vec![Value { name: "deep".into(), kind: Some(kind), ..Default::default() }];
    assert!(Case::new(&typed).refusal().contains("nested more than 100 deep"));

    let groups = [[0xa3, 0x06].repeat(10_000), [0xa4, 0x06].repeat(10_000)].concat();
    assert!(Case::of_bytes(&[small().encode_to_vec(), groups].concat()).refusal().contains("nested too deep"));
}

#[test]
fn millions_of_empty_messages_are_refused() {
    for key in [0x0a, 0x2a, 0x5a, 0x6a] {
        let bytes = [key, 0].repeat(4 << 20);
        let mut file = vec![0x08, 10, 0x3a];
        prost::encoding::encode_varint(bytes.len() as u64, &mut file);
        file.extend(&bytes);
        let message = Case::of_bytes(&file).refusal();
        assert!(message.contains("MiB of memory"), "{message}");
    }
}

#[test]
fn graphs_that_mean_nothing_are_refused() {
    let mut twice = small();
    twice.main().nodes.push(node("Relu", &["x"], "y"));
    assert!(Case::new(&twice).refusal().contains("y is defined twice"));
    let mut twice = small();
    twice.main().initializers.push(counting("w", &[1]));
    assert!(Case::new(&twice).refusal().contains("w is defined twice"));
    let mut own = small();
    own.main().nodes.push(node("MatMul", &["a", "b"], "b"));
    assert!(Case::new(&own).refusal().contains("waits for its own output"));
    let mut cycle = small();
    cycle.main().nodes.extend([node("Relu", &["b"], "a"), node("Relu", &["a"], "b").named("loop")]);
    assert!(Case::new(&cycle).refusal().contains("waits for its own output"));
}

#[test]
fn nodes_out_of_order_without_a_cycle_are_a_model() {
    let mut shuffled = small();
    shuffled.main().nodes.insert(0, node("Relu", &["y"], "z"));
    shuffled.main().values = vec![value("z", 1, &[-1, 3])];
    assert!(survives(&shuffled.encode_to_vec()));
}

#[test]
fn long_names_are_refused() {
    let mut long = small();
    long.main().nodes[0].name = "n".repeat(1 << 20);
    assert!(Case::new(&long).refusal().contains("a name of 1048576 bytes"));
}

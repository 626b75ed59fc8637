//! One test for each way in which a header can be wrong.

use super::support::{Place, Tensor, file, open, open_bytes, reference, refusal, refused};
use calabi_api::{DType, FormatError};

/// A header of one tensor `w` with this description.
fn describing(description: &str) -> String {
    format!(r#"{{"w":{description}}}"#)
}

/// The refusal of a tensor `w` with this description in a file with that much data.
fn of(description: &str, data: usize) -> String {
    let (problem, _) = refusal(&file(&describing(description), data));
    assert!(problem.starts_with("tensor w: "), "{problem}");
    problem["tensor w: ".len()..].to_owned()
}

#[test]
fn the_well_formed_is_read() {
    let header = describing(r#"{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}"#);
    assert!(open_bytes(&file(&header, 24)).is_ok());
    assert!(open_bytes(&file(&(header + "   "), 24)).is_ok(), "padded with spaces");
}

#[test]
fn a_file_shorter_than_its_length() {
    assert_eq!(refusal(b"").0, "0 bytes are no safetensors file: the length of its header alone takes 8");
    assert!(refusal(&[0; 7]).1.contains("fetch it again"));
}

#[test]
fn a_header_longer_than_the_file() {
    let mut bytes = 100_u64.to_le_bytes().to_vec();
    bytes.extend_from_slice(b"{}");
    assert_eq!(refusal(&bytes).0, "its header would be 100 bytes long, but only 2 follow");
}

#[test]
fn a_header_longer_than_any() {
    let (problem, _) = refusal(&[0xff; 16]);
    assert_eq!(problem, "its header would be 18446744073709551615 bytes long; the longest allowed is 100000000");
}

#[test]
fn a_header_of_no_length() {
    assert_eq!(refusal(&[0; 8]).0, "its header does not start with `{`");
}

#[test]
fn a_header_that_starts_with_a_space() {
    let header = describing(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#);
    assert_eq!(refusal(&file(&format!(" {header}"), 4)).0, "its header does not start with `{`");
}

#[test]
fn a_header_that_is_no_json() {
    for header in ["{", "{\"w\"}", "{'w':1}", "{\"w\":{}} x", "{\"w\":01}", "{\"w\":\"\u{0}\"}"] {
        let (problem, help) = refusal(&file(header, 0));
        assert!(problem.starts_with("its header is wrong: ") && problem.contains("line 1 column"), "{problem}");
        assert_eq!(help, "write the file again with the safetensors library");
    }
}

#[test]
fn a_header_that_is_no_utf8() {
    let mut bytes = file("{\"wwww\":1}", 0);
    bytes[10] = 0xff;
    assert!(refusal(&bytes).0.starts_with("its header is wrong: "));
}

#[test]
fn no_tensors() {
    for header in ["{}", r#"{"__metadata__":{"format":"pt"}}"#] {
        assert_eq!(refusal(&file(header, 0)).0, "its header lists no tensor: this is no model");
    }
}

#[test]
fn a_tensor_that_stands_there_twice() {
    let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    for second in ["w", "\\u0077"] {
        let (problem, _) = refusal(&file(&format!(r#"{{"w":{tensor},"{second}":{tensor}}}"#), 4));
        assert!(problem.starts_with("its header is wrong: the key w stands there twice at line 1"), "{problem}");
    }
}

#[test]
fn a_key_that_stands_there_twice() {
    let problem = of(r#"{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}"#, 4);
    assert!(problem.starts_with("the key dtype stands there twice"), "{problem}");
}

#[test]
fn a_key_that_is_missing() {
    assert_eq!(of(r#"{"shape":[1],"data_offsets":[0,4]}"#, 4), "its dtype is missing");
    assert_eq!(of(r#"{"dtype":"F32","data_offsets":[0,4]}"#, 4), "its shape is missing");
    assert_eq!(of(r#"{"dtype":"F32","shape":[1]}"#, 4), "its data_offsets are missing");
}

#[test]
fn a_key_that_is_unknown() {
    let problem = of(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4],"scale":2}"#, 4);
    assert_eq!(problem, "the key scale is unknown");
}

#[test]
fn a_description_that_is_no_object() {
    for description in ["1", "null", "[]", "\"x\""] {
        assert!(of(description, 4).contains("expected an object"));
    }
}

#[test]
fn a_type_that_is_unknown() {
    assert_eq!(of(r#"{"dtype":"F33","shape":[1],"data_offsets":[0,4]}"#, 4), "dtype: the type F33 is unknown");
    assert!(of(r#"{"dtype":7,"shape":[1],"data_offsets":[0,4]}"#, 4).starts_with("dtype: invalid type"));
}

#[test]
fn dimensions_that_are_no_counts() {
    for dims in ["[-1]", "[1.0]", "[1e2]", "[\"1\"]", "[18446744073709551616]", "1", "null", "[[1]]"] {
        let problem = of(&format!(r#"{{"dtype":"F32","shape":{dims},"data_offsets":[0,4]}}"#), 4);
        assert!(problem.starts_with("shape: invalid "), "{dims}: {problem}");
    }
}

#[test]
fn dimensions_whose_product_overflows() {
    for dims in ["[4294967296,4294967296]", "[18446744073709551615,0]", "[0,18446744073709551615]"] {
        let problem = of(&format!(r#"{{"dtype":"U8","shape":{dims},"data_offsets":[0,0]}}"#), 0);
        assert!(problem.ends_with("is beyond all bounds"), "{problem}");
    }
}

#[test]
fn more_dimensions_than_can_be_meant() {
    let dims = vec!["1"; 2_000_001].join(",");
    let problem = of(&format!(r#"{{"dtype":"F32","shape":[{dims}],"data_offsets":[0,4]}}"#), 4);
    assert_eq!(problem, "shape: more than 16 dimensions");
    let dims = vec!["1"; 16].join(",");
    let header = describing(&format!(r#"{{"dtype":"F32","shape":[{dims}],"data_offsets":[0,4]}}"#));
    assert!(open_bytes(&file(&header, 4)).is_ok());
}

#[test]
fn a_length_that_is_not_the_shapes() {
    let problem = of(r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}"#, 12);
    assert_eq!(problem, "its shape [2, 2] of F32 takes 16 bytes, but it has 12");
}

#[test]
fn a_last_byte_that_is_not_filled() {
    let problem = of(r#"{"dtype":"F4","shape":[3],"data_offsets":[0,1]}"#, 1);
    assert_eq!(problem, "its shape [3] of F4 does not fill its last byte");
}

#[test]
fn offsets_that_are_no_pair() {
    for offsets in ["[]", "[0]", "[0,4,8]", "[-4,0]", "[0,4.0]", "{}", "null"] {
        let problem = of(&format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}"#), 4);
        assert!(problem.starts_with("data_offsets: "), "{offsets}: {problem}");
    }
}

#[test]
fn an_end_before_the_start() {
    let problem = of(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#, 4);
    assert_eq!(problem, "it ends at 0, before it starts at 4");
}

#[test]
fn a_tensor_beyond_the_end() {
    let problem = of(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#, 15);
    assert_eq!(problem, "it ends at byte 16 of the data, which has 15");
}

#[test]
fn bytes_after_the_last_tensor() {
    let header = describing(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#);
    assert_eq!(refusal(&file(&header, 17)).0, "1 bytes follow the last tensor");
}

/// Two tensors `a` and `b` of these places.
fn two(a: &str, b: &str) -> String {
    let tensor = |offsets| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#);
    format!(r#"{{"a":{},"b":{}}}"#, tensor(a), tensor(b))
}

#[test]
fn tensors_in_any_order_of_the_header() {
    assert!(open_bytes(&file(&two("[4,8]", "[0,4]"), 8)).is_ok());
}

#[test]
fn tensors_that_overlap() {
    let (problem, _) = refusal(&file(&two("[0,4]", "[2,6]"), 6));
    assert_eq!(problem, "tensor b: it starts at byte 2 of the data, inside the tensor before it, which ends at 4");
    assert!(refusal(&file(&two("[0,4]", "[0,4]"), 4)).0.contains("inside the tensor before it"));
}

#[test]
fn a_gap_between_tensors() {
    let (problem, _) = refusal(&file(&two("[0,4]", "[5,9]"), 9));
    assert_eq!(problem, "tensor b: it starts at byte 5 of the data; the bytes from 4 on belong to no tensor");
    assert!(refusal(&file(&two("[4,8]", "[8,12]"), 12)).0.contains("the bytes from 0 on belong to no tensor"));
}

#[test]
fn offsets_near_the_largest_number() {
    let (start, end) = (u64::MAX - 4, u64::MAX);
    let (problem, _) = refusal(&file(&two("[0,4]", &format!("[{start},{end}]")), 8));
    assert!(problem.contains("belong to no tensor"), "{problem}");
}

#[test]
fn metadata_that_is_no_text() {
    let tensor = r#""w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    for (metadata, wrong) in [
        (r#"{"a":1}"#, "invalid type"),
        (r#"{"a":{"b":"c"}}"#, "invalid type"),
        ("[]", "invalid type"),
        ("null", "invalid type"),
        (r#"{"a":"1","a":"2"}"#, "the key a stands there twice"),
    ] {
        let (problem, _) = refusal(&file(&format!(r#"{{"__metadata__":{metadata},{tensor}}}"#), 4));
        assert!(problem.starts_with(&format!("__metadata__: {wrong}")), "{problem}");
    }
}

#[test]
fn names_are_shown_escaped_and_cut() {
    let hostile = r#"{"a\u001b[31m\nb":{"dtype":"F32"}}"#;
    assert!(refusal(&file(hostile, 0)).0.starts_with(r"tensor a\u{1b}[31m\nb: "));
    let long = format!(r#"{{"{}":{{"dtype":"F32"}}}}"#, "x".repeat(100_000));
    assert!(refusal(&file(&long, 0)).0.len() < 300);
    let escape = format!(r#"{{"w":{{"dtype":"F32","shape":"\u001b{}"}}}}"#, "y".repeat(100_000));
    let (problem, _) = refusal(&file(&escape, 0));
    assert!(problem.len() < 500 && !problem.contains('\u{1b}'), "{problem}");
}

#[test]
fn deep_nesting() {
    let deep = "[".repeat(200_000);
    assert!(refusal(&file(&format!("{{\"w\":{deep}"), 0)).0.starts_with("its header is wrong"));
    let closed = format!("{{\"w\":{deep}{}}}", "]".repeat(200_000));
    assert!(refusal(&file(&closed, 0)).0.starts_with("tensor w: "));
}

#[test]
fn truncated_at_any_byte() {
    let tensors =
        [Tensor::counting("a.weight", DType::F32, &[3, 2]), Tensor::counting("b.weight", DType::F16, &[2, 2])];
    let whole = reference(&tensors);
    assert!(open_bytes(&whole).is_ok());
    for end in 0..whole.len() {
        let error = open_bytes(&whole[..end]).err().unwrap_or_else(|| panic!("accepted when cut at {end}"));
        refused(&error);
    }
}

#[test]
fn other_formats_name_their_conversion() {
    let (problem, help) = refusal(b"PK\x03\x04 and so on");
    assert_eq!(problem, "this is a PyTorch file, not safetensors");
    assert!(help.contains("safe_serialization=True"), "{help}");
    let (problem, help) = refusal(b"GGUF\x03\0\0\0 and so on");
    assert_eq!(problem, "this is a GGUF file, not safetensors");
    assert!(help.contains("gguf_file"), "{help}");
}

#[test]
fn a_missing_file_is_the_systems_refusal() {
    let place = Place::new();
    let error = open(&place.path("none.safetensors")).err().unwrap();
    assert!(matches!(error, FormatError::Io { action: "read", .. }), "{error:?}");
    assert!(!error.refuses_input());
}

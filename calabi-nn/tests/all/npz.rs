//! What is read from .npz files, and what is refused.

use std::io::{Cursor, Write};
use std::path::Path;

use crate::models::{array, file};
use calabi_api::{RunError, Tensor};
use calabi_nn::{read_npz, read_samples};
use npyz::WriterBuilder as _;
use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The bytes of an array, written by another hand than ours.
fn npy<T: npyz::AutoSerialize + Clone>(shape: &[u64], order: npyz::Order, values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let options = npyz::WriteOptions::new().default_dtype().shape(shape).order(order);
    let mut writer = options.writer(&mut bytes).begin_nd().unwrap();
    writer.extend(values.iter().cloned()).unwrap();
    writer.finish().unwrap();
    bytes
}

/// An array with this header, whatever it says.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn of_type(descr: &str, data: &[u8], entries: usize) -> Vec<u8> {
    raw(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({entries},), }}\n"), data)
}

fn zipped(entries: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The only array of a file that holds these bytes as `x.npy`.
fn read(npy: Vec<u8>) -> Result<Tensor, String> {
    let (_folder, path) = file("data.npz", &zipped(&[("x.npy", npy)], CompressionMethod::Stored));
    let mut arrays = read_npz(&path).map_err(|error| problem(&path, &error))?;
    assert_eq!(arrays.len(), 1);
    Ok(arrays.remove("x").unwrap())
}

/// What a message says after the name of the file.
fn problem(path: &Path, error: &RunError) -> String {
    assert!(matches!(error, RunError::Data { .. }), "{error:?}");
    let message = error.to_string();
    message.strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arrays_come_back_as_they_were_written(
        shape in prop::collection::vec(0_usize..5, 0..5),
        fortran in any::<bool>(),
        deflated in any::<bool>(),
    ) {
        let wanted = array(&shape, |i| i64::try_from(i).unwrap() * 1_000_000_007 - 3);
        let (order, stored): (_, Vec<i64>) = if fortran {
            (npyz::Order::Fortran, wanted.t().iter().copied().collect())
        } else {
            (npyz::Order::C, wanted.iter().copied().collect())
        };
        let method = if deflated { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let shape: Vec<u64> = shape.iter().map(|&dim| dim as u64).collect();
        let zip = zipped(&[("x.npy", npy(&shape, order, &stored)), ("é.npy", npy(&[1], npyz::Order::C, &[1.5_f32]))], method);
        let (_folder, path) = file("data.npz", &zip);
        let arrays = read_npz(&path).unwrap();
        let Tensor::I64(found) = &arrays["x"] else { panic!("{:?}", arrays["x"]) };
        prop_assert_eq!(found, &wanted);
        prop_assert!(found.is_standard_layout());
        prop_assert_eq!(&arrays["é"], &Tensor::F32(array(&[1], |_| 1.5)));
    }

    #[test]
    fn no_bytes_are_a_panic(header in "[{}(),:'a-zA-Z0-9<_ ]{0,80}", data in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = read(raw(&header, &data));
        let _ = read(data);
    }

    #[test]
    fn damage_is_an_error_or_changes_nothing(at in any::<prop::sample::Index>(), to in any::<u8>(), deflated in any::<bool>()) {
        let method = if deflated { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let whole = zipped(&[("x.npy", npy(&[3], npyz::Order::C, &[1.0_f32, 2.0, 3.0]))], method);
        let mut damaged = whole.clone();
        let at = at.index(whole.len());
        damaged[at] = to;
        let (_folder, path) = file("data.npz", &damaged);
        if let Ok(arrays) = read_npz(&path) {
            let values: Vec<_> = arrays.into_values().collect();
            prop_assert!(values.is_empty() || values == [Tensor::F32(array(&[3], |i| [1.0, 2.0, 3.0][i]))], "{at} {to}");
        }
        let (_folder, path) = file("cut.npz", &whole[..at]);
        prop_assert!(read_npz(&path).is_err());
    }
}

#[test]
fn every_type_is_read_without_loss() {
    let f32s = |values: &[f32]| Tensor::F32(array(&[values.len()], |i| values[i]));
    let i32s = |values: &[i32]| Tensor::I32(array(&[values.len()], |i| values[i]));
    let i64s = |values: &[i64]| Tensor::I64(array(&[values.len()], |i| values[i]));
    let cases = [
        ("<f4", vec![0, 0, 128, 63], f32s(&[1.0])),
        (">f4", vec![63, 128, 0, 0], f32s(&[1.0])),
        ("<f8", (-2.5_f64).to_le_bytes().to_vec(), f32s(&[-2.5])),
        (">f8", f64::INFINITY.to_be_bytes().to_vec(), f32s(&[f32::INFINITY])),
        ("<f2", vec![0, 0x3c, 1, 0], f32s(&[1.0, 5.960_464_5e-8])),
        ("|b1", vec![0, 1], Tensor::U8(array(&[2], |i| u8::from(i == 1)))),
        ("|u1", vec![0, 255], Tensor::U8(array(&[2], |i| if i == 1 { 255 } else { 0 }))),
        ("|i1", vec![0, 255], i32s(&[0, -1])),
        ("<u2", vec![255, 255], i32s(&[65535])),
        ("<i2", vec![255, 255], i32s(&[-1])),
        ("<i4", vec![254, 255, 255, 255], i32s(&[-2])),
        (">i4", vec![0, 0, 0, 2], i32s(&[2])),
        ("<u4", vec![255; 4], i64s(&[4_294_967_295])),
        ("<i8", i64::MIN.to_le_bytes().to_vec(), i64s(&[i64::MIN])),
    ];
    for (descr, data, wanted) in cases {
        let entries = wanted.shape()[0];
        assert_eq!(read(of_type(descr, &data, entries)).as_ref(), Ok(&wanted), "{descr}");
    }
}

#[test]
fn headers_that_lie_or_make_no_sense_are_refused() {
    let shape = |shape: &str| raw(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"), &[0; 8]);
    let wrong = |npy: Vec<u8>| read(npy).unwrap_err();
    assert!(read(shape("(2,)")).is_ok());
    assert_eq!(wrong(shape("(3,)")), "x.npy: its header asks for shape [3], its data are 8 bytes");
    assert!(wrong(shape("(4294967296, 4294967296)")).contains("its data are 8 bytes"));
    assert!(wrong(shape("(0, 9223372036854775807, 9223372036854775807)")).contains("shape"));
    assert!(wrong(shape("(99999999999999999999999,)")).contains("no size"));
    assert!(wrong(shape("(-2,)")).contains("no size"));
    assert!(wrong(shape(&format!("({})", "1,".repeat(65)))).contains("more than 64 dimensions"));
    assert!(wrong(shape(&"(".repeat(60_000))).contains("no size"));
    assert!(wrong(of_type("<U4", &[0; 16], 1)).contains("numbers of type <U4 are not read"));
    assert!(wrong(of_type("<c8", &[0; 8], 1)).contains("store it as float32"));
    assert!(wrong(of_type("", &[], 0)).contains("no name"));
    assert!(wrong(of_type("|b1", &[2], 1)).contains("neither 0 nor 1"));
    assert!(wrong(of_type("<f8", &1e300_f64.to_le_bytes(), 1)).contains("1e300 is out of the range of f32"));
    assert!(wrong(raw("{'descr': [('a', '<f4')], }", &[])).contains("it is a record"));
    assert!(wrong(raw("{'descr': '<f4', 'shape': (1,)}", &[0; 4])).contains("lacks one of"));
    assert!(wrong(raw("{'fortran_order': 1}", &[])).contains("no truth value"));
    assert!(wrong(raw("{'a': 1}", &[])).contains("unknown key a"));
    assert!(wrong(raw("{'descr': '<f4', 'fortran_order': False, 'shape': ()} x", &[0; 4])).contains("goes on"));
    assert!(wrong(b"\x93NUMPY\x09\x00\x00\x00".to_vec()).contains("version 9"));
    assert!(wrong(b"\x93NUMPY\x01\x00\xff\xff{".to_vec()).contains("ends inside its header"));
    assert!(wrong(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec()).contains("ends inside its header"));
    assert!(wrong(b"hello".to_vec()).contains("no array in numpy's"));
}

#[test]
fn files_that_are_no_npz_are_refused() {
    let refused = |name: &str, bytes: &[u8]| {
        let (_folder, path) = file(name, bytes);
        problem(&path, &read_npz(&path).unwrap_err())
    };
    assert!(refused("a.npz", b"not a zip").contains("no .npz file"));
    assert!(refused("a.npz", b"").contains("no .npz file"));
    let text = zipped(&[("notes\u{7}.txt", b"hello".to_vec())], CompressionMethod::Stored);
    assert_eq!(refused("a.npz", &text), "notes\\u{7}.txt: an .npz file holds .npy arrays only: take it out");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(problem(folder.path(), &read_npz(folder.path()).unwrap_err()), "it is no file");
    assert!(read_npz(&folder.path().join("none.npz")).is_err());
}

#[test]
fn a_size_that_the_file_cannot_hold_is_refused_before_it_is_read() {
    let npy = npy(&[2], npyz::Order::C, &[1.0_f32, 2.0]);
    let mut zip = zipped(&[("x.npy", npy)], CompressionMethod::Stored);
    let directory = zip.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    zip[directory + 24..directory + 28].copy_from_slice(&0xf000_0000_u32.to_le_bytes());
    let (_folder, path) = file("bomb.npz", &zip);
    assert_eq!(problem(&path, &read_npz(&path).unwrap_err()), "x.npy: its size is more than the file can hold");
}

#[test]
fn labels_are_split_off() {
    let images = npy(&[3, 2], npyz::Order::C, &[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let labels = npy(&[3], npyz::Order::C, &[7_i64, 8, 9]);
    let entries = [("image.npy", images), ("labels.npy", labels)];
    let (_folder, path) = file("data.npz", &zipped(&entries, CompressionMethod::Stored));
    let labelled = read_samples(&path, Some("labels")).unwrap();
    assert_eq!(labelled.labels, Some(array(&[3], |i| 7 + i64::try_from(i).unwrap())));
    assert_eq!(labelled.samples.inputs, [("image".to_owned(), Tensor::F32(array(&[3, 2], |i| i as f32)))]);
    assert_eq!(read_samples(&path, None).unwrap().samples.inputs.len(), 2);

    let error = |labels| problem(&path, &read_samples(&path, Some(labels)).unwrap_err());
    assert_eq!(error("label"), "it has no array label of labels; it has image, labels; did you mean labels?");
    assert_eq!(error("image"), "image: labels are integers, the numbers of classes");
}

#[test]
fn samples_that_do_not_pair_are_refused() {
    let error = |entries: &[(&str, Vec<u8>)]| {
        let (_folder, path) = file("data.npz", &zipped(entries, CompressionMethod::Stored));
        problem(&path, &read_samples(&path, Some("y")).unwrap_err())
    };
    let ints = |count: u64| npy(&[count], npyz::Order::C, &vec![0_i64; usize::try_from(count).unwrap()]);
    assert_eq!(error(&[("a.npy", ints(2)), ("b.npy", ints(3)), ("y.npy", ints(2))]), "a holds 2 samples, b 3");
    assert_eq!(error(&[("a.npy", ints(2)), ("y.npy", ints(3))]), "a holds 2 samples, the array of labels 3");
    assert_eq!(error(&[("a.npy", ints(0)), ("y.npy", ints(0))]), "a holds no samples");
    assert_eq!(error(&[("y.npy", ints(2))]), "it holds no inputs");
    let single = npy(&[], npyz::Order::C, &[1_i64]);
    assert_eq!(error(&[("a.npy", single), ("y.npy", ints(1))]), "a is a single number: samples need a first axis");
}

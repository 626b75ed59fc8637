//! Every family gives what transformers gives.

use super::checkpoint::{FAMILIES, Tiny};

#[test]
fn every_family_agrees_with_transformers() {
    for family in FAMILIES {
        let tiny = Tiny::of(family);
        let distance = tiny.distance(&tiny.load().outputs(&tiny.samples).unwrap());
        assert!(distance < 1e-4, "{family}: {distance}");
    }
}

#[test]
fn a_sample_does_not_depend_on_others_nor_on_its_padding() {
    for family in FAMILIES {
        let tiny = Tiny::of(family);
        let mut runner = tiny.load();
        let whole = runner.outputs(&tiny.samples).unwrap();
        let mut seen = 0;
        runner
            .stream(&tiny.samples, &mut |first, outputs| {
                for (one, all) in outputs.iter().zip(&whole) {
                    let count = one.values.shape()[0];
                    let all = all.values.slice_axis(ndarray::Axis(0), (first..first + count).into());
                    assert!((&one.values - &all).iter().all(|d| d.abs() < 1e-5), "{family}");
                }
                seen += outputs[0].values.shape()[0];
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, 3);
        let mut alone = tiny.samples.some(1, 2);
        for (_, tensor) in &mut alone.inputs {
            let calabi_api::Tensor::I64(values) = tensor else { continue };
            values.slice_axis_inplace(ndarray::Axis(1), (..7).into());
        }
        let alone = runner.outputs(&alone).unwrap();
        let long = whole[0].values.index_axis(ndarray::Axis(0), 1);
        let short = alone[0].values.index_axis(ndarray::Axis(0), 0);
        let long = long.slice_axis(ndarray::Axis(0), (..7).into());
        assert!((&long - &short).iter().all(|d| d.abs() < 1e-5), "{family}");
    }
}

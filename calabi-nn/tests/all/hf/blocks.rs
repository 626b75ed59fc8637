//! Block by block is the same as the whole.

use calabi_api::{Runner, StateSpace, States};

use super::checkpoint::{FAMILIES, Tiny, on_disk};

fn through(runner: &mut dyn Runner, tiny: &Tiny, space: &StateSpace) -> States {
    let blocks = runner.blocks().unwrap();
    let mut states = blocks.embed(&tiny.samples, space).unwrap();
    for block in 0..blocks.count() {
        blocks.forward(block, &mut states, &[], &mut |_, _| panic!("nobody watches")).unwrap();
    }
    states
}

#[test]
fn blocks_in_a_row_give_the_outputs_of_the_whole_bit_for_bit() {
    for family in FAMILIES {
        let tiny = Tiny::of(family);
        let mut runner = tiny.load();
        let whole = runner.outputs(&tiny.samples).unwrap();
        let states = through(runner.as_mut(), &tiny, &StateSpace::default());
        assert_eq!(runner.blocks().unwrap().outputs(&states, 0..3).unwrap(), whole, "{family}");
    }
}

#[test]
fn states_on_disk_are_those_in_memory_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let tiny = Tiny::of(family);
        let mut runner = tiny.load();
        let memory = through(runner.as_mut(), &tiny, &StateSpace::default());
        let disk = through(runner.as_mut(), &tiny, &on_disk(folder.path()));
        for sample in 0..3 {
            assert_eq!(memory.get(sample).unwrap(), disk.get(sample).unwrap(), "{family}");
            assert_eq!(memory.tokens(sample), disk.tokens(sample));
        }
        assert!(memory.tokens(0).is_none());
        assert_eq!(memory.tokens(1).unwrap().iter().filter(|token| **token).count(), 7);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn outputs_of_some_samples_are_theirs() {
    let tiny = Tiny::of("llama");
    let mut runner = tiny.load();
    let states = through(runner.as_mut(), &tiny, &StateSpace::default());
    let whole = runner.outputs(&tiny.samples).unwrap();
    let last = runner.blocks().unwrap().outputs(&states, 2..3).unwrap();
    let expected = whole[0].values.slice_axis(ndarray::Axis(0), (2..3).into());
    assert!((&last[0].values - &expected).iter().all(|d| d.abs() < 1e-5));
    assert!(runner.blocks().unwrap().outputs(&states, 2..4).is_err());
}

//! The conformance suite catches decomposers that break their contract.

use std::panic::{AssertUnwindSafe, catch_unwind};

use calabi_api::{Basis, DecomposeError, Decomposer, Decomposition, Rank, Spectrum, Vectors};
use calabi_svd::Faer;
use ndarray::{ArrayView2, Axis};

/// What is wrong with a decomposer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    FlippedSign,
    LongVectors,
    SwappedVectors,
    ShrunkSpectrum,
    LostEnergy,
    NoLimit,
    AcceptsNan,
    AcceptsIndefinite,
}

#[derive(Debug)]
struct Faulty(Fault);

#[derive(Debug)]
struct FaultyDecomposition<'a>(Fault, Box<dyn Decomposition + 'a>, Spectrum);

impl Faulty {
    fn spoil<'a>(&self, good: Box<dyn Decomposition + 'a>, limit: Rank) -> Box<dyn Decomposition + 'a> {
        let values = good.spectrum().values().to_vec();
        let spectrum = match self.0 {
            Fault::ShrunkSpectrum => Spectrum::complete(values.iter().map(|v| v * 0.9999).collect()),
            Fault::LostEnergy => Spectrum::leading(values.iter().take(limit.get()).copied().collect(), 0.0),
            _ => Ok(good.spectrum().clone()),
        };
        Box::new(FaultyDecomposition(self.0, good, spectrum.unwrap()))
    }
}

impl Decomposer for Faulty {
    fn svd<'a>(&self, a: ArrayView2<'a, f32>, limit: Rank) -> Result<Box<dyn Decomposition + 'a>, DecomposeError> {
        let full = Rank::new(a.nrows().min(a.ncols())).unwrap_or(limit);
        let asked = if self.0 == Fault::NoLimit { full } else { limit };
        let good = match Faer::default().svd(a, asked) {
            Err(DecomposeError::NonFinite { .. }) if self.0 == Fault::AcceptsNan => {
                Faer::default().eigh(ndarray::aview2(&[[1.0]]), Rank::ONE)
            }
            found => found,
        };
        Ok(self.spoil(good?, limit))
    }

    fn eigh(&self, s: ArrayView2<'_, f64>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
        match Faer::default().eigh(s, limit) {
            Err(DecomposeError::Indefinite { .. }) if self.0 == Fault::AcceptsIndefinite => {
                Faer::default().eigh(s.dot(&s).view(), limit)
            }
            found => found,
        }
    }
}

impl Decomposition for FaultyDecomposition<'_> {
    fn spectrum(&self) -> &Spectrum {
        &self.2
    }

    fn vectors(&self, r: Rank) -> Result<Vectors, DecomposeError> {
        let Vectors { mut u, v } = self.1.vectors(r)?;
        let mut v = v.unwrap();
        match self.0 {
            Fault::FlippedSign => {
                u.mapv_inplace(|x| -x);
                v.mapv_inplace(|x| -x);
            }
            Fault::LongVectors => u.mapv_inplace(|x| x * 1.001),
            Fault::SwappedVectors => {
                u.invert_axis(Axis(1));
                v.invert_axis(Axis(1));
            }
            _ => {}
        }
        Ok(Vectors { u, v: Some(v) })
    }

    fn basis(&self, r: Rank) -> Result<Basis, DecomposeError> {
        let mut basis = self.1.basis(r)?;
        match self.0 {
            Fault::FlippedSign => basis.vectors.mapv_inplace(|x| -x),
            Fault::SwappedVectors => basis.vectors.invert_axis(Axis(1)),
            _ => {}
        }
        Ok(basis)
    }
}

#[test]
fn every_fault_is_caught_with_its_reason() {
    for (fault, reason) in [
        (Fault::FlippedSign, "not positive"),
        (Fault::LongVectors, "orthonormal"),
        (Fault::SwappedVectors, "loses"),
        (Fault::ShrunkSpectrum, "singular value 0 is"),
        (Fault::LostEnergy, "energy"),
        (Fault::NoLimit, "beyond the limit"),
        (Fault::AcceptsNan, "must be refused with its place"),
        (Fault::AcceptsIndefinite, "must be refused as indefinite"),
    ] {
        let suite = AssertUnwindSafe(|| calabi_testing::decomposers::conforms(&Faulty(fault)));
        let panic = catch_unwind(suite).expect_err("the suite must fail");
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains(reason), "{fault:?}: {message}");
    }
}

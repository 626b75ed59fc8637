//! Matrices with known spectra.

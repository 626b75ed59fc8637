//! What every decomposer promises, as a test.

//! What every rank selector and allocator promises, as tests.

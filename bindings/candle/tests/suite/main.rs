//! All tests in one program: candle is linked once.

mod candle;
mod checkpoints;
mod common;
#[path = "../../examples/support/digits.rs"]
mod digits;
mod errors;
mod reference;

//! All tests are one program, so that candle is linked only once.

mod candle;
mod checkpoints;
mod common;
#[path = "../../examples/support/digits.rs"]
mod digits;
mod eight_bits;
mod errors;
mod reference;

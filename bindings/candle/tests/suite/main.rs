//! All tests are one program, so that candle is linked only once.

mod candle;
mod checkpoints;
mod common;
mod differences;
#[path = "../../examples/support/digits.rs"]
mod digits;
mod drop_in;
mod eight_bits;
mod errors;
mod f32_states;
mod groups;
mod reference;
mod shapes;

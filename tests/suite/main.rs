//! Tests that are not a table: errors, worked examples, recorded trajectories, and vectors from
//! another oracle. They are one program, because every program that steps in both element types
//! takes a while to compile.

mod behaviour;
#[path = "../common/mod.rs"]
mod common;
mod eight_bits;
mod errors;
mod hyper_parameters;
mod layers;
mod norm;
mod overflow;
mod random_rules;
mod serialization;
mod sixteen_bits;
mod split;
#[cfg(feature = "parallel")]
mod threads;
mod vectors;
mod worked_examples;

// Links to the compiled kernels.
use fused_adam_test_kernels as _;

//! An empty library for `benches/adamw.rs`. The benchmark has its own package so that fused-adam's
//! builds do not compile candle.

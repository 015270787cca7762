//! Nothing but a place for `benches/adamw.rs`: a package of its own keeps candle out of the builds
//! of fused-adam.

//! fused-adam as a candle optimizer.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod checkpoint;
mod config;
mod elements;
mod error;
mod locks;
mod optimizer;

pub use candle_nn::ParamsAdamW;
pub use config::{Config, ParamsAdam};
pub use error::Error;
pub use fused_adam;
pub use optimizer::Optimizer;

/// AdamW from candle's own parameters: what takes the place of [`candle_nn::AdamW`].
pub type AdamW = Optimizer<ParamsAdamW>;

/// Adam, from parameters in candle's style.
pub type Adam = Optimizer<ParamsAdam>;

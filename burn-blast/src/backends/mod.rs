//! What each backend hands to the kernels crate: slices or handles, nothing else.

mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod lines;
#[cfg(feature = "ndarray")]
mod ndarray;

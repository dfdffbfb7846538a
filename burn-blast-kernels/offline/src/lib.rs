//! Checks of the tensor-core kernels on a machine without a GPU. See `README.md`.

#[cfg(unix)]
pub mod browser;
pub mod cache;
pub mod decode;
mod emulate;
mod error;
mod generate;
pub mod ladder;
mod metal;
mod rewrite;
mod toolkit;
mod webgpu;

pub use emulate::{Buffer, Emulator, Launch, Program, Traffic};
pub use error::OfflineError;
pub use generate::{Arch, BF16, F16, F32, Source, TF32, cooperative, generate, target};
pub use metal::metal;
pub use rewrite::rewrite;
pub use toolkit::{Machine, Toolkit};
pub use webgpu::{Declaration, MOST_BUFFERS, MOST_SHARED, MOST_UNITS, Wgsl, wgsl};

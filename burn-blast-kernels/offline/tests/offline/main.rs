//! The offline checks, as one program so that what they share is compiled once.

mod common;
mod emulator;
mod every;
mod faults;
mod few_rows;
mod gate;
mod gated_kernels;
mod kernels;
#[cfg(unix)]
mod portable;
mod tf32;
mod toolkit;

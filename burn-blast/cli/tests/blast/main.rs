//! The program `blast`, run as a user runs it, and files between it and the libraries.

mod common;
mod gguf;
mod libraries;
mod look;
mod programs;
#[path = "../../../models/tests/models/common/mod.rs"]
mod reference;
mod refusals;
mod round_trip;
mod runs;
mod verify;
mod words;

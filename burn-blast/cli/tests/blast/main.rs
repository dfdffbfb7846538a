//! The program `blast`, run as a user runs it.

mod common;
mod look;
mod refusals;
mod round_trip;
mod verify;

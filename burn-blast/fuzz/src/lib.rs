#![doc = include_str!("../README.md")]

mod mutate;
mod targets;

pub use mutate::Mutator;
pub use targets::TARGETS;

/// Reads input that may be anything.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Reads an input, and says whether it was good. It panics if something is wrong with the reader.
    pub run: fn(&[u8]) -> bool,
    /// Good inputs, from which others are made.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// The target of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn named(name: &str) -> &'static Self {
        let found = TARGETS.iter().find(|target| target.name == name);
        found.unwrap_or_else(|| panic!("no target is named {name}"))
    }
}

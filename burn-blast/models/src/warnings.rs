//! Warnings of this project's crates, for programs.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// What the crates of this project begin with.
const OURS: &str = "burn_blast";

struct Show<F> {
    show: F,
    /// What was shown so far: a checkpoint may be opened several times.
    shown: Mutex<HashSet<String>>,
}

impl<F: Fn(&str) + Send + Sync> Log for Show<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn && metadata.target().starts_with(OURS)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let warning = format!("warning: {}", record.args());
        let new = self.shown.lock().unwrap_or_else(PoisonError::into_inner).insert(warning.clone());
        if new {
            (self.show)(&warning);
        }
    }

    fn flush(&self) {}
}

/// Calls `show` with every warning that the crates of this project log, once each, unless the program has a logger
/// already.
pub fn show_warnings(show: impl Fn(&str) + Send + Sync + 'static) {
    if log::set_boxed_logger(Box::new(Show { show, shown: Mutex::default() })).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

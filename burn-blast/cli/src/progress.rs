//! Progress on the terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error, if that is a terminal; otherwise nothing.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    quiet: bool,
}

impl Progress {
    /// A bar that is shown on a terminal, unless it is to be `quiet`.
    pub fn new(quiet: bool) -> Self {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
        Self { bar, quiet }
    }

    /// Starts a phase of `items` items.
    pub fn count(&self, what: &str, items: usize) {
        self.phase(what, items as u64, "{bar:30} {pos}/{len} {msg}, {eta} left");
    }

    /// Sets the number of items done.
    pub fn set(&self, done: usize) {
        self.bar.set_position(done as u64);
    }

    /// Sets the text beside the bar.
    pub fn message(&self, text: String) {
        self.bar.set_message(text);
    }

    /// Prints a line to standard error, above the bar.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| eprintln!("{text}"));
        }
    }

    /// Starts a phase of `bytes` bytes.
    pub fn begin(&self, what: &str, bytes: u64) {
        let rate = "{binary_bytes:>10} of {binary_total_bytes:10} {binary_bytes_per_sec:>12}";
        self.phase(what, bytes, &format!("{{msg:32!}} {{bar:30}} {rate}"));
    }

    /// Advances by `bytes` bytes.
    pub fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn phase(&self, what: &str, length: u64, template: &str) {
        let style = ProgressStyle::with_template(template).expect("a constant that tests use");
        self.bar.reset();
        self.bar.set_style(style);
        self.bar.set_length(length);
        self.bar.set_message(what.to_owned());
    }
}

impl burn_blast_checkpoint::Progress for Progress {
    fn begin(&self, file: &str, bytes: u64) {
        self.begin(&format!("writing {file}"), bytes);
    }

    fn advance(&self, bytes: u64) {
        self.advance(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

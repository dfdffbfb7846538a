//! Progress on the terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error, if that is a terminal; otherwise nothing.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar that is shown on a terminal.
    pub fn new() -> Self {
        let bar = ProgressBar::no_length();
        let style = "{msg:32!} {bar:30} {binary_bytes:>10} of {binary_total_bytes:10} {binary_bytes_per_sec:>12}";
        bar.set_style(ProgressStyle::with_template(style).expect("a constant that tests use"));
        Self(bar)
    }

    /// Begins a part of the work, of so many bytes.
    pub fn begin(&self, what: String, bytes: u64) {
        self.0.reset();
        self.0.set_length(bytes);
        self.0.set_message(what);
    }

    /// Says that so many more bytes are done.
    pub fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl burn_blast_checkpoint::Progress for Progress {
    fn begin(&self, file: &str, bytes: u64) {
        self.begin(format!("writing {file}"), bytes);
    }

    fn advance(&self, bytes: u64) {
        self.advance(bytes);
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

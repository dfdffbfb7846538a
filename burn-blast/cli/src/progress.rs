//! Progress: a bar on a terminal, and a line every few seconds elsewhere.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use burn_blast_models::show_warnings;
use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressStyle};

/// Time between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// What is being done, and how far it is. Written to standard error; if nobody reads it, nothing happens.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    quiet: bool,
    started: Instant,
    /// When the last line was written, where lines take the place of the bar.
    lines: Option<Cell<Instant>>,
    phase: RefCell<Phase>,
}

#[derive(Debug, Default)]
struct Phase {
    what: String,
    unit: Unit,
    /// Whether a number of items was set.
    began: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Unit {
    #[default]
    Items,
    Bytes,
}

impl Progress {
    /// Progress that is shown unless it is to be `quiet`. Warnings are shown in every case.
    pub fn new(quiet: bool) -> Self {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
        let above = bar.clone();
        show_warnings(move |warning| above.suspend(|| say(warning)));
        let lines = (!quiet && !stderr().is_terminal()).then(|| Cell::new(Instant::now()));
        Self { bar, quiet, started: Instant::now(), lines, phase: RefCell::default() }
    }

    /// Time since the program began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Starts a phase of `items` items.
    pub fn count(&self, what: &str, items: usize) {
        self.start(what, items as u64, Unit::Items, "{bar:30} {pos}/{len} {msg}, {eta} left");
    }

    /// Sets the number of items done.
    pub fn set(&self, done: usize) {
        self.bar.set_position(done as u64);
        // What a run had done before it was resumed says nothing of the rate.
        if !std::mem::replace(&mut self.phase.borrow_mut().began, true) && done > 1 {
            self.bar.reset_eta();
        }
        self.tick();
    }

    /// Sets the text beside the bar.
    pub fn message(&self, text: String) {
        self.bar.set_message(text);
    }

    /// Prints a line, above the bar.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| say(text));
        }
    }

    /// Starts a phase of `bytes` bytes.
    pub fn begin(&self, what: &str, bytes: u64) {
        let rate = "{binary_bytes:>10} of {binary_total_bytes:10} {binary_bytes_per_sec:>12}";
        self.start(what, bytes, Unit::Bytes, &format!("{{msg:32!}} {{bar:30}} {rate}"));
    }

    /// Advances by `bytes` bytes.
    pub fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.tick();
    }

    fn start(&self, what: &str, length: u64, unit: Unit, template: &str) {
        let style = ProgressStyle::with_template(template).expect("a constant that tests use");
        self.bar.reset();
        self.bar.set_style(style);
        self.bar.set_length(length);
        self.bar.set_message(what.to_owned());
        *self.phase.borrow_mut() = Phase { what: what.to_owned(), unit, began: false };
    }

    /// Writes a line if there is no bar and the last line is long ago.
    fn tick(&self) {
        let Some(last) = &self.lines else { return };
        if last.get().elapsed() < EVERY {
            return;
        }
        last.set(Instant::now());
        say(&self.status());
    }

    /// The present state as a line.
    fn status(&self) -> String {
        let Phase { what, unit, .. } = &*self.phase.borrow();
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let far = match unit {
            Unit::Items => format!("{done}/{all}"),
            Unit::Bytes => format!("{} of {}", BinaryBytes(done), BinaryBytes(all)),
        };
        let message = self.bar.message();
        let message = if message == *what { String::new() } else { format!(", {message}") };
        format!("{what}: {far}{message}, {} left", HumanDuration(self.bar.eta()))
    }
}

/// Writes a line to standard error; there may be nobody to read it.
pub fn say(text: &str) {
    let _ = writeln!(stderr(), "{text}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_the_bar_shows() {
        let progress = Progress::new(true);
        progress.count("training", 200);
        progress.set(50);
        assert!(progress.status().starts_with("training: 50/200, "), "{}", progress.status());
        progress.message("loss 2.5".to_owned());
        assert!(progress.status().starts_with("training: 50/200, loss 2.5, "));
        progress.begin("writing a.safetensors", 4 << 20);
        progress.advance(1 << 20);
        let status = progress.status();
        assert!(status.starts_with("writing a.safetensors: 1.00 MiB of 4.00 MiB, "), "{status}");
    }
}

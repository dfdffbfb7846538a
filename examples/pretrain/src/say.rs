//! Lines for whoever reads them. A run goes on when nobody does any more, as after `| head`.

use std::fmt::Display;
use std::io::{Write, stderr, stdout};

/// Writes a line to standard output.
pub fn say(line: impl Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// Writes a line to standard error.
pub fn warn(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

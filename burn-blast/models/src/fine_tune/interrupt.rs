//! Ctrl-C ends a run after its step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;

/// Exit code of a process that Ctrl-C stopped.
pub const INTERRUPTED: u8 = 130;

/// A flag that the first Ctrl-C sets; the second one ends the process at once.
///
/// # Errors
/// If the system does not let the process listen, or it listens already.
pub fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("\nStopping after this step and saving; Ctrl-C again stops at once.");
    })?;
    Ok(stop)
}

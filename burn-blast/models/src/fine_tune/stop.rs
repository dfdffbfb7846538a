//! Being asked to stop: Ctrl-C, and what schedulers, containers and closed terminals send.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;

use super::INTERRUPTED;

/// Signals closer together than this are one request: a terminal that is closed sends SIGHUP, and so does its shell.
const ONE_REQUEST: Duration = Duration::from_millis(100);

/// A flag that the first Ctrl-C, SIGTERM or SIGHUP sets; a second one ends the process at once. Signals that the process
/// was started to ignore, as by `nohup`, stay ignored.
///
/// # Errors
/// If the system does not let the process listen, or it listens already.
pub fn stop_on_signals() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let first = Mutex::new(None::<Instant>);
    let ignored = ignored::find();
    ctrlc::set_handler(move || {
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *first.get_or_insert_with(Instant::now);
        if flag.swap(true, Ordering::SeqCst) {
            if first.elapsed() >= ONE_REQUEST {
                std::process::exit(i32::from(INTERRUPTED));
            }
            return;
        }
        // There may be nobody to read it.
        let what = "\nStopping after this step and saving; asked again, it stops at once.";
        let _ = writeln!(std::io::stderr(), "{what}");
    })?;
    ignored::restore(&ignored);
    Ok(stop)
}

/// Signals that the process ignores from its start on.
#[cfg(unix)]
mod ignored {
    use std::ffi::c_int;
    use std::{mem, ptr};

    /// Those that are ignored now.
    pub fn find() -> Vec<c_int> {
        let is_ignored = |signal: &c_int| {
            // SAFETY: zeros are a valid `sigaction`; a null pointer for the new action asks for the present one only, which
            // is written to memory that is ours.
            unsafe {
                let mut present: libc::sigaction = mem::zeroed();
                libc::sigaction(*signal, ptr::null(), &raw mut present) == 0
                    && present.sa_sigaction == libc::SIG_IGN
            }
        };
        [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].into_iter().filter(is_ignored).collect()
    }

    /// Ignores them again.
    pub fn restore(signals: &[c_int]) {
        for signal in signals {
            // SAFETY: `SIG_IGN` is no function that could be called.
            unsafe { libc::signal(*signal, libc::SIG_IGN) };
        }
    }
}

/// Other systems have no such signals.
#[cfg(not(unix))]
mod ignored {
    pub fn find() {}

    pub fn restore((): &()) {}
}

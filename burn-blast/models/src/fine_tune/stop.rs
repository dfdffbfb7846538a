//! Being asked to stop: Ctrl-C, and what schedulers, containers and closed terminals send.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn_blast_checkpoint::atomic::exit_without_unfinished;

use crate::Error;

use super::INTERRUPTED;

/// Signals closer together than this are one request: a terminal that is closed sends SIGHUP, and so does its shell.
const ONE_REQUEST: Duration = Duration::from_millis(100);

/// Ctrl-C, SIGTERM and SIGHUP, as the process gets them. Signals that it was started to ignore, as by `nohup`, stay ignored.
#[derive(Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    saves: Arc<AtomicBool>,
}

impl Signals {
    /// Listens. A signal ends the process at once, without the files that are not complete, until
    /// [`save_first`](Self::save_first) is called.
    ///
    /// # Errors
    /// If the system does not let the process listen, or it listens already.
    pub fn listen() -> Result<Self, Error> {
        let signals = Self { stop: Arc::default(), saves: Arc::default() };
        let (stop, saves) = (signals.stop.clone(), signals.saves.clone());
        let first = Mutex::new(None::<Instant>);
        let exit = || exit_without_unfinished(INTERRUPTED.into());
        let ignored = ignored::find();
        let handle = move || {
            if !saves.load(Ordering::SeqCst) {
                exit();
            }
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            let first = *first.get_or_insert_with(Instant::now);
            if stop.swap(true, Ordering::SeqCst) {
                if first.elapsed() >= ONE_REQUEST {
                    exit();
                }
                return;
            }
            // There may be nobody to read it.
            let what = "\nStopping after this step and saving; asked again, it stops at once.";
            let _ = writeln!(std::io::stderr(), "{what}");
        };
        ctrlc::set_handler(handle).map_err(|error| Error::Signals(error.to_string()))?;
        ignored::restore(&ignored);
        Ok(signals)
    }

    /// From now on a signal ends the process at once again.
    pub fn stop_at_once(&self) {
        self.saves.store(false, Ordering::SeqCst);
    }

    /// From now on the first signal sets the flag that is returned, and the second one ends the process.
    pub fn save_first(&self) -> Arc<AtomicBool> {
        self.saves.store(true, Ordering::SeqCst);
        self.stop.clone()
    }
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

//! Peak memory of the process, phase by phase.

use std::fs;

/// Starts a new count of the peak. Does nothing where the system cannot do it.
pub fn reset_peak() {
    // Where this is refused, the peak is the one of the whole process so far: still an upper bound.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Largest resident size since the last [`reset_peak`] in bytes; known on Linux only.
pub fn peak_bytes() -> Option<u64> {
    peak_from_status(&fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_from_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        let status = "Name:\tpretrain\nVmPeak:\t  99 kB\nVmHWM:\t    1234 kB\n";
        assert_eq!(peak_from_status(status), Some(1234 * 1024));
        assert_eq!(peak_from_status("Name:\tpretrain\n"), None);
    }
}

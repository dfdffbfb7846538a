//! NVRTC, ptxas and nvdisasm, where they are installed: what a kernel costs in machine code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::{Arch, OfflineError, Source};

/// A folder as `toolkit.sh` makes it, and one for what it found out.
#[derive(Debug, Clone)]
pub struct Toolkit {
    folder: PathBuf,
    facts: PathBuf,
}

/// Machine code of one kernel on one architecture.
#[derive(Debug, Clone, Deserialize)]
pub struct Machine {
    /// Name it was given.
    pub name: String,
    /// Registers of a unit.
    pub registers: usize,
    /// Bytes that a unit writes to memory for want of registers.
    pub spill_stores: usize,
    /// Bytes read back.
    pub spill_loads: usize,
    /// How many of these reads and writes stand in loops. The kernel's last jump, to itself, is none.
    pub spills_in_loops: usize,
    /// Bytes of a unit's stack.
    pub stack: usize,
    /// How often the instructions that matter occur.
    pub instructions: BTreeMap<String, usize>,
}

impl Toolkit {
    /// The toolkit in `$BURN_BLAST_TOOLKIT`, otherwise in the cache of the user; `None` if there is none.
    pub fn find() -> Option<Self> {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        let cache = cache.unwrap_or_else(std::env::temp_dir).join("burn-blast");
        let folder = std::env::var_os("BURN_BLAST_TOOLKIT").map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| cache.join("cuda-toolkit-13.0"));
        let facts = cache.join("machine-code");
        folder.join("bin/ptxas").exists().then_some(Self { folder, facts })
    }

    /// Compiles and assembles kernels, each under a name. What is known of the same source from before, by the
    /// same toolkit, comes from the user's cache.
    ///
    /// # Errors
    /// If a compiler refuses one.
    pub fn compile(
        &self,
        arch: Arch,
        kernels: &[(String, Source)],
    ) -> Result<Vec<Machine>, OfflineError> {
        let sources = tempfile::Builder::new().prefix("blast-offline-").tempdir()?;
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("compile.py"));
        command.arg(&self.folder).arg(arch.flag()).arg(&self.facts);
        for (name, source) in kernels {
            let path = sources.path().join(name).with_extension("cu");
            std::fs::write(&path, &source.code)?;
            command.arg(path);
        }
        let output = command.output()?;
        let failed = |log: String| OfflineError::Toolkit { folder: self.folder.clone(), log };
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_string()));
        }
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).map_err(|error| failed(error.to_string())))
            .collect()
    }
}

//! Generated kernels run on the CPU: compiled with the system's g++, one process a launch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::rewrite::rewrite;
use crate::{OfflineError, Source};

/// A compiler, and the emulator compiled with it.
pub struct Emulator {
    compiler: String,
    folder: TempDir,
}

/// One kernel linked with the emulator.
pub struct Program {
    path: PathBuf,
    folder: TempDir,
    shared_bytes: usize,
}

/// A buffer of a launch.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// Contents.
    pub bytes: Vec<u8>,
    /// Whether the kernel may write it.
    pub writable: bool,
}

/// Shape of a launch.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Blocks along x, y and z.
    pub blocks: [u64; 3],
    /// Units of a block.
    pub units: usize,
    /// Scalars in the order and width of the kernel's `info_st`.
    pub info: &'a [u8],
}

/// What the warps of a launch asked of shared memory, in groups of eight lanes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Reads of eight lines by `ldmatrix`.
    pub reads: u64,
    /// Turns in which shared memory served them, one each without bank conflicts.
    pub read_wavefronts: u64,
    /// Writes of up to eight vectors by `cp.async`.
    pub writes: u64,
    /// Turns in which shared memory served them.
    pub write_wavefronts: u64,
}

const PARTS: [&str; 3] = ["memory", "emulator", "wmma"];

impl Emulator {
    /// Compiles the emulator with `$CXX`, or `g++`. `None` if there is no such program.
    ///
    /// # Errors
    /// If the compiler refuses it.
    pub fn new() -> Result<Option<Self>, OfflineError> {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
        if Command::new(&compiler).arg("--version").output().is_err() {
            return Ok(None);
        }
        let emulator = Self { compiler, folder: folder()? };
        for part in PARTS {
            let (code, object) =
                (sources().join(part).with_extension("cpp"), emulator.object(part));
            emulator.compile(|cxx| cxx.args(["-O2", "-c"]).arg(code).arg("-o").arg(object))?;
        }
        Ok(Some(emulator))
    }

    /// Compiles a kernel and links it with the emulator.
    ///
    /// # Errors
    /// If the source has an instruction that is not modelled, or the compiler refuses it.
    pub fn build(&self, source: &Source) -> Result<Program, OfflineError> {
        let folder = folder()?;
        let (code, object) = (folder.path().join("kernel.cpp"), folder.path().join("kernel.o"));
        let path = folder.path().join("kernel");
        fs::write(&code, rewrite(source)?)?;
        // The sanitizer's calls at each access go to the emulator, so nothing of it is linked. Generated
        // code has unused values; strict aliasing does not hold for shared memory.
        self.compile(|cxx| {
            cxx.args(["-O1", "-fno-strict-aliasing", "-fsanitize=thread", "-w", "-I"]);
            cxx.arg(sources()).arg("-c").arg(code).arg("-o").arg(&object)
        })?;
        let parts = PARTS.map(|part| self.object(part));
        self.compile(|cxx| cxx.arg(object).arg("-o").arg(&path).args(parts))?;
        Ok(Program { path, folder, shared_bytes: source.shared_bytes })
    }

    fn object(&self, part: &str) -> PathBuf {
        self.folder.path().join(part).with_extension("o")
    }

    fn compile(
        &self,
        arguments: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<(), OfflineError> {
        let mut command = Command::new(&self.compiler);
        let output = arguments(command.arg("-std=c++17")).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(OfflineError::Compiler { compiler: self.compiler.clone(), log: log(&output) })
    }
}

impl Program {
    /// Runs one launch; the writable buffers hold its results afterwards.
    ///
    /// # Errors
    /// [`OfflineError::Fault`] with what the emulator found wrong.
    pub fn run(&self, launch: Launch, buffers: &mut [Buffer]) -> Result<Traffic, OfflineError> {
        let (job, result) = (self.folder.path().join("job"), self.folder.path().join("result"));
        let mut head = launch.blocks.to_vec();
        head.extend(
            [launch.units, self.shared_bytes, launch.info.len(), buffers.len()].map(|n| n as u64),
        );
        for buffer in buffers.iter() {
            head.extend([buffer.bytes.len() as u64, buffer.writable.into()]);
        }
        let mut bytes: Vec<u8> = head.into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.extend(launch.info);
        buffers.iter().for_each(|buffer| bytes.extend(&buffer.bytes));
        fs::write(&job, bytes)?;
        let output = Command::new(&self.path).args([&job, &result]).output()?;
        if !output.status.success() {
            return Err(OfflineError::Fault { status: output.status, message: log(&output) });
        }
        let written = fs::read(&result)?;
        let mut rest = written.as_slice();
        for buffer in buffers.iter_mut().filter(|buffer| buffer.writable) {
            let (own, others) = rest.split_at(buffer.bytes.len());
            buffer.bytes.copy_from_slice(own);
            rest = others;
        }
        let mut numbers = rest.as_chunks().0.iter().map(|&number| u64::from_le_bytes(number));
        let mut next = || numbers.next().expect("the emulator writes four counts");
        Ok(Traffic {
            reads: next(),
            read_wavefronts: next(),
            writes: next(),
            write_wavefronts: next(),
        })
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("emulator")
}

fn folder() -> Result<TempDir, OfflineError> {
    Ok(tempfile::Builder::new().prefix("blast-offline-").tempdir()?)
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_string()
}

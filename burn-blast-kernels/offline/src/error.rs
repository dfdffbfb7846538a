//! What can go wrong away from a GPU.

use std::process::ExitStatus;

use thiserror::Error;

/// Why a kernel could not be generated, compiled or emulated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The code generator refused.
    #[error("CubeCL cannot generate {variant}: {reason}")]
    Generate {
        /// Name of the kernel variant.
        variant: String,
        /// What the generator said.
        reason: String,
    },
    /// Generated code with inline PTX that is unknown here.
    #[error("the emulator does not model `{instruction}`: add it to src/rewrite.rs and emulator/")]
    Instruction {
        /// The PTX.
        instruction: String,
    },
    /// Generated code whose kernel does not look as expected.
    #[error("the parameters of {entry} are not as CubeCL 0.11 writes them: adapt src/rewrite.rs")]
    Signature {
        /// Name of the kernel.
        entry: String,
    },
    /// The host compiler refused.
    #[error("{compiler} refuses the emulated kernel (set CXX to choose another compiler):\n{log}")]
    Compiler {
        /// The program.
        compiler: String,
        /// What it printed.
        log: String,
    },
    /// The emulated kernel did something wrong.
    #[error("the emulated kernel failed ({status}): {message}")]
    Fault {
        /// How its process ended.
        status: ExitStatus,
        /// What the emulator found.
        message: String,
    },
    /// The CUDA toolkit is not there.
    #[error(
        "there is no CUDA toolkit: run burn-blast-kernels/offline/toolkit.sh, or set BURN_BLAST_TOOLKIT"
    )]
    NoToolkit,
    /// A compiler of the CUDA toolkit refused.
    #[error("the CUDA toolkit in {folder} failed:\n{log}")]
    Toolkit {
        /// Where the toolkit is.
        folder: std::path::PathBuf,
        /// What it printed.
        log: String,
    },
    /// The browser did not do what it was asked.
    #[error("the browser failed: {reason}")]
    Browser {
        /// What happened.
        reason: String,
    },
    /// A file could not be read or written, or a program not be started.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_toolkit_says_how_to_get_it() {
        let message = OfflineError::NoToolkit.to_string();
        assert!(message.contains("run burn-blast-kernels/offline/toolkit.sh"), "{message}");
    }

    #[test]
    fn a_refused_kernel_is_named() {
        let (variant, reason) = ("spmm_64x64".into(), "no such type".into());
        let message = OfflineError::Generate { variant, reason }.to_string();
        assert_eq!(message, "CubeCL cannot generate spmm_64x64: no such type");
    }
}

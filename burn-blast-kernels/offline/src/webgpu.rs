//! WGSL of a portable kernel, as the wgpu runtime of CubeCL would hand it to a device with WebGPU's default limits.
//!
//! The description of the device is from `cubecl-wgpu`, `runtime.rs`.

use std::sync::Arc;

use burn_blast_kernels::cube::catalogue::{Definition, Target};
use cubecl::ir::{AddressType, ElemType, HardwareProperties, TargetProperties};
use cubecl::wgpu::WgslCompiler;
use cubecl::{Compiler, WgpuCompilationOptions};

use crate::generate::{device, hardware};
use crate::{Arch, OfflineError};

/// Storage buffers of a kernel that WebGPU promises.
pub const MOST_BUFFERS: usize = 8;
/// Shared memory of a cube that WebGPU promises, in bytes.
pub const MOST_SHARED: usize = 16 * 1024;
/// Units of a cube that WebGPU promises.
pub const MOST_UNITS: usize = 256;

/// How the buffers of a kernel are declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declaration {
    /// All as writable, as natively, where buffers share memory.
    Writable,
    /// Buffers that are only read as such, as in a browser. Loops that wait for all units may then be bounded by what
    /// they hold.
    AsUsed,
}

/// Generated code of one kernel.
#[derive(Debug, Clone)]
pub struct Wgsl {
    /// The text.
    pub code: String,
    /// Name of the kernel in it.
    pub entry: String,
    /// Whether each buffer is written, in the order of the bindings, without the last one, which holds the sizes.
    pub written: Vec<bool>,
    /// Storage buffers, with the one of the sizes.
    pub buffers: usize,
    /// Shared memory of a cube, in bytes.
    pub shared_bytes: usize,
    /// Units of a cube.
    pub units: usize,
}

/// Generates the code of a kernel for tensors of `dtype`.
///
/// # Errors
/// If CubeCL refuses the kernel, or writes something else than expected.
pub fn wgsl(
    kernel: &impl Definition,
    dtype: ElemType,
    declaration: Declaration,
) -> Result<Wgsl, OfflineError> {
    let refused = |reason: String| OfflineError::Generate { variant: kernel.name(), reason };
    let compiled = WgslCompiler
        .compile(kernel.define(&target(dtype)), &WgpuCompilationOptions::default())
        .map_err(|error| refused(error.to_string()))?;
    let io = WgslCompiler::buffer_io(&compiled)
        .ok_or_else(|| refused("CubeCL does not say which buffers are written".into()))?;
    let written: Vec<bool> = io.iter().map(|io| io.is_writable()).collect();
    let mut code = compiled.to_string();
    let entry = code
        .split("@compute")
        .nth(1)
        .and_then(|rest| rest.split("fn ").nth(1))
        .and_then(|rest| rest.split('(').next())
        .map(|name| name.trim().to_string())
        .ok_or_else(|| refused("the generated text has no kernel".into()))?;
    if declaration == Declaration::AsUsed {
        for (binding, _) in written.iter().enumerate().filter(|(_, written)| !**written) {
            let declared = format!("@binding({binding}) var<storage, read_write>");
            if !code.contains(&declared) {
                return Err(refused(format!("buffer {binding} is not declared as expected")));
            }
            code = code.replace(&declared, &format!("@binding({binding}) var<storage, read>"));
        }
    }
    let buffers = code.matches("var<storage").count();
    Ok(Wgsl {
        entry,
        written,
        buffers,
        shared_bytes: kernel.shared_bytes(),
        units: kernel.units(),
        code,
    })
}

/// A device with WebGPU's default limits, for tensors of `dtype`.
fn target(dtype: ElemType) -> Target {
    let hardware = HardwareProperties {
        max_bindings: MOST_BUFFERS as u32 - 1,
        max_shared_memory_size: MOST_SHARED,
        max_cube_count: (65_535, 65_535, 65_535),
        max_units_per_cube: MOST_UNITS as u32,
        max_cube_dim: (256, 256, 64),
        num_streaming_multiprocessors: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        max_vector_size: 4,
        ..hardware(Arch::Sm80)
    };
    Target {
        properties: Arc::new(device("wgsl", 256, hardware)),
        layouts: Arc::new(TargetProperties { mma: Default::default() }),
        address: AddressType::U32,
        dtype,
    }
}

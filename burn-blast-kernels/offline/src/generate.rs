//! CUDA C++ of a kernel variant, as CubeCL's CUDA runtime would hand it to NVRTC.
//!
//! Nothing of CUDA is needed for this. The description of the device is CubeCL's own
//! (`cubecl-cuda`, `runtime.rs`), as far as the kernels ask about it; that crate itself needs LLVM.

use std::sync::Arc;

use burn_blast_kernels::cube::catalogue::{Definition, Target, Variant};
use cubecl::Compiler;
use cubecl::features::{Plane, TypeUsage};
use cubecl::ir::{
    AddressType, ContiguousElements, DeviceIdentity, DeviceProperties, ElemType, FloatKind,
    HardwareProperties, MemoryDeviceProperties, MmaProperties, OpaqueType, TargetProperties,
    VectorSize,
};
use cubecl::profile::TimingMethod;
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::{CudaCmmaCompiler, manual::contiguous_elements_cuda};
use cubecl_cpp::shared::{
    CompilationOptions, CppCompiler, CppSupportedFeatures, register_mma_features,
    register_wmma_features,
};
use cubecl_cpp::target::Cuda;
use cubecl_cpp::{cuda, register_supported_types};

use crate::OfflineError;

/// f16 as CubeCL names it.
pub const F16: ElemType = ElemType::Float(FloatKind::F16);
/// bf16 as CubeCL names it.
pub const BF16: ElemType = ElemType::Float(FloatKind::BF16);

/// f32 as CubeCL names it. Its tensor-core kernels multiply in TF32.
pub const F32: ElemType = ElemType::Float(FloatKind::F32);
/// TF32 as CubeCL names it.
pub const TF32: ElemType = ElemType::Float(FloatKind::TF32);

/// The architectures that code is generated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// Ampere, as in A100.
    Sm80,
    /// Ampere, as in RTX 3090.
    Sm86,
    /// Ada, as in RTX 4090 and L40.
    Sm89,
    /// Hopper, as in H100 and H200.
    Sm90,
    /// Blackwell, as in RTX 5090.
    Sm120,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sm80, Self::Sm86, Self::Sm89, Self::Sm90, Self::Sm120];
    /// The ones whose registers are in `docs/src/kernel-ladder.md`.
    pub const ON_THE_PAGE: [Self; 2] = [Self::Sm80, Self::Sm90];

    /// Compute capability times ten.
    pub fn version(self) -> u32 {
        match self {
            Self::Sm80 => 80,
            Self::Sm86 => 86,
            Self::Sm89 => 89,
            Self::Sm90 => 90,
            Self::Sm120 => 120,
        }
    }

    /// As compilers name it, with the suffix that CubeCL's runtime asks for from 9.0 on.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm86 => "sm_86",
            Self::Sm89 => "sm_89",
            Self::Sm90 => "sm_90a",
            Self::Sm120 => "sm_120a",
        }
    }

    /// Most shared memory of a block after opting in, in bytes.
    fn shared_bytes(self) -> usize {
        match self {
            Self::Sm80 => 163 * 1024,
            Self::Sm86 | Self::Sm89 | Self::Sm120 => 99 * 1024,
            Self::Sm90 => 227 * 1024,
        }
    }

    /// Multiprocessors of the GPU named above, the first where there are two.
    fn multiprocessors(self) -> u32 {
        match self {
            Self::Sm80 => 108,
            Self::Sm86 => 82,
            Self::Sm89 => 128,
            Self::Sm90 => 132,
            Self::Sm120 => 170,
        }
    }

    /// Whether it has what Hopper brought.
    fn is_hopper_or_later(self) -> bool {
        self.version() >= 90
    }
}

/// Generated code of one kernel.
#[derive(Debug, Clone)]
pub struct Source {
    /// The CUDA C++.
    pub code: String,
    /// Name of the kernel in it.
    pub entry: String,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: usize,
}

/// Every variant on cooperative matrices for this architecture and storage type.
pub fn cooperative(arch: Arch, dtype: ElemType) -> Vec<Variant> {
    Variant::cooperative(&target(arch, dtype, AddressType::U32))
}

/// Generates the code of `variant` for tensors of `dtype`, unless the variant has a type of its own.
///
/// # Errors
/// If CubeCL refuses the kernel.
pub fn generate(
    variant: &impl Definition,
    arch: Arch,
    dtype: ElemType,
    address: AddressType,
) -> Result<Source, OfflineError> {
    let target = target(arch, dtype, address);
    let options = CompilationOptions {
        supports_features: CppSupportedFeatures {
            fast_math: true,
            dp4a: true,
            grid_constants: true,
            fast_tanh: true,
            clusters: arch.is_hopper_or_later(),
            elect_sync: arch.is_hopper_or_later(),
        },
        ..Default::default()
    };
    let refused = |reason: String| OfflineError::Generate { variant: variant.name(), reason };
    let compiled = CppCompiler::<Cuda>::default()
        .compile(variant.define(&target), &options)
        .map_err(|error| refused(error.to_string()))?;
    let entry = compiled
        .source
        .split("__launch_bounds__")
        .nth(1)
        .and_then(|rest| rest.split(')').nth(1))
        .and_then(|rest| rest.split('(').next())
        .map(|name| name.trim().to_string())
        .ok_or_else(|| refused("the generated source has no kernel".into()))?;
    Ok(Source { code: compiled.source, entry, shared_bytes: compiled.shared_memory_size })
}

/// A device of this architecture, as CubeCL's CUDA runtime describes it, for tensors of `dtype`.
pub fn target(arch: Arch, dtype: ElemType, address: AddressType) -> Target {
    Target { properties: Arc::new(properties(arch)), layouts: Arc::new(layouts()), address, dtype }
}

/// A device with these limits, whose memory is aligned to `alignment` bytes, before its matrix instructions are listed.
pub(crate) fn device(
    fingerprint: &str,
    alignment: u64,
    hardware: HardwareProperties,
) -> DeviceProperties {
    let memory = MemoryDeviceProperties::new(1 << 34, alignment);
    let (name, fingerprint) = (format!("offline {fingerprint}"), fingerprint.into());
    let identity = DeviceIdentity { name, fingerprint, physical: None };
    let mut properties =
        DeviceProperties::new(Default::default(), memory, hardware, TimingMethod::Device, identity);
    register_supported_types(&mut properties);
    properties
}

/// Limits of a device.
pub(crate) fn hardware(arch: Arch) -> HardwareProperties {
    HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: arch.shared_bytes(),
        max_cube_count: (i32::MAX as u32, 65_535, 65_535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(arch.multiprocessors()),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    }
}

fn properties(arch: Arch) -> DeviceProperties {
    let cuda = CudaArchitecture { version: arch.version(), tensor_cores: true };
    let hardware = hardware(arch);
    let mut properties = device(&format!("ptx_sm{}", arch.version()), 512, hardware);
    register_wmma_features(
        CudaCmmaCompiler::Cpp.supported_cmma_combinations(&cuda),
        &mut properties,
    );
    register_mma_features(cuda::supported_mma_combinations(&cuda), &mut properties);
    properties.register_opaque_type(OpaqueType::Barrier);
    properties.register_type_usage(TF32, TypeUsage::Conversion);
    let features = &mut properties.features;
    features.matmul.ldmatrix.extend([F16, BF16]);
    features.copy_async = true;
    features.memory_reinterpret = true;
    features.alignment = true;
    features.device_memory_scope = true;
    features.plane |= Plane::Sync | Plane::Ops | Plane::NonUniformControlFlow;
    properties
}

fn layouts() -> TargetProperties {
    use cubecl::cmma::MatrixLayout;
    TargetProperties {
        mma: MmaProperties {
            register_size_bits: 32,
            const_plane_size: 32,
            register_layout_a: MatrixLayout::RowMajor,
            register_layout_b: MatrixLayout::ColMajor,
            register_layout_acc: MatrixLayout::RowMajor,
            register_duplication_a: 1,
            register_duplication_b: 1,
            register_duplication_acc: 1,
            contiguous_elements: ContiguousElements::new(contiguous_elements_cuda),
        },
    }
}

//! The operations on each backend: slices or buffers go to the kernels crate, tensors come back.

#[cfg(feature = "flex")]
mod aligned;
mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

use std::fmt;

use burn::tensor::{DType, Device};
use burn_blast_kernels::BlockPattern;
use burn_blast_kernels::cost::DeviceClass;

/// Whether block-sparse products on a device run in the host kernels.
pub fn is_host(device: &Device) -> bool {
    let hosts: &[Device] = &[
        #[cfg(feature = "flex")]
        Device::flex(),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated, reason = "kept for its users as long as Burn ships it")]
        Device::ndarray(),
    ];
    hosts.contains(&device.clone().inner())
}

/// Whether a device has products with 4-bit integers: Burn's Flex.
pub(crate) fn has_int4(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return device.clone().inner() == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// What computes a forward product of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kernel {
    /// The dense product of Burn, on the unpacked weight.
    Dense,
    /// The vector instructions of the host, or its matrix unit for bf16 products that it takes.
    Host,
    /// A CubeCL kernel.
    #[cfg(feature = "cube")]
    Gpu(burn_blast_kernels::cube::Plan),
    /// No CubeCL kernel supports the product, and why.
    #[cfg(feature = "cube")]
    Unsupported(burn_blast_kernels::cube::CubeError),
    /// The device has no block-sparse kernels.
    Unavailable,
}

impl Kernel {
    /// The block-sparse kernel for `rows` rows of a weight with 8-bit integer values, or with values of `dtype`.
    pub(crate) fn sparse(
        device: &Device,
        pattern: &BlockPattern,
        dtype: DType,
        int8: bool,
        rows: usize,
    ) -> Self {
        #[cfg(feature = "cube")]
        if let Some(plan) = cube::plan(device, pattern, dtype, int8, rows) {
            return plan.map_or_else(Self::Unsupported, Self::Gpu);
        }
        #[cfg(not(feature = "cube"))]
        let _ = (pattern, dtype, int8, rows);
        if is_host(device) { Self::Host } else { Self::Unavailable }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => write!(f, "dense product of Burn"),
            Self::Host => write!(f, "vector instructions of the host"),
            #[cfg(feature = "cube")]
            Self::Gpu(plan) => write!(f, "{plan}"),
            #[cfg(feature = "cube")]
            Self::Unsupported(error) => write!(f, "none: {error}"),
            Self::Unavailable => write!(f, "none"),
        }
    }
}

/// What the cost model knows about products of this type on a device.
pub(crate) fn device_class(device: &Device, dtype: DType) -> DeviceClass {
    if is_host(device) {
        return DeviceClass::Host;
    }
    #[cfg(feature = "cube")]
    return cube::device_class(device, dtype);
    #[cfg(not(feature = "cube"))]
    {
        let _ = dtype;
        DeviceClass::Gpu
    }
}

#[cfg(any(feature = "flex", feature = "ndarray"))]
fn refuse_dtype(found: DType) -> ! {
    panic!(
        "block-sparse kernels do not support {found:?} on this backend: cast to F32 (F16 and BF16 where the device has them)"
    )
}

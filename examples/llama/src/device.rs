//! Backends by name, and the device behind each.

use burn::tensor::Device;
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where to compute.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[value(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// CPU, the default.
    Flex,
    /// CPU, through the `ndarray` crate.
    Ndarray,
    /// Any GPU, through WebGPU.
    Wgpu,
    /// Any GPU with Vulkan.
    Vulkan,
    /// Apple GPUs.
    Metal,
    /// NVIDIA GPUs.
    Cuda,
    /// AMD GPUs.
    Rocm,
}

impl Backend {
    /// Its name as flag value and as cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Ndarray => "ndarray",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
        }
    }

    /// Whether it computes on the processor.
    pub fn is_host(self) -> bool {
        matches!(self, Self::Flex | Self::Ndarray)
    }
}

/// Opens the first device of `backend`.
///
/// # Errors
/// If this build does not hold the backend.
pub fn open_device(backend: Backend) -> Result<Device, Error> {
    Ok(match backend {
        #[cfg(feature = "flex")]
        Backend::Flex => Device::flex(),
        #[cfg(feature = "ndarray")]
        #[allow(
            deprecated,
            reason = "kept for users of the ndarray backend as long as Burn ships it"
        )]
        Backend::Ndarray => Device::ndarray(),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => Device::wgpu(DeviceKind::default()),
        #[cfg(feature = "vulkan")]
        Backend::Vulkan => Device::vulkan(DeviceKind::default()),
        #[cfg(feature = "metal")]
        Backend::Metal => Device::metal(DeviceKind::default()),
        #[cfg(feature = "cuda")]
        Backend::Cuda => Device::cuda(0),
        #[cfg(feature = "rocm")]
        Backend::Rocm => Device::rocm(0),
        #[allow(unreachable_patterns, reason = "unreachable only in a build with every backend")]
        missing => return Err(Error::NoBackend { name: missing.name() }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "flex")]
    #[test]
    fn the_default_backend_opens() {
        assert!(open_device(Backend::Flex).is_ok());
    }

    #[cfg(not(feature = "rocm"))]
    #[test]
    fn a_backend_that_is_not_built_in_names_its_feature() {
        let error = open_device(Backend::Rocm).expect_err("not in this build").to_string();
        assert!(error.contains("--features rocm"), "{error}");
    }
}

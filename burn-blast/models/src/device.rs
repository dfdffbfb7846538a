//! Backends by name, and the device of each.

use burn::tensor::Device;
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum), value(rename_all = "lowercase"))]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
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

impl BackendKind {
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

    /// Opens its first device.
    ///
    /// # Errors
    /// If this build does not hold it.
    pub fn open(self) -> Result<Device, Error> {
        Ok(match self {
            #[cfg(feature = "flex")]
            Self::Flex => Device::flex(),
            #[cfg(feature = "ndarray")]
            #[allow(
                deprecated,
                reason = "kept for users of the ndarray backend as long as Burn ships it"
            )]
            Self::Ndarray => Device::ndarray(),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Device::wgpu(DeviceKind::default()),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Device::vulkan(DeviceKind::default()),
            #[cfg(feature = "metal")]
            Self::Metal => Device::metal(DeviceKind::default()),
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::cuda(0),
            #[cfg(feature = "rocm")]
            Self::Rocm => Device::rocm(0),
            #[allow(
                unreachable_patterns,
                reason = "unreachable only in a build with every backend"
            )]
            missing => return Err(Error::NotBuilt(missing.name())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "flex")]
    #[test]
    fn the_default_backend_opens() {
        assert!(BackendKind::Flex.open().is_ok());
    }

    #[cfg(not(feature = "rocm"))]
    #[test]
    fn a_backend_that_is_not_built_in_names_its_feature() {
        let error = BackendKind::Rocm.open().expect_err("not in this build").to_string();
        assert!(error.contains("no rocm backend: add `--features rocm`"), "{error}");
    }
}

//! The device behind each `--backend`.

use anyhow::{Result, bail};
use burn::tensor::Device;
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind;

use crate::cli::Backend;

/// Opens the first device of `backend`.
///
/// # Errors
/// If this build does not hold the backend.
pub fn open(backend: Backend) -> Result<Device> {
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
        missing => bail!(
            "this build has no {name} backend: run it with `cargo run --release -p llama --features {name} -- \
             ... --backend {name}`",
            name = missing.name()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "flex")]
    #[test]
    fn the_default_backend_opens() {
        assert!(open(Backend::Flex).is_ok());
    }

    #[cfg(not(feature = "rocm"))]
    #[test]
    fn a_backend_that_is_not_built_in_names_its_feature() {
        let error = open(Backend::Rocm).expect_err("not in this build").to_string();
        assert!(error.contains("--features rocm"), "{error}");
    }
}

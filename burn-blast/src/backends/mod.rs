//! What each backend hands to the kernels crate: slices or buffers, nothing else.

mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod lines;
#[cfg(feature = "ndarray")]
mod ndarray;

use burn::tensor::{DType, Device};
use burn_blast_kernels::cost::DeviceClass;

/// Whether the host kernels run on a device.
pub(crate) fn is_host(device: &Device) -> bool {
    let hosts: &[Device] = &[
        #[cfg(feature = "flex")]
        Device::flex(),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated, reason = "kept for its users as long as Burn ships it")]
        Device::ndarray(),
    ];
    hosts.contains(&device.clone().inner())
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

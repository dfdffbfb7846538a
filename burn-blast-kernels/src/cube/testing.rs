//! The device that unit tests of launches run on.

use cubecl::Device;
use cubecl::prelude::Client;

/// A client of the adapter of wgpu. Without one, the test of the caller is skipped and says so.
pub(super) fn client() -> Option<Client> {
    let found = !Device::enumerate_all().is_empty();
    let required = std::env::var("BURN_BLAST_REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(found || !required, "BURN_BLAST_REQUIRE_GPU is set, but wgpu found no adapter");
    if !found {
        println!("SKIPPED: wgpu found no adapter");
    }
    found.then(|| Device::Wgpu(Default::default()).client())
}

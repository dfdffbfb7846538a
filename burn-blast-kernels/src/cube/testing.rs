//! The device that unit tests of launches run on.

use cubecl::Device;
use cubecl::prelude::Client;

/// A client of wgpu's adapter, if there is one.
pub fn client() -> Option<Client> {
    let found = !Device::enumerate_all().is_empty();
    let required = std::env::var("BURN_BLAST_REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(found || !required, "BURN_BLAST_REQUIRE_GPU is set, but wgpu found no adapter");
    found.then(|| Device::Wgpu(Default::default()).client())
}

//! The page that times the portable kernels in a browser: one HTML file that needs nothing else.
//!
//! [`kernels`] generates the kernels that the dispatcher plans on a device with WebGPU's default limits, and says how each is
//! launched. `src/page` is the rest: `page.html`, its style, and scripts that follow each other in one.

mod kernels;

use std::io::Write;

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;

pub use self::kernels::{Exported, kernels};

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In the order in which they use each other.
const SCRIPTS: [&str; 9] = [
    include_str!("page/numbers.js"),
    include_str!("page/pattern.js"),
    include_str!("page/gpu.js"),
    include_str!("page/product.js"),
    include_str!("page/check.js"),
    include_str!("page/time.js"),
    include_str!("page/record.js"),
    include_str!("page/show.js"),
    include_str!("page/main.js"),
];

/// The page. The kernels are compressed, since text of this kind shrinks to a quarter.
///
/// # Errors
/// If a kernel cannot be generated.
pub fn page() -> Result<String> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(serde_json::to_string(&kernels()?)?.as_bytes())?;
    let kernels = STANDARD.encode(packed.finish()?);
    let mut page = HTML.to_string();
    for (name, text) in
        [("STYLE", STYLE), ("KERNELS", kernels.as_str()), ("SCRIPTS", &SCRIPTS.join("\n"))]
    {
        let place = format!("/* {name} */");
        ensure!(page.contains(&place), "page.html has no place for {name}");
        page = page.replacen(&place, text.trim_end(), 1);
    }
    Ok(page)
}

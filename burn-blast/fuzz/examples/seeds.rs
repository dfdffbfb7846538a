//! Writes good inputs of every target, for a fuzzer to begin with: `cargo run -p burn-blast-fuzz --example seeds -- DIR`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).expect("name a folder to write to");
    for target in burn_blast_fuzz::TARGETS {
        let below = Path::new(&folder).join(target.name);
        std::fs::create_dir_all(&below)?;
        for (at, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(below.join(format!("seed-{at}")), seed)?;
        }
    }
    Ok(())
}

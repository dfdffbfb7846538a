//! Writes the page.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use burn_blast_checkpoint::atomic::AtomicFile;
use clap::Parser;

/// Writes a page that times block-sparse products beside dense ones in a browser, on any GPU
#[derive(Parser, Debug)]
#[command(name = "blast-page", version)]
struct Args {
    /// File to write; open it in a browser
    #[arg(long, value_name = "FILE", default_value = "docs/src/benchmark.html")]
    out: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

fn main() -> Result<()> {
    let Args { out, force } = Args::parse();
    let name = out.display();
    ensure!(force || !out.exists(), "{name} exists: give another --out, or --force to replace it");
    eprintln!("generating the kernels, which takes half a minute");
    let page = blast_page::page()?;
    let mut file =
        AtomicFile::new(&out, force).with_context(|| format!("cannot write beside {name}"))?;
    let written = file.write_all(page.as_bytes()).and_then(|()| file.finish());
    written.with_context(|| format!("cannot write {name}"))?;
    println!("{name}: {} kB; open it in a browser", page.len() / 1000);
    Ok(())
}

//! Prints the tables of `docs/src/kernel-ladder.md`.

use blast_offline::{OfflineError, Toolkit, decode, ladder};

fn main() -> Result<(), OfflineError> {
    let toolkit = Toolkit::find().ok_or(OfflineError::NoToolkit)?;
    println!("{}", ladder::table(&toolkit)?);
    println!("{}", decode::kernels(&toolkit)?);
    print!("{}", decode::traffic());
    Ok(())
}

//! Prints the table of `docs/src/kernel-ladder.md`.

use blast_offline::{OfflineError, Toolkit, ladder};

fn main() -> Result<(), OfflineError> {
    let toolkit = Toolkit::find().ok_or(OfflineError::NoToolkit)?;
    print!("{}", ladder::table(&toolkit)?);
    Ok(())
}

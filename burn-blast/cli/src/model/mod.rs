//! The commands that work on a model: options in, calls of [`burn_blast_models`], reports out.

mod measure;
mod recover;
mod run;
mod train;

use std::path::Path;

use burn_blast::tuning::{allow_int8, has_integer_dot_products};
use burn_blast_checkpoint::check_apart;
use burn_blast_models::{BackendKind, Model, ModelFolder, Quartiles, Texts};

use crate::args::{ModelArgs, WARNINGS};
use crate::error::Error;
use crate::progress::Progress;

pub use measure::{bench, compact, measure};
pub use recover::recover;
pub use run::{activations, generate, perplexity};
pub use train::{dense, fine_tune, merge, one_shot};

/// Loads a model as the options ask for it.
fn open(
    args: &ModelArgs,
    is_packed: impl FnOnce(&Model) -> bool,
) -> Result<(ModelFolder, Model), Error> {
    let device = args.device.open()?;
    let checkpoint = ModelFolder::open(&args.model)?;
    let mut model = checkpoint.load(&device, args.device.precision())?;
    if args.compact {
        model = model.compact();
    }
    if let Some(integer) = args.integer() {
        model = model.to_integers(integer)?;
    } else if args.device.backend.is_host() && is_packed(&model) {
        model = model.for_host()?;
    }
    if args.int8_products
        && !(args.device.backend == BackendKind::Flex && has_integer_dot_products())
    {
        log::warn!(
            target: WARNINGS,
            "--int8-products changes nothing here: it needs the flex backend, and a processor with AVX512-VNNI and VBMI"
        );
    }
    allow_int8(args.int8_products);
    Ok((checkpoint, model))
}

/// The texts at a path, which `output` must not be in or overwrite. A line names what was left out.
fn texts(path: &Path, output: Option<&Path>, progress: &Progress) -> Result<Texts, Error> {
    // A pipe has no place among other files.
    let is_stored = std::fs::metadata(path).is_ok_and(|data| data.is_dir() || data.is_file());
    if let (Some(output), true) = (output, is_stored) {
        check_apart(path, output)?;
    }
    let texts = Texts::read(path)?;
    if let Some(first) = texts.left_out.first() {
        let (count, first) = (texts.left_out.len(), first.display());
        progress.line(&format!("files of no text that are left out: {count}, such as {first}"));
    }
    Ok(texts)
}

/// A rate with its spread.
fn rate(rate: Quartiles) -> String {
    format!("{:.1} ({:.1} to {:.1})", rate.median, rate.lower, rate.upper)
}

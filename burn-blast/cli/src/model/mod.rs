//! The commands that work on a model: options in, calls of [`burn_blast_models`], reports out.

mod measure;
mod run;
mod train;

use burn_blast_models::{Model, ModelFolder, Quartiles};

use crate::args::ModelArgs;
use crate::error::Error;

pub use measure::{bench, compact, measure};
pub use run::{activations, generate, perplexity};
pub use train::{dense, fine_tune, merge, one_shot};

/// Loads a model as the options ask for it.
fn open(args: &ModelArgs) -> Result<(ModelFolder, Model), Error> {
    let device = args.device.backend.open()?;
    let checkpoint = ModelFolder::open(&args.model)?;
    let mut model = checkpoint.load(&device, args.device.precision())?;
    if args.compact {
        model = model.compact();
    }
    if args.int8 {
        model = burn_blast::module::quantize(model)?;
    }
    Ok((checkpoint, model))
}

/// A rate with its spread.
fn rate(rate: Quartiles) -> String {
    format!("{:.1} ({:.1} to {:.1})", rate.median, rate.lower, rate.upper)
}

//! What compacting takes from a model.

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Device;
use burn_blast_models::{Checkpoint, Form, LayerSizes, Model, Precision};
use comfy_table::{Table, presets::ASCII_MARKDOWN};

use crate::cli::CompactArgs;

/// Compacts a checkpoint, prints what went, and writes the rest if asked to.
pub fn run(args: &CompactArgs) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let model = checkpoint.load(&Device::flex(), Precision::File)?;
    let before = model.clone();
    let model = model.compact();
    println!("{}", table(&before.sizes(), &model.sizes()));
    println!("{}", parameters(&before, &model));
    if let Some(out) = &args.out {
        checkpoint.save(&model, out, if args.dense { Form::Dense } else { Form::Packed })?;
        println!("{} is written", out.display());
    }
    Ok(())
}

/// How many parameters are left.
pub fn parameters(before: &Model, after: &Model) -> String {
    format!("{} parameters, compacted from {}", after.num_params(), before.num_params())
}

fn table(before: &[LayerSizes], after: &[LayerSizes]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["layer", "hidden features", "heads", "heads of keys and values"]);
    for (at, (before, after)) in before.iter().zip(after).enumerate() {
        let left = |before, after| match before == after {
            true => format!("{after}"),
            false => format!("{after} of {before}"),
        };
        table.add_row([
            at.to_string(),
            left(before.hidden, after.hidden),
            left(before.heads, after.heads),
            left(before.kv_heads, after.kv_heads),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_went() {
        let before = LayerSizes { hidden: 96, heads: 8, kv_heads: 4 };
        let after = LayerSizes { hidden: 64, heads: 6, kv_heads: 4 };
        let lines = table(&[before], &[after]).to_string();
        assert!(
            lines.ends_with("| 0     | 64 of 96        | 6 of 8 | 4                        |"),
            "{lines}"
        );
    }
}

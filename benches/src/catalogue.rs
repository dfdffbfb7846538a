//! The problems that can be timed, and the selection of a run.
//!
//! A catalogue is a list of slices; each slice has its own values on every axis. A filter on an axis replaces the
//! slice's values on that axis, so `--block 8` times the default problems in blocks of 8.

use std::collections::HashSet;
use std::fmt::Debug;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::element::Element;
use crate::format;
use crate::record::{Problem, Verb};

/// Rows of an input.
pub const ROWS: [usize; 8] = [1, 4, 16, 64, 256, 1024, 2048, 8192];
/// Percentages of blocks removed.
pub const SPARSITY: [u32; 6] = [0, 50, 70, 80, 90, 95];
/// Block sizes.
pub const BLOCKS: [usize; 5] = [8, 16, 32, 64, 128];

/// Largest number of rows that can be timed with empty caches.
const COLD_ROWS: usize = 16;
/// Largest number of rows timed with empty caches by default: between two uses of a layer in decoding, the rest of the
/// model is read.
const COLD_BY_DEFAULT: usize = 4;

/// The feed-forward block of a published model.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Model {
    /// Names of all models of this size.
    name: &'static str,
    /// Width of the model.
    d_model: usize,
    /// Width of the hidden layer.
    d_ff: usize,
    /// Whether it is gated (SwiGLU).
    gated: bool,
}

/// Models by size of the weight.
const MODELS: [Model; 6] = [
    Model { name: "gpt2-small/bert-base/vit-b", d_model: 768, d_ff: 3072, gated: false },
    Model { name: "vit-h", d_model: 1280, d_ff: 5120, gated: false },
    Model { name: "gpt2-xl", d_model: 1600, d_ff: 6400, gated: false },
    Model { name: "llama-3.2-1b", d_model: 2048, d_ff: 8192, gated: true },
    Model { name: "llama-3.1-8b", d_model: 4096, d_ff: 14336, gated: true },
    Model { name: "llama-3.1-405b", d_model: 16384, d_ff: 53248, gated: true },
];

impl Model {
    /// Whether `text` is part of the name, in upper or lower case.
    fn matches(&self, text: &str) -> bool {
        self.name.contains(&text.to_lowercase())
    }
}

/// Requested values on each axis; an empty axis keeps the values of the catalogue.
#[derive(Args, Debug, Clone, Default)]
pub struct Filter {
    /// Models whose name contains this, such as `llama` or `8b`
    #[arg(long = "model", value_delimiter = ',', value_name = "PART")]
    pub models: Vec<String>,

    /// Products, whole blocks or training steps
    #[arg(long = "verb", value_delimiter = ',', value_enum)]
    pub verbs: Vec<Verb>,

    /// Rows of the input
    #[arg(long, value_delimiter = ',', value_name = "M")]
    pub rows: Vec<usize>,

    /// Percentages of blocks removed
    #[arg(long, value_delimiter = ',', value_name = "PERCENT")]
    pub sparsity: Vec<u32>,

    /// Block sizes
    #[arg(long = "block", value_delimiter = ',', value_name = "SIZE")]
    pub blocks: Vec<usize>,

    /// Storage types [default: f32, on GPUs all]
    #[arg(long = "dtype", value_delimiter = ',', value_enum)]
    pub elements: Vec<Element>,

    /// Only problems timed with empty caches; with `=false`, all problems with full caches
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub cold: Option<bool>,
}

/// The problems of a run without a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Catalogue {
    /// Everything on a processor.
    Host,
    /// Everything on a GPU: in half precision as well.
    Gpu,
    /// A few minutes of work.
    Quick,
}

/// Problems that differ only in their values on the axes.
struct Slice {
    /// Parts of names; empty for every model.
    models: &'static [&'static str],
    verbs: &'static [Verb],
    layer: Layer,
    rows: &'static [usize],
    sparsity: &'static [u32],
    blocks: &'static [usize],
    /// Empty for the types of the catalogue.
    elements: &'static [Element],
}

enum Layer {
    Up,
    Down,
}

const PRUNED: &[u32] = &[50, 80, 90, 95];
const ANY: Slice = Slice {
    models: &[],
    verbs: &[Verb::Forward],
    layer: Layer::Up,
    rows: &ROWS,
    sparsity: PRUNED,
    blocks: &[64],
    elements: &[],
};

/// The whole catalogue: one axis at a time around blocks of 64.
const FULL: [Slice; 6] = [
    Slice { sparsity: &SPARSITY, ..ANY },
    Slice { layer: Layer::Down, rows: &[1, 64, 1024], ..ANY },
    Slice { rows: &[1, 16, 256, 2048], blocks: &[16, 32, 128], ..ANY },
    Slice {
        verbs: &[Verb::InputGradient, Verb::WeightGradient],
        rows: &[256, 2048],
        blocks: &[32, 64, 128],
        ..ANY
    },
    Slice { verbs: &[Verb::GatedMlp], rows: &[1, 16, 256, 2048], ..ANY },
    Slice { verbs: &[Verb::Step], rows: &[256, 2048], blocks: &[32, 64], ..ANY },
];

const ONE_B: Slice = Slice { models: &["llama-3.2-1b"], ..ANY };

/// At most three minutes on two cores, including the checks.
const QUICK: [Slice; 7] = [
    Slice { rows: &[1], sparsity: &SPARSITY, ..ONE_B },
    Slice { rows: &[16, 256], sparsity: &[0], ..ONE_B },
    Slice { rows: &[16, 256, 1024], ..ONE_B },
    Slice { rows: &[1, 256], sparsity: &[90], blocks: &[32, 128], ..ONE_B },
    Slice { rows: &[1], sparsity: &[90], elements: &[Element::Bf16, Element::Int8], ..ONE_B },
    Slice {
        verbs: &[Verb::InputGradient, Verb::WeightGradient, Verb::Step, Verb::GatedMlp],
        rows: &[256],
        sparsity: &[90],
        ..ONE_B
    },
    Slice { models: &["gpt2-small"], rows: &[1, 256, 1024], ..ANY },
];

impl Catalogue {
    fn slices(self) -> &'static [Slice] {
        match self {
            Self::Host | Self::Gpu => &FULL,
            Self::Quick => &QUICK,
        }
    }

    fn elements(self) -> &'static [Element] {
        match self {
            Self::Gpu => Element::value_variants(),
            Self::Host | Self::Quick => &[Element::F32],
        }
    }
}

/// The problems of `catalogue` selected by `filter`.
///
/// # Errors
/// If the filter names a value that the catalogue does not have, or no problem is left.
pub fn problems(catalogue: Catalogue, filter: &Filter) -> Result<Vec<Problem>> {
    filter.check()?;
    let (mut problems, mut seen) = (Vec::new(), HashSet::new());
    for model in MODELS {
        for slice in catalogue.slices() {
            if filter.accepts(&model, slice) {
                let all = slice.problems(&model, catalogue, filter).into_iter();
                problems.extend(all.filter(|problem| seen.insert(format::id(problem))));
            }
        }
    }
    ensure!(
        !problems.is_empty(),
        "no problem of {} matches all filters: gated-mlp needs a gated model ({}), step is timed in f32 only, int8 \
         is fwd only, and only fwd and gated-mlp of at most {COLD_ROWS} rows are timed cold",
        if catalogue == Catalogue::Quick { "the quick catalogue" } else { "the catalogue" },
        names(MODELS.iter().filter(|model| model.gated).map(|model| model.name)),
    );
    Ok(problems)
}

impl Filter {
    /// Reports the first value that the catalogue does not have.
    fn check(&self) -> Result<()> {
        for text in &self.models {
            ensure!(
                MODELS.iter().any(|model| model.matches(text)),
                "no model is called {text:?}; the models are {}",
                names(MODELS.iter().map(|model| model.name))
            );
        }
        known("--rows", &self.rows, &ROWS)?;
        known("--sparsity", &self.sparsity, &SPARSITY)?;
        known("--block", &self.blocks, &BLOCKS)
    }

    fn accepts(&self, model: &Model, slice: &Slice) -> bool {
        match self.models.as_slice() {
            [] => slice.models.is_empty() || slice.models.iter().any(|text| model.matches(text)),
            requested => requested.iter().any(|text| model.matches(text)),
        }
    }
}

impl Slice {
    fn problems(&self, model: &Model, catalogue: Catalogue, filter: &Filter) -> Vec<Problem> {
        let default = if self.elements.is_empty() { catalogue.elements() } else { self.elements };
        let requested = |verb: &Verb| filter.verbs.is_empty() || filter.verbs.contains(verb);
        let possible = |verb: &Verb| model.gated || *verb != Verb::GatedMlp;
        let mut problems = Vec::new();
        for verb in self.verbs.iter().copied().filter(requested).filter(possible) {
            for &element in axis(&filter.elements, default) {
                if element.is_timed(verb) {
                    problems.extend(self.on_axes(&self.base(model, verb, element), filter));
                }
            }
        }
        problems
    }

    /// `base` at every block size, number of rows and sparsity.
    fn on_axes(&self, base: &Problem, filter: &Filter) -> Vec<Problem> {
        let mut problems = Vec::new();
        for &block in axis(&filter.blocks, self.blocks) {
            for &rows in axis(&filter.rows, self.rows) {
                let Some(cold) = cold(base.verb, rows, filter.cold) else { continue };
                let percentages = axis(&filter.sparsity, self.sparsity).iter();
                problems.extend(percentages.map(|&percent| {
                    let sparsity = f64::from(percent) / 100.0;
                    Problem { block, rows, cold, sparsity, ..base.clone() }
                }));
            }
        }
        problems
    }

    fn base(&self, model: &Model, verb: Verb, dtype: Element) -> Problem {
        let (layer, d_input, d_output) = match self.layer {
            _ if verb == Verb::GatedMlp => ("mlp", model.d_model, model.d_ff),
            Layer::Up => ("mlp.up", model.d_model, model.d_ff),
            Layer::Down => ("mlp.down", model.d_ff, model.d_model),
        };
        Problem {
            model: format!("{} {layer}", model.name),
            verb,
            rows: 0,
            d_input,
            d_output,
            block: 0,
            sparsity: 0.0,
            dtype,
            cold: false,
        }
    }
}

fn axis<'a, T>(requested: &'a [T], default: &'a [T]) -> &'a [T] {
    if requested.is_empty() { default } else { requested }
}

/// Whether the caches are emptied; `None` if there is no such problem.
fn cold(verb: Verb, rows: usize, requested: Option<bool>) -> Option<bool> {
    let decodes = matches!(verb, Verb::Forward | Verb::GatedMlp);
    match requested {
        None => Some(decodes && rows <= COLD_BY_DEFAULT),
        Some(true) => (decodes && rows <= COLD_ROWS).then_some(true),
        Some(false) => Some(false),
    }
}

fn known<T: PartialEq + Debug>(flag: &str, requested: &[T], available: &[T]) -> Result<()> {
    match requested.iter().find(|value| !available.contains(value)) {
        Some(value) => bail!("{flag} {value:?} is not in the catalogue, which has {available:?}"),
        None => Ok(()),
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick(filter: Filter) -> Result<Vec<Problem>> {
        problems(Catalogue::Quick, &filter)
    }

    #[test]
    fn no_problem_is_in_a_catalogue_twice() {
        for catalogue in [Catalogue::Host, Catalogue::Gpu, Catalogue::Quick] {
            let all = problems(catalogue, &Filter::default()).unwrap();
            let different: HashSet<String> = all.iter().map(format::id).collect();
            assert_eq!(different.len(), all.len(), "{catalogue:?}");
        }
    }

    #[test]
    fn a_filter_replaces_the_values_of_its_axis() {
        let filter = Filter { blocks: vec![8], elements: vec![Element::F16], ..Filter::default() };
        let all = quick(filter).unwrap();
        assert!(all.iter().all(|problem| problem.block == 8 && problem.dtype == Element::F16));
        assert!(all.iter().any(|problem| problem.rows == 1024));
        assert!(all.iter().all(|problem| problem.verb != Verb::Step), "step is f32 only");
    }

    #[test]
    fn a_model_outside_the_quick_catalogue_can_be_requested() {
        let filter = Filter { models: vec!["8B".to_owned()], ..Filter::default() };
        let all = quick(filter).unwrap();
        assert!(all.iter().all(|problem| problem.model.starts_with("llama-3.1-8b")));
        assert!(all.iter().any(|problem| problem.verb == Verb::GatedMlp));
    }

    #[test]
    fn decoding_is_cold_by_default() {
        let one =
            |cold| Filter { rows: vec![1], verbs: vec![Verb::Forward], cold, ..Filter::default() };
        assert!(quick(one(None)).unwrap().iter().all(|problem| problem.cold));
        assert!(quick(one(Some(false))).unwrap().iter().all(|problem| !problem.cold));
        let many = Filter { rows: vec![256], ..Filter::default() };
        assert!(quick(many).unwrap().iter().all(|problem| !problem.cold));
    }

    #[test]
    fn an_unknown_value_is_answered_with_the_known_ones() {
        let all = Filter::default;
        let models = |name: &str| Filter { models: vec![name.to_owned()], ..all() };
        let cases = [
            (models("gpt5"), ["\"gpt5\"", "llama-3.2-1b"]),
            (Filter { rows: vec![7], ..all() }, ["--rows 7", "8192"]),
            (Filter { blocks: vec![48], ..all() }, ["--block 48", "128"]),
            (Filter { sparsity: vec![33], ..all() }, ["--sparsity 33", "95"]),
            (
                Filter { verbs: vec![Verb::GatedMlp], ..models("vit") },
                ["no problem", "needs a gated model (llama-3.2-1b"],
            ),
            (Filter { rows: vec![256], cold: Some(true), ..all() }, ["no problem", "16 rows"]),
        ];
        for (filter, parts) in cases {
            let message = quick(filter).expect_err("nothing is left").to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}

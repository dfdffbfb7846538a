//! Which problems there are, and which of them a run takes.
//!
//! A plan is a list of slices; each slice has values of its own for every axis. A filter on an axis replaces
//! the slice's values of that axis, so that `--block 8` times what a run takes anyway, in blocks of 8.

use std::collections::HashSet;
use std::fmt::Debug;

use anyhow::{Result, bail, ensure};

use crate::element::Element;
use crate::models::{MODELS, Model};
use crate::record::{Problem, Verb};

/// Every verb.
pub const VERBS: [Verb; 5] =
    [Verb::Forward, Verb::InputGradient, Verb::WeightGradient, Verb::GatedMlp, Verb::Step];
/// Rows of an input.
pub const ROWS: [usize; 8] = [1, 4, 16, 64, 256, 1024, 2048, 8192];
/// Shares of blocks removed, in per cent.
pub const SPARSITY: [u32; 6] = [0, 50, 70, 80, 90, 95];
/// Sides of a block.
pub const BLOCKS: [usize; 5] = [8, 16, 32, 64, 128];

/// Most rows at which a decoding step is also timed with empty caches.
const COLD_ROWS: usize = 16;
/// Most rows timed with empty caches if nobody says otherwise: between two layers of a decoding step the rest
/// of the model has been read.
const COLD_BY_DEFAULT: usize = 4;

/// Values asked for on each axis; an empty axis keeps those of the plan.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Parts of names.
    pub models: Vec<String>,
    /// What is timed.
    pub verbs: Vec<Verb>,
    /// Rows of the input.
    pub rows: Vec<usize>,
    /// Shares of blocks removed, in per cent.
    pub sparsity: Vec<u32>,
    /// Sides of a block.
    pub blocks: Vec<usize>,
    /// Storage types.
    pub elements: Vec<Element>,
    /// Empty caches or full ones.
    pub cold: Option<bool>,
}

/// What a run takes without a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Everything on a processor.
    Host,
    /// Everything on a GPU: in half precision as well.
    Gpu,
    /// A few minutes' worth.
    Quick,
}

/// Problems that differ in nothing but the values on the axes.
struct Slice {
    /// Parts of names; empty for every model.
    models: &'static [&'static str],
    verbs: &'static [Verb],
    layer: Layer,
    rows: &'static [usize],
    sparsity: &'static [u32],
    blocks: &'static [usize],
    /// Empty for the types of the plan.
    elements: &'static [Element],
}

#[derive(Clone, Copy, PartialEq)]
enum Layer {
    Up,
    Down,
    /// The whole gated block.
    Whole,
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
    Slice { verbs: &[Verb::GatedMlp], layer: Layer::Whole, rows: &[1, 16, 256, 2048], ..ANY },
    Slice { verbs: &[Verb::Step], rows: &[256, 2048], blocks: &[32, 64], ..ANY },
];

const ONE_B: &[&str] = &["llama-3.2-1b"];

/// At most three minutes on two cores, the checks included.
const QUICK: [Slice; 8] = [
    Slice { models: ONE_B, rows: &[1], sparsity: &SPARSITY, ..ANY },
    Slice { models: ONE_B, rows: &[16, 256], sparsity: &[0], ..ANY },
    Slice { models: ONE_B, rows: &[16, 256, 1024], ..ANY },
    Slice { models: ONE_B, rows: &[1, 256], sparsity: &[90], blocks: &[32, 128], ..ANY },
    Slice {
        models: ONE_B,
        rows: &[1],
        sparsity: &[90],
        elements: &[Element::Bf16, Element::Int8],
        ..ANY
    },
    Slice {
        models: ONE_B,
        verbs: &[Verb::InputGradient, Verb::WeightGradient, Verb::Step],
        rows: &[256],
        sparsity: &[90],
        ..ANY
    },
    Slice {
        models: ONE_B,
        verbs: &[Verb::GatedMlp],
        layer: Layer::Whole,
        rows: &[256],
        sparsity: &[90],
        ..ANY
    },
    Slice { models: &["gpt2-small"], rows: &[1, 256, 1024], ..ANY },
];

impl Plan {
    fn slices(self) -> &'static [Slice] {
        match self {
            Self::Host | Self::Gpu => &FULL,
            Self::Quick => &QUICK,
        }
    }

    fn elements(self) -> &'static [Element] {
        match self {
            Self::Gpu => &Element::ALL,
            Self::Host | Self::Quick => &[Element::F32],
        }
    }
}

/// The problems of `plan` that `filter` leaves.
///
/// # Errors
/// If the filter names a value that the catalogue does not have, or leaves nothing.
pub fn problems(plan: Plan, filter: &Filter) -> Result<Vec<Problem>> {
    filter.check()?;
    let (mut problems, mut seen) = (Vec::new(), HashSet::new());
    for model in MODELS {
        for slice in plan.slices() {
            if filter.takes(&model, slice) {
                let all = slice.problems(&model, plan, filter).into_iter();
                problems.extend(all.filter(|problem| seen.insert(describe(problem))));
            }
        }
    }
    ensure!(
        !problems.is_empty(),
        "no problem of {} is all of what was asked for: gated-mlp needs a gated model ({}), step is timed in \
         f32 only, int8 is fwd only, and only fwd and gated-mlp of at most {COLD_ROWS} rows are timed cold",
        if plan == Plan::Quick { "the quick catalogue" } else { "the catalogue" },
        names(MODELS.iter().filter(|model| model.gated).map(|model| model.name)),
    );
    Ok(problems)
}

impl Filter {
    /// Names the first value that the catalogue does not have.
    fn check(&self) -> Result<()> {
        for text in &self.models {
            ensure!(
                MODELS.iter().any(|model| model.is(text)),
                "no model is called {text:?}: there are {}",
                names(MODELS.iter().map(|model| model.name))
            );
        }
        known("--rows", &self.rows, &ROWS)?;
        known("--sparsity", &self.sparsity, &SPARSITY)?;
        known("--block", &self.blocks, &BLOCKS)
    }

    fn takes(&self, model: &Model, slice: &Slice) -> bool {
        let named = match self.models.as_slice() {
            [] => slice.models.is_empty() || slice.models.iter().any(|text| model.is(text)),
            asked => asked.iter().any(|text| model.is(text)),
        };
        named && (model.gated || slice.layer != Layer::Whole)
    }
}

impl Slice {
    fn problems(&self, model: &Model, plan: Plan, filter: &Filter) -> Vec<Problem> {
        let default = if self.elements.is_empty() { plan.elements() } else { self.elements };
        let verbs = self.verbs.iter().copied();
        let verbs = verbs.filter(|verb| filter.verbs.is_empty() || filter.verbs.contains(verb));
        let mut problems = Vec::new();
        for verb in verbs {
            for &element in axis(&filter.elements, default) {
                let there = match element {
                    Element::F32 => true,
                    // Training a layer in half precision needs a second copy in full, which neither side has.
                    Element::F16 | Element::Bf16 => verb != Verb::Step,
                    Element::Int8 => verb == Verb::Forward,
                };
                if there {
                    let dtype = element.name().to_owned();
                    let frame = Problem { dtype, ..self.frame(model, verb) };
                    problems.extend(self.sizes(&frame, filter));
                }
            }
        }
        problems
    }

    /// `frame` in every block, with every number of rows, at every sparsity.
    fn sizes(&self, frame: &Problem, filter: &Filter) -> Vec<Problem> {
        let mut problems = Vec::new();
        for &block in axis(&filter.blocks, self.blocks) {
            for &rows in axis(&filter.rows, self.rows) {
                let Some(cold) = cold(frame.verb, rows, filter.cold) else { continue };
                let shares = axis(&filter.sparsity, self.sparsity).iter();
                problems.extend(shares.map(|&share| {
                    let sparsity = f64::from(share) / 100.0;
                    Problem { block, rows, cold, sparsity, ..frame.clone() }
                }));
            }
        }
        problems
    }

    fn frame(&self, model: &Model, verb: Verb) -> Problem {
        let (layer, d_input, d_output) = match self.layer {
            Layer::Up => ("mlp.up", model.d_model, model.d_ff),
            Layer::Down => ("mlp.down", model.d_ff, model.d_model),
            Layer::Whole => ("mlp", model.d_model, model.d_ff),
        };
        Problem {
            model: format!("{} {layer}", model.name),
            verb,
            rows: 0,
            d_input,
            d_output,
            block: 0,
            sparsity: 0.0,
            dtype: String::new(),
            cold: false,
        }
    }
}

fn axis<'a, T>(asked: &'a [T], default: &'a [T]) -> &'a [T] {
    if asked.is_empty() { default } else { asked }
}

/// Whether the caches are emptied; `None` if what was asked for does not exist.
fn cold(verb: Verb, rows: usize, asked: Option<bool>) -> Option<bool> {
    let decodes = matches!(verb, Verb::Forward | Verb::GatedMlp);
    match asked {
        None => Some(decodes && rows <= COLD_BY_DEFAULT),
        Some(true) => (decodes && rows <= COLD_ROWS).then_some(true),
        Some(false) => Some(false),
    }
}

fn known<T: PartialEq + Debug>(flag: &str, asked: &[T], there: &[T]) -> Result<()> {
    match asked.iter().find(|value| !there.contains(value)) {
        Some(value) => bail!("{flag} {value:?} is not in the catalogue: there are {there:?}"),
        None => Ok(()),
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// A verb as it is written on the command line and in tables.
pub fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Forward => "fwd",
        Verb::InputGradient => "dx",
        Verb::WeightGradient => "dw",
        Verb::GatedMlp => "gated-mlp",
        Verb::Step => "step",
    }
}

/// A problem in one line, different for different problems.
pub fn describe(problem: &Problem) -> String {
    let Problem { model, rows, d_input, d_output, block, sparsity, dtype, .. } = problem;
    let cold = if problem.cold { " cold" } else { "" };
    let (verb, sparsity) = (verb_name(problem.verb), (sparsity * 1e4).round() / 1e2);
    format!("{model} {verb} m={rows} {d_input}x{d_output} b={block} {sparsity}% {dtype}{cold}")
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;

//! Which layers share hidden features, and which blocks are therefore selected together.

use super::targets::{LayerTarget, ModelLayer, inside};
use super::{BlastConfig, BlastError, Coupling, Structure};
use crate::window::LayerId;

/// Layers that select their blocks together.
#[derive(Debug)]
pub(super) struct Coupled {
    /// Each layer, with the group of each of its block numbers.
    pub(super) members: Vec<(LayerId, Vec<usize>)>,
    pub(super) groups: usize,
}

impl Coupled {
    pub(super) fn position(&self, layer: LayerId) -> Option<usize> {
        self.members.iter().position(|(member, _)| *member == layer)
    }
}

/// Finds the coupled layers of a model. Layers that are not pruned keep all their blocks and couple nothing.
pub(super) fn find_couplings(
    config: &BlastConfig,
    layers: &[ModelLayer],
    targets: &[LayerTarget],
) -> Result<Vec<Coupled>, BlastError> {
    if config.structure == Structure::Blocks {
        return Ok(Vec::new());
    }
    let mut found: Vec<Coupled> = Vec::new();
    let rules = layers.iter().filter_map(declared).chain(config.couplings.iter().cloned());
    for rule in rules {
        let modules = modules(&rule, layers);
        if modules.is_empty() {
            return Err(BlastError::NothingToCouple { path: rule.path });
        }
        for module in modules {
            let coupled = couple(&rule, &module, targets)?;
            for (at, (layer, _)) in coupled.members.iter().enumerate() {
                let elsewhere = found.iter().any(|coupled| coupled.position(*layer).is_some());
                let target = &targets[layer.0];
                if elsewhere || coupled.position(*layer) != Some(at) {
                    return Err(BlastError::CoupledTwice { layer: target.name.clone() });
                }
                if target.sparsity.is_some_and(|share| config.exceeds_groups(1.0 - share)) {
                    return Err(config.too_few_groups());
                }
            }
            if coupled.members.len() > 1 {
                found.push(coupled);
            }
        }
    }
    match found.is_empty() {
        true => Err(BlastError::NothingToCouple { path: String::new() }),
        false => Ok(found),
    }
}

/// The rule of the module that has a layer, made once per module: at its first layer.
fn declared(layer: &ModelLayer) -> Option<Coupling> {
    let (into, first) = match layer.container.as_str() {
        "Struct:BlockSparseGatedMlp" => (vec!["gate".to_string(), "up".to_string()], "gate"),
        "Struct:BlockSparseMlp" => (vec!["up".to_string()], "up"),
        _ => return None,
    };
    let path = layer.path.strip_suffix(first)?.trim_end_matches('.').to_string();
    Some(Coupling { path, into, out: vec!["down".to_string()], groups: None })
}

/// Paths of the modules that a rule means.
fn modules(rule: &Coupling, layers: &[ModelLayer]) -> Vec<String> {
    let has = |module: &str, name: &String| {
        let path = joined(module, name);
        layers.iter().any(|layer| inside(&layer.path, &path))
    };
    let mut modules: Vec<String> = Vec::new();
    for layer in layers {
        let Some(module) = rule.into.first().and_then(|name| before(&layer.path, name)) else {
            continue;
        };
        let meant = rule.path.is_empty() || inside(module, &rule.path);
        if meant && rule.into.iter().chain(&rule.out).all(|name| has(module, name)) {
            modules.push(module.to_string());
        }
    }
    modules
}

/// The module in which `name` is `path`, or has it inside.
fn before<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
    let mut starts = ends.filter_map(|end| path[..end].strip_suffix(name));
    // What precedes the name is empty or ends with a dot.
    starts.find_map(|module| module.strip_suffix('.').or(module.is_empty().then_some("")))
}

fn joined(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_string() } else { format!("{module}.{name}") }
}

/// A layer of a coupling.
struct Side<'a> {
    target: &'a LayerTarget,
    /// Its inputs are the shared features, not its outputs.
    reads: bool,
}

impl Side<'_> {
    /// Number of shared features.
    fn width(&self) -> usize {
        let shape = self.target.shape;
        if self.reads { shape.rows() } else { shape.cols() }
    }

    /// The group of each block number, in groups of so many features.
    fn groups(&self, features: usize) -> Vec<usize> {
        let (side, cols) =
            (self.target.block.get(), self.target.shape.block_cols(self.target.block));
        let place = |at: usize| if self.reads { at / cols } else { at % cols };
        (0..self.target.blocks()).map(|at| place(at) * side / features).collect()
    }
}

/// The pruned layers of a module that a rule couples.
fn couple(rule: &Coupling, module: &str, targets: &[LayerTarget]) -> Result<Coupled, BlastError> {
    let side = |(name, reads): (&String, bool)| {
        let path = joined(module, name);
        let target = targets.iter().find(|target| inside(&target.name, &path));
        Side { target: target.expect("the module has this layer"), reads }
    };
    let into = rule.into.iter().map(|name| (name, false));
    let names = into.chain(rule.out.iter().map(|name| (name, true)));
    let sides: Vec<Side<'_>> = names.map(side).collect();
    let largest = sides.iter().map(|side| side.target.block.get()).max().unwrap_or(1);
    let mut members = Vec::new();
    for side in &sides {
        let (width, block) = (side.width(), side.target.block.get());
        let features = rule.groups.map_or(largest, |groups| width / groups.max(1));
        let fits = match rule.groups {
            Some(groups) => features * groups == width && features.is_multiple_of(block),
            None => width == sides[0].width(),
        };
        if !fits || features == 0 {
            return Err(BlastError::CouplingDoesNotFit {
                layer: side.target.name.clone(),
                features: width,
                block,
                expected: match rule.groups {
                    Some(groups) => format!("{groups} groups of whole blocks"),
                    None => format!("{} as \"{}\" has", sides[0].width(), sides[0].target.name),
                },
            });
        }
        if side.target.sparsity.is_some() {
            members.push((side.target.layer, side.groups(features)));
        }
    }
    let groups = rule.groups.unwrap_or(sides[0].width().div_ceil(largest));
    Ok(Coupled { members, groups })
}

//! How the optimizer meets a model: every layer gets a number, a name and a target.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::ModuleOptimizer;
use burn::tensor::{DType, Tensor};
use burn_blast_checkpoint::format::{PROBE, VALUES};
use burn_blast_kernels::budget::kept_blocks;
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape, PatternError};

use super::masked::filled_blocks;
use super::structure::find_couplings;
use super::targets::{LayerTarget, ModelLayer, inside, layer_targets};
use super::update::{counts, reads_gradients};
use super::{Blast, BlastConfig, BlastError, BlockOptimizer, Budget, Growth, Score};
use crate::window::{self, LayerId, Stage, View, layer_name};

impl<O: BlockOptimizer> Blast<O> {
    /// Finds the layers of a model and gives each its number and target. Returns the model, whose layers now know their
    /// number, and the optimizer to train it.
    ///
    /// To resume, load the model, attach again, then load the optimizer
    /// ([`io::load_optimizer`](crate::io::load_optimizer)).
    ///
    /// # Errors
    /// If a setting is out of range, a path matches no layer, nothing is left to prune, layers cannot be tied or coupled, a
    /// weight is quantised, or the run has a model already.
    pub fn attach<M: Module>(self, model: M) -> Result<(M, ModuleOptimizer), BlastError> {
        let config = self.run.config.clone();
        config.validate()?;
        if config.score == Score::Fisher && !O::HAS_SECOND_MOMENT {
            return Err(BlastError::Config {
                name: "score",
                found: "Fisher".to_string(),
                expected: "another one around an optimizer that keeps no mean of squared gradients",
            });
        }
        let mut visitor = ListLayers::new(&config);
        model.visit(&mut visitor);
        let ListLayers { layers, error, .. } = visitor;
        error.map_or(Ok(()), Err)?;
        let mut targets = layer_targets(&config, &layers)?;
        let couplings = find_couplings(&config, &layers, &targets)?;
        for (layer, _) in couplings.iter().flat_map(|coupled| &coupled.members) {
            targets[layer.0].coupled = true;
        }
        // The step before adds the probes. Before the first step there is none; a resumed layer has the probe that it
        // was saved with.
        let first = |target: &LayerTarget| match target.selects() {
            true => reads_gradients(&config, target, 1).then_some(true),
            false => Some(false),
        };
        let probes = targets.iter().map(first).collect();
        let counts = targets.iter().zip(&layers).map(|(target, layer)| {
            let pattern = &layer.pattern;
            counts(target, 0, &pattern.into(), pattern)
        });
        if config.growth == Growth::None {
            // What the others keep depends on other layers.
            let alone = |target: &LayerTarget| {
                let ranked = matches!(config.budget, Budget::Global { .. }) && !target.fixed;
                target.selects() && !target.coupled && !ranked
            };
            let own = targets.iter().zip(&layers).filter(|(target, _)| alone(target));
            own.for_each(|(target, layer)| tell_below(target, &layer.pattern));
        }
        self.run.attach(counts.collect(), targets, couplings)?;
        let model = model.map(&mut NumberLayers { next: 0, layers: &layers, probes });
        Ok((model, self.into_optimizer(&layers)))
    }

    /// One optimizer for all parameters, with groups for plain linear weights and probes.
    fn into_optimizer(self, layers: &[ModelLayer]) -> ModuleOptimizer {
        let mut optimizer = ModuleOptimizer::from(self.clone());
        if let Some(clipping) = &self.clipping {
            optimizer = optimizer.with_grad_clipping(clipping.clone());
        }
        for (at, layer) in layers.iter().enumerate() {
            optimizer = if layer.masked {
                let masked = Blast { masked: Some(LayerId(at)), ..self.clone() };
                let group = ParamGroup::from_path(&layer.parameter);
                optimizer.with_group(group, masked, self.clipping.clone())
            } else {
                // Clipping by element would make ties of the norms that growth ranks by.
                let weight = layer.parameter.trim_end_matches(VALUES);
                let probe = ParamGroup::from_path(format!("{weight}{PROBE}"));
                optimizer.with_group(probe, self.clone(), None)
            };
        }
        optimizer
    }
}

/// Warns of a layer that has fewer blocks than it is to keep, and will get none.
fn tell_below(target: &LayerTarget, pattern: &BlockPattern) {
    let Some(sparsity) = target.sparsity else { return };
    let (kept, keep) = (pattern.nnz(), kept_blocks(sparsity, target.blocks()));
    if kept < keep {
        log::warn!(
            "{}: has {kept} blocks, fewer than the {keep} of its target, and without growth it gets no more",
            target.name
        );
    }
}

/// Lists the block-sparse weights of a model, and the plain linear weights that the configuration names.
#[derive(derive_new::new)]
struct ListLayers<'a> {
    config: &'a BlastConfig,
    #[new(default)]
    path: Vec<String>,
    /// For each element of the path, the type of the module that has it.
    #[new(default)]
    containers: Vec<String>,
    #[new(default)]
    layers: Vec<ModelLayer>,
    /// Path of each parameter of these layers.
    #[new(default)]
    seen: HashMap<ParamId, String>,
    /// The first layer that was refused.
    #[new(default)]
    error: Option<BlastError>,
}

impl ListLayers<'_> {
    /// Refuses a layer whose parameter has the identity of another one's.
    fn meet(&mut self, id: ParamId, path: &str) {
        if let Some(first) = self.seen.insert(id, path.to_owned()) {
            let second = path.to_owned();
            self.error.get_or_insert(BlastError::SharedParameter { first, second });
        }
    }
}

impl ModuleVisitor for ListLayers<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_string());
        self.containers.push(container_type.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let parameter = self.path.join(".");
        // A plain layer is one name before its weight, a packed layer two before its values.
        let container = |above: usize| {
            let at = self.containers.len().checked_sub(above + 1);
            at.map_or_else(String::new, |at| self.containers[at].clone())
        };
        let quantized = || matches!(param.val().dtype(), DType::QFloat(_));
        match window::view() {
            Some(View { stage: Stage::Values, pattern, .. }) => {
                let path = layer_name(&parameter, "weight.values");
                let (container, quantized) = (container(2), quantized());
                let masked = false;
                self.meet(param.id, &path);
                let layer = ModelLayer { path, parameter, container, pattern, masked, quantized };
                self.layers.push(layer);
            }
            Some(_) => {}
            None if D == 2 && container(0) == "Struct:Linear" => {
                let mut rules = self.config.linear.iter().rev();
                let Some(rule) = rules.find(|rule| inside(&parameter, &rule.path)) else { return };
                let path = layer_name(&parameter, "weight");
                let weight = param.val();
                let [rows, cols] = [weight.dims()[0], weight.dims()[1]];
                match plain_pattern(&weight.reshape([rows, cols]), rule.block_size) {
                    Ok(pattern) => {
                        let (container, quantized, masked) = (container(1), quantized(), true);
                        self.meet(param.id, &path);
                        let layer =
                            ModelLayer { path, parameter, container, pattern, masked, quantized };
                        self.layers.push(layer);
                    }
                    Err(error) => {
                        self.error.get_or_insert(error.into());
                    }
                }
            }
            None => {}
        }
    }
}

/// The pattern of the blocks that a plain linear weight has at the start.
fn plain_pattern(weight: &Tensor<2>, block: usize) -> Result<BlockPattern, PatternError> {
    let [rows, cols] = weight.dims();
    let (shape, block) = (MatrixShape::new(rows, cols)?, BlockSize::new(block)?);
    let filled = filled_blocks(weight, shape, block);
    Ok(filled
        .map_or_else(|| BlockPattern::dense(shape, block), |mask| BlockPattern::from_mask(&mask)))
}

/// Gives each block-sparse weight its number.
struct NumberLayers<'a> {
    next: usize,
    layers: &'a [ModelLayer],
    /// Whether each layer has a probe in the first step; `None` leaves it as it is.
    probes: Vec<Option<bool>>,
}

impl ModuleMapper for NumberLayers<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if window::values().is_some() {
            while self.layers[self.next].masked {
                self.next += 1;
            }
            window::request(|request| {
                request.layer = Some(LayerId(self.next));
                request.probe = self.probes[self.next];
            });
            self.next += 1;
        }
        param
    }
}

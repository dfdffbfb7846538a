//! How the optimizer meets a model: every layer gets a number, a name and a target.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamGroup};
use burn::optim::ModuleOptimizer;
use burn::tensor::{DType, Tensor};
use burn_blast_checkpoint::format::VALUES;
use burn_blast_kernels::budget::erdos_renyi;
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};

use super::shared::LayerPlan;
use super::update::counts;
use super::{Blast, BlastConfig, BlastError, BlockOptimizer, Budget, Growth};
use crate::window::{self, Stage, View, layer_name};

/// A layer found in the model.
struct Found {
    /// What a user calls it.
    path: String,
    /// Path of its weight, or of its values.
    parameter: String,
    shape: MatrixShape,
    block: BlockSize,
    pattern: BlockPattern,
    /// A plain linear weight, pruned in place.
    masked: bool,
    quantized: bool,
}

impl<O: BlockOptimizer> Blast<O> {
    /// Finds the layers of a model, gives each its target, and returns the model, whose layers now know
    /// their number, with the optimizer to train it.
    ///
    /// To resume, load the model, attach again, then load the optimizer
    /// ([`io::load_optimizer`](crate::io::load_optimizer)).
    ///
    /// # Errors
    /// If a setting is out of range, a path matches no layer, or nothing is left to prune.
    pub fn attach<M: Module>(self, model: M) -> Result<(M, ModuleOptimizer), BlastError> {
        let config = self.shared.config.clone();
        config.validate()?;
        let mut finder = Finder {
            config: &config,
            path: Vec::new(),
            linear: Vec::new(),
            found: Vec::new(),
            error: None,
        };
        model.visit(&mut finder);
        if let Some(error) = finder.error {
            return Err(error);
        }
        let found = finder.found;
        let plans = plan(&config, &found)?;
        let ranks = plans.iter().map(LayerPlan::ranks).collect();
        {
            let mut state = self.shared.lock();
            if !state.plans.is_empty() {
                return Err(BlastError::AlreadyAttached);
            }
            state.layers = plans
                .iter()
                .zip(&found)
                .map(|(plan, found)| counts(plan, 0, &(&found.pattern).into(), &found.pattern))
                .collect();
            state.plans = plans;
        }
        // The step before an update arms it; before the first step there is none.
        let first = config.growth == Growth::Gradient && config.is_update(1);
        let model = model.map(&mut Numberer { next: 0, found: &found, ranks, first });
        let mut optimizer = ModuleOptimizer::from(self.clone());
        if let Some(clipping) = &self.clipping {
            optimizer = optimizer.with_grad_clipping(clipping.clone());
        }
        for (layer, found) in found.iter().enumerate() {
            optimizer = if found.masked {
                let masked = Blast { masked: Some(layer), ..self.clone() };
                let group = ParamGroup::from_path(&found.parameter);
                optimizer.with_group(group, masked, self.clipping.clone())
            } else {
                // Clipping elements would make ties of the norms that growth ranks by.
                let weight = found.parameter.trim_end_matches(VALUES);
                let probe = ParamGroup::from_path(format!("{weight}probe"));
                optimizer.with_group(probe, self.clone(), None)
            };
        }
        Ok((model, optimizer))
    }
}

/// Whether `path` is `filter` or lies inside it.
fn inside(path: &str, filter: &str) -> bool {
    path.strip_prefix(filter).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn plan(config: &BlastConfig, found: &[Found]) -> Result<Vec<LayerPlan>, BlastError> {
    if found.is_empty() {
        return Err(BlastError::NothingToPrune);
    }
    let rules = config.layers.iter().map(|rule| &rule.path);
    let linear = config.linear.iter().map(|rule| &rule.path);
    for filter in config.dense.iter().chain(rules).chain(linear).chain(&config.tied) {
        if !found.iter().any(|layer| inside(&layer.path, filter)) {
            let layers: Vec<&str> = found.iter().map(|layer| layer.path.as_str()).collect();
            return Err(BlastError::FilterMatchesNothing {
                filter: filter.clone(),
                layers: layers.join(", "),
            });
        }
    }
    let first_exempt = found.len().saturating_sub(config.dense_last);
    let exempt = |at: usize| {
        at >= first_exempt || config.dense.iter().any(|filter| inside(&found[at].path, filter))
    };
    let pruned: Vec<usize> = (0..found.len()).filter(|&at| !exempt(at)).collect();
    if pruned.is_empty() {
        return Err(BlastError::AllDense);
    }
    if let Some(&at) = pruned.iter().find(|&&at| found[at].quantized) {
        return Err(BlastError::Quantized { layer: found[at].path.clone() });
    }
    let grids: Vec<(usize, usize)> = pruned
        .iter()
        .map(|&at| (found[at].pattern.block_rows(), found[at].pattern.block_cols()))
        .collect();
    let shares = match config.budget {
        Budget::ErdosRenyi => erdos_renyi(&grids, 1.0 - config.sparsity),
        Budget::Uniform | Budget::Global { .. } => vec![1.0 - config.sparsity; grids.len()],
    };
    let plan = |layer: &Found| LayerPlan {
        name: layer.path.clone(),
        shape: layer.shape,
        block: layer.block,
        target: None,
        fixed: false,
        masked: layer.masked,
        leader: None,
    };
    let mut plans: Vec<LayerPlan> = found.iter().map(plan).collect();
    for (&at, density) in pruned.iter().zip(shares) {
        let own = config.layers.iter().rev().find(|rule| inside(&found[at].path, &rule.path));
        plans[at].fixed = own.is_some();
        plans[at].target = Some(own.map_or(1.0 - density, |rule| rule.sparsity));
    }
    tie(config, &mut plans)?;
    Ok(plans)
}

/// Gives layers a leader: the first one of the same shape in the same module.
fn tie(config: &BlastConfig, plans: &mut [LayerPlan]) -> Result<(), BlastError> {
    let parent = |plan: &LayerPlan| plan.name.rsplit_once('.').map(|(parent, _)| parent.to_owned());
    let tied = |plan: &LayerPlan, filter: &str| {
        plan.target.is_some() && !plan.masked && inside(&plan.name, filter)
    };
    for filter in &config.tied {
        let members: Vec<usize> = (0..plans.len()).filter(|&at| tied(&plans[at], filter)).collect();
        let mut found = false;
        for &at in &members {
            let same = |other: &LayerPlan| {
                let grid = |plan: &LayerPlan| (parent(plan), plan.shape, plan.block);
                other.leader.is_none() && grid(other) == grid(&plans[at])
            };
            let leader = members.iter().copied().find(|&first| first < at && same(&plans[first]));
            if let Some(leader) = leader {
                plans[at].leader = Some(leader);
                plans[at].target = plans[leader].target;
                found = true;
            }
        }
        if !found {
            return Err(BlastError::NothingToTie { filter: filter.clone() });
        }
    }
    Ok(())
}

/// Collects block-sparse weights, and the plain linear weights the configuration names.
struct Finder<'a> {
    config: &'a BlastConfig,
    path: Vec<String>,
    /// For each open module, whether it is an `nn::Linear`.
    linear: Vec<bool>,
    found: Vec<Found>,
    error: Option<BlastError>,
}

impl Finder<'_> {
    fn linear_rule(&self, path: &str) -> Option<usize> {
        let rule = self.config.linear.iter().rev().find(|rule| inside(path, &rule.path))?;
        Some(rule.block_size)
    }

    fn add_linear(
        &mut self,
        parameter: String,
        dims: &[usize],
        block: usize,
        quantized: bool,
    ) -> Result<(), BlastError> {
        let path = layer_name(&parameter, "weight");
        let shape = MatrixShape::new(dims[0], dims[1])?;
        let block = BlockSize::new(block)?;
        let pattern = BlockPattern::dense(shape, block);
        self.found.push(Found { path, parameter, shape, block, pattern, masked: true, quantized });
        Ok(())
    }
}

impl ModuleVisitor for Finder<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_string());
        self.linear.push(container_type == "Struct:Linear");
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.linear.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let quantized = || matches!(param.val().dtype(), DType::QFloat(_));
        match window::view() {
            Some(View { stage: Stage::Values, pattern, .. }) => {
                let (shape, block) = (pattern.shape(), pattern.block());
                let (name, parameter) = (layer_name(&path, "weight.values"), path);
                let quantized = quantized();
                self.found.push(Found {
                    path: name,
                    parameter,
                    shape,
                    block,
                    pattern,
                    masked: false,
                    quantized,
                });
            }
            Some(_) => {}
            None if D == 2 && self.linear.last() == Some(&true) => {
                if let Some(block) = self.linear_rule(&path)
                    && let Err(error) =
                        self.add_linear(path, &param.base().dims(), block, quantized())
                {
                    self.error.get_or_insert(error);
                }
            }
            None => {}
        }
    }
}

/// Tells each block-sparse weight its number.
struct Numberer<'a> {
    next: usize,
    found: &'a [Found],
    /// Whether a layer ranks blocks of its own.
    ranks: Vec<bool>,
    /// Whether the first step is an update.
    first: bool,
}

impl ModuleMapper for Numberer<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if window::values().is_some() {
            while self.found[self.next].masked {
                self.next += 1;
            }
            window::update(|update| {
                update.layer = Some(self.next);
                // A resumed layer has the probe that it was saved with.
                if !self.ranks[self.next] || self.first {
                    update.probe = Some(self.ranks[self.next]);
                }
            });
            self.next += 1;
        }
        param
    }
}

//! How the optimizer meets a model: every layer gets a number, a name and a target.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamGroup};
use burn::optim::ModuleOptimizer;
use burn::tensor::Tensor;
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};

use super::budget::erdos_renyi;
use super::shared::LayerPlan;
use super::update::counts;
use super::{Blast, BlastConfig, BlastError, BlockOptimizer, Budget};
use crate::window;

/// A layer found in the model.
struct Found {
    path: String,
    shape: MatrixShape,
    block: BlockSize,
    pattern: BlockPattern,
    /// A plain linear weight, pruned in place.
    masked: bool,
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
        {
            let mut state = self.shared.lock();
            state.layers = plans
                .iter()
                .zip(&found)
                .map(|(plan, found)| counts(plan, 0, &(&found.pattern).into(), &found.pattern))
                .collect();
            state.plans = plans;
        }
        let model = model.map(&mut Numberer { next: 0, found: &found });
        let mut optimizer = ModuleOptimizer::from(self.clone());
        for (layer, found) in found.iter().enumerate().filter(|(_, found)| found.masked) {
            let group = ParamGroup::from_path(&found.path);
            let masked = Blast { masked: Some(layer), ..self.clone() };
            optimizer = optimizer.with_group(group, masked, None);
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
    for filter in config.dense.iter().chain(rules).chain(linear) {
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
    let grids: Vec<(usize, usize)> = pruned
        .iter()
        .map(|&at| (found[at].pattern.block_rows(), found[at].pattern.block_cols()))
        .collect();
    let shares = match config.budget {
        Budget::ErdosRenyi => erdos_renyi(&grids, 1.0 - config.sparsity),
        Budget::Uniform | Budget::Global { .. } => vec![1.0 - config.sparsity; grids.len()],
    };
    let mut targets = vec![None; found.len()];
    for (&at, density) in pruned.iter().zip(shares) {
        let own = config.layers.iter().rev().find(|rule| inside(&found[at].path, &rule.path));
        targets[at] = Some(own.map_or(1.0 - density, |rule| rule.sparsity));
    }
    let plan = |(layer, target): (&Found, Option<f64>)| LayerPlan {
        name: layer.path.clone(),
        shape: layer.shape,
        block: layer.block,
        target,
    };
    Ok(found.iter().zip(targets).map(plan).collect())
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

    fn add_linear(&mut self, path: String, dims: &[usize], block: usize) -> Result<(), BlastError> {
        let shape = MatrixShape::new(dims[0], dims[1])?;
        let block = BlockSize::new(block)?;
        let pattern = BlockPattern::dense(shape, block);
        self.found.push(Found { path, shape, block, pattern, masked: true });
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
        let values = |window: &mut window::Window| {
            (window.stage == window::Stage::Values).then(|| window.pattern.clone())
        };
        match window::with(values) {
            Some(Some(pattern)) => {
                // The layer is what a user knows, not the tensor inside it.
                let path = path.strip_suffix(".weight.values").unwrap_or(&path).to_string();
                let (shape, block) = (pattern.shape(), pattern.block());
                self.found.push(Found { path, shape, block, pattern, masked: false });
            }
            Some(None) => {}
            None if D == 2 && self.linear.last() == Some(&true) => {
                if let Some(block) = self.linear_rule(&path)
                    && let Err(error) = self.add_linear(path, &param.lazy_shape(), block)
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
}

impl ModuleMapper for Numberer<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        window::with(|window| {
            if window.stage == window::Stage::Values {
                while self.found[self.next].masked {
                    self.next += 1;
                }
                window.changes.layer = Some(self.next);
                self.next += 1;
            }
        });
        param
    }
}

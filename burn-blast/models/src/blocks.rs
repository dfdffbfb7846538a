//! The linear layers of a model by what they are for, and making them block-sparse.

use burn::module::Module;
use burn_blast::module::{AnyLinear, BlockSparseLinear, BlockSparseWeight};
use burn_blast::prune::{BlastConfig, Coupling, Structure};
use burn_blast::{BlockPattern, BlockSize, MatrixShape};
use burn_blast_kernels::budget::kept_blocks;
use serde::{Deserialize, Serialize};

use crate::{Error, Model};

/// What a linear layer of a model is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Queries, keys, values, and the layer after the heads.
    Attention,
    /// The feed-forward blocks.
    Mlp,
    /// The output layer, which is in no layer of the model.
    Head,
}

impl Role {
    fn of(name: &str) -> Self {
        match (layer_of(name), name.contains(".mlp.")) {
            (None, _) => Self::Head,
            (_, true) => Self::Mlp,
            (_, false) => Self::Attention,
        }
    }
}

/// Number of the layer that a linear layer of this name is in; none for the output layer.
fn layer_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// Which blocks of a model are removed.
#[derive(burn::config::Config, Debug, PartialEq)]
pub struct Blocks {
    /// Side of a block.
    pub block: usize,
    /// Share of blocks that is removed.
    #[config(default = 0.9)]
    pub sparsity: f64,
    /// Last layers, which are left dense.
    #[config(default = 0)]
    pub dense_last: usize,
    /// The linear layers that lose blocks.
    #[config(default = "vec![Role::Mlp]")]
    pub roles: Vec<Role>,
}

impl Blocks {
    /// Checks what no type does.
    ///
    /// # Errors
    /// If the block size is not supported, or the sparsity not at least 0 and below 1.
    pub fn check(&self) -> Result<(), Error> {
        BlockSize::new(self.block)?;
        let fits = (0.0..1.0).contains(&self.sparsity);
        Error::in_range("sparsity", self.sparsity, fits, "at least 0 and below 1")
    }
}

impl Model {
    /// Every linear layer with its name in the checkpoint, to read or to replace.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut AnyLinear)> {
        self.family_mut().linears_mut()
    }

    /// The linear layers of some roles, without those in the last `dense_last` layers of the model.
    pub fn roles_mut(
        &mut self,
        roles: &[Role],
        dense_last: usize,
    ) -> Vec<(String, &mut AnyLinear)> {
        let layers = self.layers().saturating_sub(dense_last);
        let mut all = self.linears_mut();
        all.retain(|(name, _)| {
            roles.contains(&Role::of(name)) && layer_of(name).is_none_or(|layer| layer < layers)
        });
        all
    }

    /// The linear layers of the MLPs, without the last `dense_last` layers of the model.
    pub fn mlps_mut(&mut self, dense_last: usize) -> Vec<(String, &mut AnyLinear)> {
        self.roles_mut(&[Role::Mlp], dense_last)
    }

    /// Starts layers sparse: each keeps its share of random blocks, at least one, spread evenly. Their values are scaled so
    /// that outputs keep their scale with fewer inputs.
    ///
    /// # Errors
    /// If there are no such layers, one is not dense, or the block size is not supported.
    pub fn start_sparse(&mut self, blocks: &Blocks, seed: u64) -> Result<(), Error> {
        let block = BlockSize::new(blocks.block)?;
        let layers = self.chosen(&blocks.roles, blocks.dense_last)?;
        let is_dense = |layer: &AnyLinear| matches!(layer, AnyLinear::Dense(_));
        if let Some((name, _)) = layers.iter().find(|(_, layer)| !is_dense(layer)) {
            return Err(Error::NotDense(name.clone()));
        }
        for (at, (_, linear)) in layers.into_iter().enumerate() {
            let AnyLinear::Dense(dense) = linear else { continue };
            let weight = dense.weight.val();
            let [rows, cols] = weight.dims();
            let shape = MatrixShape::new(rows, cols)?;
            let grid = shape.block_rows(block) * shape.block_cols(block);
            let density = kept_blocks(blocks.sparsity, grid) as f64 / grid as f64;
            let seed = seed.wrapping_add(at as u64);
            let pattern = BlockPattern::random_balanced(shape, block, density, seed);
            let scale = pattern.density().sqrt().recip();
            let weight = BlockSparseWeight::from_dense(weight.mul_scalar(scale), pattern);
            *linear = AnyLinear::Sparse(BlockSparseLinear::new(weight, dense.bias.clone()));
        }
        Ok(())
    }

    /// Makes layers block-sparse. All blocks that hold anything are kept; pruning removes them later.
    ///
    /// # Errors
    /// If there are no such layers, one has blocks of another size already, or the block size is not supported.
    pub fn pack(&mut self, blocks: &Blocks) -> Result<(), Error> {
        for (name, linear) in self.chosen(&blocks.roles, blocks.dense_last)? {
            let found = linear.block_size().unwrap_or(blocks.block);
            if found != blocks.block {
                return Err(Error::OtherBlocks { name, found, asked: blocks.block });
            }
            linear.pack(blocks.block)?;
        }
        Ok(())
    }

    /// The linear layers of some roles, without those in the last `dense_last` layers of the model.
    ///
    /// # Errors
    /// If there are none of a role.
    fn chosen(
        &mut self,
        roles: &[Role],
        dense_last: usize,
    ) -> Result<Vec<(String, &mut AnyLinear)>, Error> {
        if roles.is_empty() {
            return Err(Error::setting("roles", "empty", "at least one"));
        }
        let layers = self.layers();
        if dense_last >= layers && roles.iter().any(|role| *role != Role::Head) {
            let expected = format!("below the number of layers, {layers}");
            return Err(Error::setting("dense-last", dense_last, &expected));
        }
        if roles.contains(&Role::Head) && self.family().head().is_none() {
            return Err(Error::TiedHead);
        }
        Ok(self.roles_mut(roles, dense_last))
    }

    /// Names of the weights of the MLPs, without the last `dense_last` layers.
    ///
    /// # Errors
    /// If there are none.
    pub fn mlp_names(&mut self, dense_last: usize) -> Result<Vec<String>, Error> {
        let mlps = self.chosen(&[Role::Mlp], dense_last)?;
        Ok(mlps.into_iter().map(|(name, _)| name).collect())
    }

    /// Which blocks of the MLPs are removed so far, if some of them are block-sparse.
    pub fn mlp_blocks(&mut self, dense_last: usize) -> Option<Blocks> {
        let block = self.mlps_mut(dense_last).iter().find_map(|(_, linear)| linear.block_size())?;
        let sparsity = self.mlp_sparsity(dense_last);
        Some(Blocks::new(block).with_sparsity(sparsity).with_dense_last(dense_last))
    }

    /// The model with everything frozen but the linear layers of the MLPs.
    pub(crate) fn only_mlps_trained(self) -> Self {
        let mut model = self.set_require_grad(false);
        for (_, linear) in model.mlps_mut(0) {
            *linear = linear.clone().set_require_grad(true);
        }
        model
    }

    /// Paths in the module of the block-sparse layers that are not to lose blocks. Given to
    /// [`BlastConfig::dense`](burn_blast::prune::BlastConfig), they are not pruned.
    pub fn outside(&mut self, blocks: &Blocks) -> Vec<String> {
        let variant = self.variant();
        let chosen = self.roles_mut(&blocks.roles, blocks.dense_last);
        let chosen: Vec<String> = chosen.into_iter().map(|(name, _)| name).collect();
        let sparse =
            self.linears_mut().into_iter().filter(|(_, linear)| linear.block_size().is_some());
        let others = sparse.filter(|(name, _)| !chosen.contains(name));
        others.map(|(name, _)| format!("{variant}.{name}")).collect()
    }

    /// Has the layers of each MLP select their blocks by a structure, which couples the layers that share hidden
    /// features.
    pub fn couple(&self, blast: BlastConfig, structure: Structure) -> BlastConfig {
        if structure == Structure::Blocks {
            return blast;
        }
        let (into, out) = self.family().mlp_layers();
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let (path, into, out) = (String::new(), names(into), names(&[out]));
        let coupling = Coupling { path, into, out, groups: None };
        blast.with_structure(structure).with_couplings(vec![coupling])
    }
}

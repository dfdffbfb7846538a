//! The kernel as a definition, for `mma::catalogue`.

use cubecl::prelude::*;

use super::base::{Blueprint, rows};
use super::kernel::gated_mma_kernel::GatedMmaKernel;
use crate::Activation;
use crate::BlockSize;
use crate::cube::mma::catalogue::{Target, buffer};
use crate::cube::sizes::SizesCompilationArg;

/// One kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cube::mma) struct Gated {
    pub plan: Blueprint,
    pub activation: Activation,
    pub backward: bool,
}

impl Gated {
    /// Gate and up of every tile, with one pattern and with two, forward and backward. Without copies that run
    /// ahead they end as with them, so one activation stands for all.
    pub fn all(block: BlockSize, pipelined: bool) -> impl Iterator<Item = Self> {
        let activations = [Activation::Silu, Activation::Gelu, Activation::Relu];
        let choices = activations
            .into_iter()
            .filter(move |&f| pipelined || f == Activation::Silu)
            .flat_map(|f| [(f, false, false), (f, false, true), (f, true, false), (f, true, true)]);
        choices.flat_map(move |(activation, joint, backward)| {
            rows(block).map(move |rows| {
                let plan = Blueprint::new(block, joint, rows, pipelined);
                Self { plan, activation, backward }
            })
        })
    }

    pub fn define(self, settings: KernelSettings, target: &Target) -> KernelDefinition {
        let gradients = if self.backward {
            ComptimeOptionCompilationArg::Some((buffer(), buffer()))
        } else {
            ComptimeOptionCompilationArg::None
        };
        let kernel = GatedMmaKernel::new(
            settings,
            target.properties.clone(),
            target.layouts.clone(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            gradients,
            SizesCompilationArg { m: (), k: (), n: () },
            (),
            self.plan,
            self.activation,
            target.dtype,
        );
        kernel.define()
    }
}

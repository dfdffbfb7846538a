//! Which kernels a product may run on, best first by what is known without measuring.

use super::base::{self, Blueprint};
use crate::BlockSize;
use crate::cube::mma::offer::{Class, Offer};
use crate::cube::{cmma, mma};

/// One way to compute a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Unit(Blueprint),
    Mma(mma::spmm::base::Blueprint),
    Cmma(cmma::base::Product),
}

impl Plan {
    /// Rows of the output tile, by which the plans for one product differ.
    #[cfg(any(feature = "autotune", test))]
    pub fn rows(&self) -> usize {
        match self {
            Self::Unit(tile) => tile.rows,
            Self::Mma(plan) => plan.tile.rows,
            Self::Cmma(plan) => plan.tile.rows,
        }
    }

    /// Name of the class of kernel.
    #[cfg(feature = "autotune")]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Unit(_) => "unit",
            Self::Mma(plan) if plan.tile.pipelined => "mma, copies ahead",
            Self::Mma(_) => "mma",
            Self::Cmma(plan) if plan.tile.matrix.is_tf32() => "cmma, tf32",
            Self::Cmma(_) => "cmma",
        }
    }
}

/// The plans for `m` rows and `lines` lines of blocks, of one class: the one that is taken without tuning, then
/// those of other heights, tallest first. Never empty.
pub(super) fn plans(
    offer: &Offer,
    class: Class,
    block: BlockSize,
    transposed: bool,
    [m, lines]: [usize; 2],
    max_units: usize,
) -> Vec<Plan> {
    let found: Vec<Plan> = match class {
        Class::Mma { pipelined } => {
            mma::spmm::candidates(offer, block, transposed, m, lines, pipelined)
                .into_iter()
                .map(Plan::Mma)
                .collect()
        }
        Class::Cmma(matrix) => {
            let plans = cmma::base::candidates(offer, matrix, block, transposed, [m, lines]);
            plans.into_iter().map(Plan::Cmma).collect()
        }
        Class::Unit => Vec::new(),
    };
    if !found.is_empty() {
        return found;
    }
    let tile = base::select(block, transposed, m, max_units);
    [Some(tile), base::shorter(tile)].into_iter().flatten().map(Plan::Unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::cmma::base::tests::{F16_BY_8, TF32};
    use crate::cube::mma::offer::tests::{AMPERE, AMPERE_F32, APPLE};

    #[test]
    fn one_class_at_several_heights_the_usual_one_first() {
        let mma = Class::Mma { pipelined: true };
        let small = Offer { shared_bytes: 16_384, ..AMPERE };
        let table = [
            ("mma, many rows", AMPERE, mma, 64, 8192, vec![256, 128, 64]),
            ("mma, few rows", AMPERE, mma, 64, 40, vec![64, 256, 128]),
            ("mma, 129 rows", AMPERE, mma, 64, 129, vec![256, 128, 64]),
            ("too little shared memory", small, mma, 64, 8192, vec![64, 32]),
            ("cmma", APPLE, Class::Cmma(F16_BY_8), 32, 8192, vec![128, 64]),
            ("cmma in f32", AMPERE_F32, Class::Cmma(TF32), 64, 8192, vec![128, 64]),
            ("unit", APPLE, Class::Unit, 16, 8192, vec![128, 64]),
            ("unit, few rows", APPLE, Class::Unit, 64, 3, vec![16]),
        ];
        for (name, offer, class, block, m, want) in table {
            let block = BlockSize::new(block).unwrap();
            let plans = plans(&offer, class, block, false, [m, 512], 256);
            let rows: Vec<usize> = plans.iter().map(Plan::rows).collect();
            assert_eq!(rows, want, "{name}");
        }
    }

    #[cfg(feature = "autotune")]
    #[test]
    fn the_tuner_knows_f32_in_tf32_from_f32() {
        let name = |offer, class| {
            let block = BlockSize::new(64).unwrap();
            plans(&offer, class, block, false, [8192, 512], 256)[0].class()
        };
        assert_eq!(name(AMPERE_F32, Class::Unit), "unit");
        assert_eq!(name(AMPERE_F32, Class::Cmma(TF32)), "cmma, tf32");
        assert_eq!(name(APPLE, Class::Cmma(F16_BY_8)), "cmma");
    }
}

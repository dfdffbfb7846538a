//! Tiles: the part of a product that one cube computes, its numbers and its device code.

use super::caps::Caps;

pub(super) mod cmma;
pub(super) mod mma;
pub(super) mod unit;

/// Fewest cubes per multiprocessor for which a tall tile is taken. Below, a shorter one keeps more of the device busy.
/// Guess; to be measured.
const MIN_CUBES_PER_UNIT: usize = 2;

/// Orders blueprints for `m` rows and `block_cols` block columns of output, given tallest first. First the tallest that
/// `m` fills more than half and that leaves enough cubes, otherwise the shortest; then the others.
pub(super) fn best_first<B>(
    mut blueprints: Vec<B>,
    rows: impl Fn(&B) -> usize,
    caps: &Caps,
    [m, block_cols]: [usize; 2],
) -> Vec<B> {
    let least = MIN_CUBES_PER_UNIT * caps.compute_units.unwrap_or(1);
    let suits = |blueprint: &B| {
        let rows = rows(blueprint);
        m > rows / 2 && m.div_ceil(rows) * block_cols >= least
    };
    if let Some(shortest) = blueprints.len().checked_sub(1) {
        let best = blueprints.iter().position(suits).unwrap_or(shortest);
        blueprints[..=best].rotate_right(1);
    }
    blueprints
}

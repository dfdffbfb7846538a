//! The order in which cubes compute the tiles of a product.
//!
//! Row tiles of one block column are neighbours, so that they find its values in the cache. If a block column were done for all
//! rows before the next, the whole input would pass through the cache for each. With many rows it does not fit, and is read
//! from memory again and again. So rows are cut into *panels* whose input fits. All block columns are done for one panel, the
//! longest first, then for the next. Prior art: the grouped order of Triton's matmul tutorial, the rasterisation of CUTLASS.

use cubecl::prelude::*;

use super::context::Context;

/// Last-level cache of a device that does not report it, in bytes; CubeCL 0.11 reports none. Half of an H100's, whose halves may
/// both hold what all multiprocessors read. By the cache model (`blast-offline`, `cache`), panels for this size read little more
/// than panels for the right one on devices with 40 MB, and less than the order without panels on devices with 6 MB.
const UNKNOWN_CACHE: usize = 25_000_000;

/// Cubes of a launch, and their order.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Grid {
    /// Cubes that compute a tile.
    pub cubes: usize,
    /// Row tiles of a panel; the last panel may have fewer.
    pub panel: usize,
}

/// Row tile, and number of the column tile in its order, of a cube among `row_tiles` row tiles.
#[cube]
pub(crate) fn tile_of(cube: usize, grid: Grid, row_tiles: usize) -> (usize, usize) {
    let per_panel = grid.cubes / row_tiles * grid.panel;
    let first = cube / per_panel * grid.panel;
    let inside = cube % per_panel;
    let mut height = row_tiles - first;
    if grid.panel < height {
        height = grid.panel;
    }
    (first + inside % height, inside / height)
}

/// Row tiles of a panel, for `row_tiles` tiles whose input takes `tile_bytes` bytes each. Panels are about equally high.
pub(crate) fn panel(cache: Option<usize>, row_tiles: usize, tile_bytes: usize) -> usize {
    // The rest is for values and output.
    let budget = (cache.unwrap_or(UNKNOWN_CACHE) / 4 * 3).max(1);
    let panels = (row_tiles * tile_bytes).div_ceil(budget).clamp(1, row_tiles);
    row_tiles.div_ceil(panels)
}

impl Context<'_> {
    /// The grid for `cubes` cubes that compute tiles of `rows` of the `m` rows, each `contraction` elements long.
    pub(super) fn grid(
        &self,
        cubes: usize,
        rows: usize,
        m: usize,
        contraction: usize,
    ) -> GridLaunch {
        let tile_bytes = rows * contraction * self.dtype.size();
        GridLaunch::new(cubes, panel(self.caps.cache, m.div_ceil(rows), tile_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_has_one_cube_and_a_panel_is_done_before_the_next() {
        for (row_tiles, columns, panel) in [(1, 1, 1), (7, 5, 3), (6, 4, 2), (5, 3, 5), (4, 9, 1)] {
            let grid = Grid { cubes: row_tiles * columns, panel };
            let places: Vec<_> =
                (0..grid.cubes).map(|cube| tile_of(cube, grid, row_tiles)).collect();
            let panels: Vec<_> = places.iter().map(|(row_tile, _)| row_tile / panel).collect();
            assert!(panels.is_sorted(), "{places:?}");
            for at in 0..panels[panels.len() - 1] + 1 {
                let inside = places.iter().filter(|(row_tile, _)| row_tile / panel == at);
                assert!(inside.map(|(_, column)| column).is_sorted(), "{places:?}");
            }
            let mut sorted = places;
            sorted.sort_unstable();
            let all = (0..row_tiles).flat_map(|row| (0..columns).map(move |column| (row, column)));
            assert!(sorted.into_iter().eq(all));
        }
    }

    #[test]
    fn the_height_of_a_panel_follows_the_table() {
        let table = [
            ("all rows fit", None, 8, 2 << 20, 8),
            ("8192 rows of 4096 in bf16", None, 32, 2 << 20, 8),
            ("8192 rows of 14336", None, 32, 7 << 20, 3),
            ("a small cache", Some(6_000_000), 32, 2 << 20, 3),
            ("a tile larger than the cache", Some(1_000_000), 32, 2 << 20, 1),
            ("one tile", Some(1), 1, 2 << 20, 1),
        ];
        for (name, cache, row_tiles, tile_bytes, want) in table {
            assert_eq!(panel(cache, row_tiles, tile_bytes), want, "{name}");
        }
    }
}

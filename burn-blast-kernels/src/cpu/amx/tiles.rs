//! The AMX instructions, as inline assembly because their intrinsics are not in stable Rust, and the layout that tile
//! registers are loaded from: tiles of 16 consecutive rows of 64 bytes.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;

use super::SUMS;

/// Rows of an input tile, columns of a weight tile.
pub(super) const TILE_SIDE: usize = 16;
/// Columns of an input tile, rows of a weight tile.
pub(super) const TILE_DEPTH: usize = 32;
/// Elements of a tile.
pub(super) const TILE: usize = TILE_SIDE * TILE_DEPTH;

static ASSUMED: AtomicBool = AtomicBool::new(false);

/// Whether this machine has AMX and the kernel permits this process to use it. The result is cached.
pub(crate) fn is_available() -> bool {
    /// Leaf 7, register EDX: AMX-BF16 and AMX-TILE.
    const UNIT: u32 = 1 << 22 | 1 << 24;
    static AVAILABLE: LazyLock<bool> =
        LazyLock::new(|| __cpuid_count(7, 0).edx & UNIT == UNIT && permitted());
    ASSUMED.load(Ordering::Relaxed) || *AVAILABLE
}

/// Makes products use AMX from now on, whether or not the machine has it. Needs the feature `testing`.
///
/// # Safety
/// On a machine without AMX, something must execute the instructions, such as an emulator that handles their traps.
#[cfg(feature = "testing")]
pub unsafe fn assume_amx() {
    ASSUMED.store(true, Ordering::Relaxed);
}

/// Asks the kernel to save the tile registers of this process. Without that, the instructions trap.
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Operand of `ldtilecfg`: every tile register has 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const TILES: usize = 8;

static CONFIG: Config = {
    let (mut row_bytes, mut rows, mut tile) = ([0; 16], [0; 16], 0);
    while tile < TILES {
        (row_bytes[tile], rows[tile]) = (64, 16);
        tile += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// The tile registers of this thread: 0 to 3 hold sums, 4 and 5 the input, 6 and 7 the weight.
///
/// The compiler uses none of them, so that they keep their content between blocks of assembly.
pub(super) struct Tiles(PhantomData<*mut ()>);

impl Tiles {
    /// # Safety
    /// The machine must execute AMX instructions.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the caller's, and the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
        Self(PhantomData)
    }

    pub(super) fn zero(&mut self) {
        // SAFETY: AMX is available since `new`.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem)
            );
        }
    }

    /// Adds the product of two tiles of rows and two tiles of columns to the sums.
    #[inline(always)]
    pub(super) fn multiply_two(&mut self, left: &[u16], right: &[u16]) {
        assert!(left.len() >= 2 * TILE && right.len() >= 2 * TILE);
        // SAFETY: AMX is available, and both slices hold two tiles.
        unsafe {
            asm!(
                "tileloadd tmm4, [{left} + {stride}]",
                "tileloadd tmm6, [{right} + {stride}]",
                "tileloadd tmm7, [{right} + {stride} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{left} + {stride} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                left = in(reg) left.as_ptr(),
                right = in(reg) right.as_ptr(),
                stride = in(reg) 64_usize,
                options(nostack, readonly),
            );
        }
    }

    /// Like [`multiply_two`](Self::multiply_two), with one tile of rows.
    #[inline(always)]
    pub(super) fn multiply_one(&mut self, left: &[u16], right: &[u16]) {
        assert!(left.len() >= TILE && right.len() >= 2 * TILE);
        // SAFETY: AMX is available, and the slices hold the tiles that are read.
        unsafe {
            asm!(
                "tileloadd tmm4, [{left} + {stride}]",
                "tileloadd tmm6, [{right} + {stride}]",
                "tileloadd tmm7, [{right} + {stride} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                left = in(reg) left.as_ptr(),
                right = in(reg) right.as_ptr(),
                stride = in(reg) 64_usize,
                options(nostack, readonly),
            );
        }
    }

    /// Writes the sums as `[32, 32]`.
    pub(super) fn store(&self, sums: &mut [f32]) {
        assert!(sums.len() >= SUMS * SUMS);
        // SAFETY: AMX is available; the last tile starts at row 16 and column 16.
        unsafe {
            asm!(
                "tilestored [{to} + {stride}], tmm0",
                "tilestored [{to} + {stride} + 64], tmm1",
                "tilestored [{to} + {stride} + 2048], tmm2",
                "tilestored [{to} + {stride} + 2112], tmm3",
                to = in(reg) sums.as_mut_ptr(),
                stride = in(reg) SUMS * size_of::<f32>(),
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    /// Otherwise the kernel would save 8 KiB at every context switch.
    fn drop(&mut self) {
        // SAFETY: AMX is available since `new`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Writes the 32 columns from `step * 32` of some rows of `x [m, width]` as tiles `[rows / 16][16][32]`, with zeros beyond
/// the rows and the width.
pub(super) fn write_row_tiles(
    x: &[bf16],
    width: usize,
    rows: Range<usize>,
    step: usize,
    to: &mut [u16],
) {
    let from = (step * TILE_DEPTH).min(width);
    let until = (from + TILE_DEPTH).min(width);
    let mut tile_rows = to.chunks_exact_mut(TILE_DEPTH);
    for (row, to) in rows.zip(&mut tile_rows) {
        let (inside, beyond) = to.split_at_mut(until - from);
        for (to, from) in inside.iter_mut().zip(&x[row * width + from..]) {
            *to = from.to_bits();
        }
        beyond.fill(0);
    }
    tile_rows.for_each(|to| to.fill(0));
}

/// Writes a block `[b, b]`, or its transpose, as tiles `[b / 32][b / 16][16][16][2]`. The elements `[k, n]` and
/// `[k + 1, n]` with an even `k` are neighbours in the tile of depth `k / 32` and columns `n / 16`.
pub(super) fn write_block_tiles(block: &[bf16], b: usize, transposed: bool, to: &mut [u16]) {
    let (down, right) = if transposed { (1, b) } else { (b, 1) };
    for (at, tile) in to.chunks_exact_mut(TILE).enumerate() {
        let (depth, side) = (at / (b / TILE_SIDE) * TILE_DEPTH, at % (b / TILE_SIDE) * TILE_SIDE);
        for (pair, tile_row) in tile.chunks_exact_mut(2 * TILE_SIDE).enumerate() {
            let first = (depth + 2 * pair) * down + side * right;
            for (n, both) in tile_row.chunks_exact_mut(2).enumerate() {
                both[0] = block[first + n * right].to_bits();
                both[1] = block[first + n * right + down].to_bits();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: usize) -> Vec<bf16> {
        (0..count).map(|at| bf16::from_bits(at as u16)).collect()
    }

    #[test]
    fn a_block_and_its_transpose_are_in_pairs() {
        let b = 64;
        let block = numbered(b * b);
        for transposed in [false, true] {
            let mut tiles = vec![0; b * b];
            write_block_tiles(&block, b, transposed, &mut tiles);
            for (k, n) in [(0, 0), (1, 0), (0, 1), (31, 15), (32, 16), (63, 63), (17, 40)] {
                let tile = k / 32 * 4 + n / 16;
                let at = tile * TILE + k % 32 / 2 * 32 + n % 16 * 2 + k % 2;
                let want = if transposed { n * b + k } else { k * b + n };
                assert_eq!(usize::from(tiles[at]), want, "[{k}, {n}], transposed: {transposed}");
            }
        }
    }

    #[test]
    fn rows_are_zero_beyond_the_input() {
        let (rows, width) = (18, 40);
        let x = numbered(rows * width);
        let mut tiles = vec![u16::MAX; 2 * TILE];
        write_row_tiles(&x, width, 1..rows, 1, &mut tiles);
        for (at, &got) in tiles.iter().enumerate() {
            let (row, col) = (at / 32 + 1, at % 32 + 32);
            let want = if row < rows && col < width { row * width + col } else { 0 };
            assert_eq!(usize::from(got), want, "[{row}, {col}]");
        }
    }
}

//! The instructions of the unit, by inline assembly: their intrinsics are not in stable Rust.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::SUMS;
use super::pack::TILE;

static ASSUMED: AtomicBool = AtomicBool::new(false);

/// Whether this machine has the unit and the kernel lets this process use it. Asks once.
pub fn is_available() -> bool {
    /// Leaf 7, register EDX: AMX-BF16 and AMX-TILE.
    const UNIT: u32 = 1 << 22 | 1 << 24;
    static AVAILABLE: LazyLock<bool> =
        LazyLock::new(|| __cpuid_count(7, 0).edx & UNIT == UNIT && permitted());
    ASSUMED.load(Ordering::Relaxed) || *AVAILABLE
}

/// From now on products use the unit, whatever the machine says.
///
/// # Safety
/// Something must execute the instructions where the machine does not: an emulator that handles their traps.
pub unsafe fn assume_available() {
    ASSUMED.store(true, Ordering::Relaxed);
}

/// Asks the kernel to save the tile registers of this process, without which an instruction traps.
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Sizes of the tile registers: all have 16 lines of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

const TILES: usize = 8;

static CONFIG: Config = {
    let (mut line_bytes, mut lines, mut tile) = ([0; 16], [0; 16], 0);
    while tile < TILES {
        (line_bytes[tile], lines[tile]) = (64, 16);
        tile += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], line_bytes, lines }
};

/// The tile registers of this thread: 0 to 3 are sums, 4 and 5 of the input, 6 and 7 of the weight.
///
/// The compiler uses none of them, so they keep their content from one block of assembly to the next.
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
        // SAFETY: the unit is there since `new`.
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
        // SAFETY: the unit is there, and two tiles are read from either.
        unsafe {
            asm!(
                "tileloadd tmm4, [{left} + {line}]",
                "tileloadd tmm6, [{right} + {line}]",
                "tileloadd tmm7, [{right} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{left} + {line} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                left = in(reg) left.as_ptr(),
                right = in(reg) right.as_ptr(),
                line = in(reg) 64_usize,
                options(nostack, readonly),
            );
        }
    }

    /// As [`multiply_two`](Self::multiply_two), of one tile of rows.
    #[inline(always)]
    pub(super) fn multiply_one(&mut self, left: &[u16], right: &[u16]) {
        assert!(left.len() >= TILE && right.len() >= 2 * TILE);
        // SAFETY: the unit is there, and so many tiles are read.
        unsafe {
            asm!(
                "tileloadd tmm4, [{left} + {line}]",
                "tileloadd tmm6, [{right} + {line}]",
                "tileloadd tmm7, [{right} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                left = in(reg) left.as_ptr(),
                right = in(reg) right.as_ptr(),
                line = in(reg) 64_usize,
                options(nostack, readonly),
            );
        }
    }

    /// Writes the sums as `[32, 32]`.
    pub(super) fn store(&self, sums: &mut [f32]) {
        assert!(sums.len() >= SUMS * SUMS);
        // SAFETY: the unit is there; the last tile starts 16 lines and 16 elements in.
        unsafe {
            asm!(
                "tilestored [{to} + {line}], tmm0",
                "tilestored [{to} + {line} + 64], tmm1",
                "tilestored [{to} + {line} + 2048], tmm2",
                "tilestored [{to} + {line} + 2112], tmm3",
                to = in(reg) sums.as_mut_ptr(),
                line = in(reg) SUMS * size_of::<f32>(),
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    /// Without it, the kernel saves 8 KiB at every switch of threads.
    fn drop(&mut self) {
        // SAFETY: the unit is there since `new`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

//! The tile registers and their instructions, as inline assembly because the intrinsics are not in stable Rust.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{SIDE, SQUARE};

static ASSUMED: AtomicBool = AtomicBool::new(false);
#[cfg(feature = "testing")]
thread_local! {
    static USES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How often this thread has used the unit. Needs the feature `testing`.
#[cfg(feature = "testing")]
pub fn amx_uses_here() -> u64 {
    USES.get()
}

/// Whether this machine has AMX and the kernel permits this process to use it. The result is cached.
pub(in crate::cpu) fn is_available() -> bool {
    /// Leaf 7, register EDX: AMX-BF16 and AMX-TILE.
    const UNIT: u32 = 1 << 22 | 1 << 24;
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        crate::cpu::dot::has_pairs() && __cpuid_count(7, 0).edx & UNIT == UNIT && permitted()
    });
    ASSUMED.load(Ordering::Relaxed) || *AVAILABLE
}

/// Makes products use AMX from now on, whether or not the machine has it, and returns true. Returns false on a machine that
/// cannot write pairs of bf16 (AVX512-BF16). Needs the feature `testing`.
///
/// # Safety
/// On a machine without AMX, something must execute the instructions, such as an emulator that handles their traps.
#[cfg(feature = "testing")]
pub unsafe fn assume_amx() -> bool {
    ASSUMED.store(crate::cpu::dot::has_pairs(), Ordering::Relaxed);
    crate::cpu::dot::has_pairs()
}

/// Asks the kernel to save the tile registers of this process. Without that, the instructions trap.
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const TILES: usize = 8;

/// Tiles of rows 16 to 31: two of sums, and one of the left factor.
const LOWER: [usize; 3] = [2, 3, 5];

impl Config {
    /// Every row of a tile has 64 bytes. Sums and left factor have `rows` rows in two tiles, the right factor 16 in each.
    fn new(rows: usize) -> Self {
        let mut config =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..TILES].fill(64);
        config.rows[..TILES].fill(SIDE as u8);
        let upper = rows.min(SIDE);
        for tile in [0, 1, 4] {
            config.rows[tile] = upper as u8;
        }
        if rows > SIDE {
            for tile in LOWER {
                config.rows[tile] = (rows - SIDE) as u8;
            }
        }
        config
    }
}

/// Rows in memory.
#[derive(Clone, Copy)]
pub(super) struct Rows<P> {
    pub(super) ptr: P,
    /// Floats or words from one row to the next.
    pub(super) stride: usize,
}

impl<P> Rows<P> {
    fn stride_bytes(&self) -> usize {
        self.stride * size_of::<f32>()
    }
}

impl Rows<*const f32> {
    /// The rows from the second tile on.
    fn lower(&self) -> *const f32 {
        self.ptr.wrapping_add(SIDE * self.stride)
    }
}

impl Rows<*mut f32> {
    fn lower(&self) -> *mut f32 {
        self.ptr.wrapping_add(SIDE * self.stride)
    }
}

/// The tile registers of this thread: 0 to 3 hold a square of sums, 4 and 5 the left factor, 6 and 7 the right one.
///
/// The compiler uses none of them, so that they keep their content between blocks of assembly.
pub(super) struct Tiles {
    /// Whether there are more rows than a tile has.
    two: bool,
    /// Registers belong to a thread.
    here: PhantomData<*mut ()>,
}

impl Tiles {
    /// Registers for sums of `rows` rows, 1 to 32, by 32 columns.
    ///
    /// # Safety
    /// The machine must execute AMX instructions, and `rows` be 1 to 32.
    pub(super) unsafe fn new(rows: usize) -> Self {
        debug_assert!((1..=SQUARE).contains(&rows));
        #[cfg(feature = "testing")]
        USES.set(USES.get() + 1);
        let config = Config::new(rows);
        // SAFETY: the caller's, and the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Self { two: rows > SIDE, here: PhantomData }
    }

    #[inline(always)]
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

    /// Reads the sums. A stride of 0 gives every row the same.
    ///
    /// # Safety
    /// The rows must be readable.
    #[inline(always)]
    pub(super) unsafe fn load(&mut self, from: Rows<*const f32>) {
        // SAFETY: the caller's; AMX is available since `new`.
        unsafe {
            asm!(
                "tileloadd tmm0, [{from} + {stride}]",
                "tileloadd tmm1, [{from} + {stride} + 64]",
                from = in(reg) from.ptr,
                stride = in(reg) from.stride_bytes(),
                options(nostack, readonly),
            );
            if self.two {
                asm!(
                    "tileloadd tmm2, [{from} + {stride}]",
                    "tileloadd tmm3, [{from} + {stride} + 64]",
                    from = in(reg) from.lower(),
                    stride = in(reg) from.stride_bytes(),
                    options(nostack, readonly),
                );
            }
        }
    }

    /// Writes the sums.
    ///
    /// # Safety
    /// The rows must be writable.
    #[inline(always)]
    pub(super) unsafe fn store(&self, to: Rows<*mut f32>) {
        // SAFETY: the caller's; AMX is available since `new`.
        unsafe {
            asm!(
                "tilestored [{to} + {stride}], tmm0",
                "tilestored [{to} + {stride} + 64], tmm1",
                to = in(reg) to.ptr,
                stride = in(reg) to.stride_bytes(),
                options(nostack),
            );
            if self.two {
                asm!(
                    "tilestored [{to} + {stride}], tmm2",
                    "tilestored [{to} + {stride} + 64], tmm3",
                    to = in(reg) to.lower(),
                    stride = in(reg) to.stride_bytes(),
                    options(nostack),
                );
            }
        }
    }

    /// Adds the product of 16 words of the rows of `left` and 16 rows of 32 words of `right`.
    ///
    /// # Safety
    /// Both must be readable.
    #[inline(always)]
    pub(super) unsafe fn multiply(&mut self, left: Rows<*const f32>, right: Rows<*const f32>) {
        // SAFETY: the caller's; AMX is available since `new`.
        unsafe {
            asm!(
                "tileloadd tmm4, [{left} + {left_stride}]",
                "tileloadd tmm6, [{right} + {right_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {right_stride} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                left = in(reg) left.ptr,
                left_stride = in(reg) left.stride_bytes(),
                right = in(reg) right.ptr,
                right_stride = in(reg) right.stride_bytes(),
                options(nostack, readonly),
            );
            if self.two {
                asm!(
                    "tileloadd tmm5, [{lower} + {left_stride}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    lower = in(reg) left.lower(),
                    left_stride = in(reg) left.stride_bytes(),
                    options(nostack, readonly),
                );
            }
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

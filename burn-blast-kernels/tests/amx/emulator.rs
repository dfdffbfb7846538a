//! Executes AMX instructions on machines without AMX. A handler of the illegal-instruction signal decodes the instruction
//! at the trap, executes it as chapter 3 of Intel's Architecture Instruction Set Extensions reference describes, and
//! continues after it.
//!
//! It knows the instructions that the kernels use: `ldtilecfg`, `tilerelease`, `tilezero`, `tileloadd`, `tilestored` and
//! `tdpbf16ps`. Any other trap is left to the system, which ends the process.

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

use burn_blast_kernels::cpu::assume_amx;

const ROWS: usize = 16;
const ROW_BYTES: usize = 64;
const LEGACY_BYTES: usize = 64;

type Tile = [[u8; ROW_BYTES]; ROWS];

/// Tile registers of a thread, with the rows and row bytes of the last `ldtilecfg`.
struct Registers {
    tiles: [Tile; 8],
    rows: [usize; 8],
    row_bytes: [usize; 8],
}

thread_local! {
    // No destructor and no lazy start, because the handler may access it at any time.
    static REGISTERS: UnsafeCell<Registers> = const {
        UnsafeCell::new(Registers { tiles: [[[0; ROW_BYTES]; ROWS]; 8], rows: [0; 8], row_bytes: [0; 8] })
    };
    static EXECUTED_HERE: Cell<u64> = const { Cell::new(0) };
}
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Instructions emulated so far on this thread.
pub fn executed_here() -> u64 {
    EXECUTED_HERE.get()
}

pub fn is_installed() -> bool {
    INSTALLED.load(Ordering::SeqCst)
}

/// Installs the handler for this process, and returns true. Returns false where the kernels cannot prepare operands.
pub fn install() -> bool {
    // SAFETY: the handler has the signature that its flags promise, and executes AMX instructions from here on.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGILL, &action, null_mut()), 0);
        let assumed = assume_amx();
        INSTALLED.store(assumed, Ordering::SeqCst);
        assumed
    }
}

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context of the interrupted thread.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: code is readable, and nobody else uses the registers of this thread, which waits for this handler.
    let length = unsafe { REGISTERS.with(|tiles| execute(&mut *tiles.get(), at, registers)) };
    match length {
        Some(length) => {
            registers[libc::REG_RIP as usize] += length as i64;
            EXECUTED_HERE.set(EXECUTED_HERE.get() + 1);
        }
        // The instruction traps again, and this time the process ends.
        // SAFETY: restores what was there before.
        None => unsafe {
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        },
    }
}

/// Executes the instruction at `at` and returns its length, or `None` if it is not an AMX instruction.
///
/// # Safety
/// The registers must belong to a thread that is about to execute it.
unsafe fn execute(tiles: &mut Registers, at: *const u8, registers: &[i64]) -> Option<usize> {
    // SAFETY: the longest instruction here; reading on is harmless inside the text of a program.
    let code = unsafe { &*at.cast::<[u8; 11]>() };
    // A three-byte VEX prefix with the opcode map 0F38.
    if code[0] != 0xc4 || code[1] & 0x1f != 2 {
        return None;
    }
    let (prefix, third) = (code[2] & 3, !(code[2] >> 3) & 15);
    let (reg, rm) = (usize::from(code[4] >> 3 & 7), usize::from(code[4] & 7));
    let is_register = code[4] >> 6 == 3;
    match (code[3], prefix, is_register) {
        (0x49, 0, true) => *tiles = Registers { rows: [0; 8], row_bytes: [0; 8], ..*tiles },
        (0x49, 3, true) => tiles.tiles[reg] = [[0; ROW_BYTES]; ROWS],
        (0x5c, 2, true) => tiles.dot(reg, rm, usize::from(third)),
        _ if is_register => return None,
        (opcode, prefix, _) => {
            let memory = Memory::decode(code, registers);
            // SAFETY: the instruction would read and write there.
            unsafe {
                match (opcode, prefix) {
                    (0x49, 0) => tiles.configure(&*memory.start.cast()),
                    (0x4b, 3) => tiles.load(reg, &memory),
                    (0x4b, 2) => tiles.store(reg, &memory),
                    _ => return None,
                }
            }
            return Some(memory.length);
        }
    }
    Some(5)
}

/// A memory operand.
struct Memory {
    start: *mut u8,
    /// Bytes from row to row, from the index register.
    stride: isize,
    /// Length of the whole instruction.
    length: usize,
}

impl Memory {
    fn decode(code: &[u8; 11], registers: &[i64]) -> Self {
        let (mode, rm) = (code[4] >> 6, code[4] & 7);
        // The prefix holds the fourth bits of the register numbers, inverted.
        let (index_high, base_high) = (!code[1] >> 3 & 8, !code[1] >> 2 & 8);
        let has_index = rm == 4;
        let base_number = if has_index { code[5] & 7 } else { rm };
        let mut length = if has_index { 6 } else { 5 };
        let no_base = mode == 0 && base_number == 5;
        let displacement_bytes = if no_base { 4 } else { [0, 1, 4][usize::from(mode)] };
        let displacement = match displacement_bytes {
            0 => 0,
            1 => i64::from(code[length] as i8),
            _ => i64::from(i32::from_le_bytes(code[length..length + 4].try_into().unwrap())),
        };
        length += displacement_bytes;
        let base = match (no_base, has_index) {
            (true, true) => 0,
            (true, false) => registers[libc::REG_RIP as usize] + length as i64,
            _ => register(registers, base_number | base_high),
        };
        let index = (code[5] >> 3 & 7) | index_high;
        let stride =
            if has_index && index != 4 { register(registers, index) << (code[5] >> 6) } else { 0 };
        Self { start: (base + displacement) as *mut u8, stride: stride as isize, length }
    }

    /// Start of a row.
    fn row(&self, row: usize) -> *mut u8 {
        self.start.wrapping_offset(row as isize * self.stride)
    }
}

/// A general register by its number in instructions.
fn register(registers: &[i64], number: u8) -> i64 {
    const ORDER: [libc::c_int; 8] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
    ];
    let at = match ORDER.get(usize::from(number)) {
        Some(&at) => at,
        None => libc::REG_R8 + libc::c_int::from(number - 8),
    };
    registers[at as usize]
}

impl Registers {
    fn configure(&mut self, config: &[u8; LEGACY_BYTES]) {
        assert_eq!((config[0], config[1]), (1, 0), "palette 1, from the first row");
        for tile in 0..8 {
            let bytes = u16::from_le_bytes([config[16 + 2 * tile], config[17 + 2 * tile]]);
            (self.row_bytes[tile], self.rows[tile]) =
                (usize::from(bytes), usize::from(config[48 + tile]));
        }
        assert!(self.rows.iter().all(|&rows| rows <= ROWS));
        assert!(self.row_bytes.iter().all(|&bytes| bytes <= ROW_BYTES));
        self.tiles = [[[0; ROW_BYTES]; ROWS]; 8];
    }

    /// # Safety
    /// The memory must be readable.
    unsafe fn load(&mut self, tile: usize, memory: &Memory) {
        self.tiles[tile] = [[0; ROW_BYTES]; ROWS];
        for row in 0..self.rows[tile] {
            let to = self.tiles[tile][row].as_mut_ptr();
            // SAFETY: the caller's.
            unsafe { memory.row(row).copy_to_nonoverlapping(to, self.row_bytes[tile]) };
        }
    }

    /// # Safety
    /// The memory must be writable.
    unsafe fn store(&self, tile: usize, memory: &Memory) {
        for row in 0..self.rows[tile] {
            let from = self.tiles[tile][row].as_ptr();
            // SAFETY: the caller's.
            unsafe { memory.row(row).copy_from_nonoverlapping(from, self.row_bytes[tile]) };
        }
    }

    /// `sums += left · right`. Even and odd products are summed separately, then added.
    fn dot(&mut self, sums: usize, left: usize, right: usize) {
        let (rows, columns) = (self.rows[sums], self.row_bytes[sums] / 4);
        let pairs = self.row_bytes[left] / 4;
        assert!(rows > 0, "a product without a configuration");
        assert_eq!((self.rows[left], self.rows[right]), (rows, pairs), "tile sizes must fit");
        for row in 0..rows {
            for column in 0..columns {
                let (mut even, mut odd) = (0.0, 0.0);
                for pair in 0..pairs {
                    let (a, b) = (
                        &self.tiles[left][row][4 * pair..],
                        &self.tiles[right][pair][4 * column..],
                    );
                    even = flushed(bf16(a, 0).mul_add(bf16(b, 0), even));
                    odd = flushed(bf16(a, 1).mul_add(bf16(b, 1), odd));
                }
                let sum = &mut self.tiles[sums][row][4 * column..4 * column + 4];
                let before = f32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]);
                sum.copy_from_slice(&flushed(before + flushed(even + odd)).to_le_bytes());
            }
        }
    }
}

/// Element `at` of a pair; a subnormal number counts as zero.
fn bf16(pair: &[u8], at: usize) -> f32 {
    flushed(f32::from_bits(u32::from(pair[2 * at]) << 16 | u32::from(pair[2 * at + 1]) << 24))
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0 } else { x }
}

/// The emulator against the reference's formulas, on instructions of its own.
mod tests {
    use std::arch::asm;

    use super::*;

    #[repr(align(64))]
    struct Aligned<T>(T);

    #[test]
    fn loads_products_and_stores_do_what_the_reference_says() {
        crate::allowed();
        if !is_installed() {
            println!("skipped: nothing is emulated here");
            return;
        }
        // Tile 0: 3 rows of 2 sums. Tile 1: 3 rows of 2 pairs. Tile 2: 2 rows of 2 pairs.
        let mut config = Aligned([0_u8; LEGACY_BYTES]);
        config.0[0] = 1;
        for (tile, (bytes, rows)) in [(8, 3), (8, 3), (8, 2)].into_iter().enumerate() {
            (config.0[16 + 2 * tile], config.0[48 + tile]) = (bytes, rows);
        }
        let number = |x: f32| (x.to_bits() >> 16) as u16;
        // The stride is larger than a row.
        let left: Vec<u16> = (0..3 * 6).map(|at| number(at as f32 - 4.0)).collect();
        let right: Vec<u16> = (0..2 * 8).map(|at| number(0.5 * at as f32)).collect();
        let mut sums = [f32::NAN; 3 * 3];
        // SAFETY: every operand is as large as the configuration says.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0",
                "tileloadd tmm1, [{left} + {six}*4]",
                "tileloadd tmm2, [{right} + {eight}*2]",
                "tdpbf16ps tmm0, tmm1, tmm2",
                "tdpbf16ps tmm0, tmm1, tmm2",
                "tilestored [{sums} + {six}*4], tmm0",
                "tilerelease",
                config = in(reg) &raw const config,
                left = in(reg) left.as_ptr(),
                right = in(reg) right.as_ptr(),
                sums = in(reg) sums.as_mut_ptr(),
                six = in(reg) 3_usize,
                eight = in(reg) 8_usize,
            );
        }
        let element = |from: &[u16], at: usize| f32::from_bits(u32::from(from[at]) << 16);
        for row in 0..3 {
            for column in 0..2 {
                let mut want = 0.0;
                for k in 0..4 {
                    let b = element(&right, k / 2 * 8 + 2 * column + k % 2);
                    want += 2.0 * element(&left, row * 6 + k) * b;
                }
                assert_eq!(sums[row * 3 + column], want, "[{row}, {column}]");
            }
            assert!(sums[row * 3 + 2].is_nan(), "nothing is written beyond a row");
        }
    }

    #[test]
    fn every_register_may_be_an_operand() {
        let registers: Vec<i64> = (0..23).map(|at| 1000 * at).collect();
        let of = |number| register(&registers, number);
        // tileloadd tmm3, [r13 + rcx*4 + 0x40], as an assembler writes it.
        let code = [0xc4, 0xc2, 0x7b, 0x4b, 0x5c, 0x8d, 0x40, 0, 0, 0, 0];
        let memory = Memory::decode(&code, &registers);
        assert_eq!((memory.start as i64, memory.stride as i64), (of(13) + 0x40, 4 * of(1)));
        assert_eq!(memory.length, 7);
        // tilestored [rax + r9 - 0x100], tmm1
        let code = [0xc4, 0xa2, 0x7a, 0x4b, 0x8c, 0x08, 0x00, 0xff, 0xff, 0xff, 0];
        let memory = Memory::decode(&code, &registers);
        assert_eq!((memory.start as i64, memory.stride as i64), (of(0) - 0x100, of(9)));
        assert_eq!(memory.length, 10);
        // ldtilecfg [rip + 0x10]
        let code = [0xc4, 0xe2, 0x78, 0x49, 0x05, 0x10, 0, 0, 0, 0, 0];
        let memory = Memory::decode(&code, &registers);
        assert_eq!(memory.start as i64, registers[libc::REG_RIP as usize] + 9 + 0x10);
    }

    #[test]
    fn other_instructions_are_left_to_the_system() {
        let mut tiles =
            Registers { tiles: [[[0; ROW_BYTES]; ROWS]; 8], rows: [0; 8], row_bytes: [0; 8] };
        // ud2 and vfmadd231ps.
        for code in [
            [0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0xc4, 0xe2, 0x75, 0xb8, 0xc2, 0, 0, 0, 0, 0, 0],
        ] {
            // SAFETY: the bytes are readable, and none of their operands is accessed.
            assert_eq!(unsafe { execute(&mut tiles, code.as_ptr(), &[0; 23]) }, None);
        }
    }
}

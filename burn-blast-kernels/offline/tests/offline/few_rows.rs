//! The kernels for few rows (gemv): emulated against the f64 oracle, and their machine code.

use std::collections::BTreeMap;

use blast_offline::{Arch, Buffer, F32, Machine, Program, decode, generate, ladder};
use burn_blast_kernels::cube::catalogue::{Definition, FewRows};
use burn_blast_kernels::{BlockPattern, pack, reference};
use cubecl::ir::AddressType;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::common::{
    decode, draw, emulator, encode, indices, input, pattern, poison, rounding, run,
};
use crate::toolkit;

/// Blocks of a part with split-K.
const PART: usize = 2;

fn variant(name: &str) -> FewRows {
    let all = FewRows::all();
    *all.iter().find(|one| one.name() == name).unwrap_or_else(|| panic!("no variant {name}"))
}

fn build(variant: &FewRows) -> Option<Program> {
    let source = generate(variant, Arch::Sm80, variant.dtype, AddressType::U32).unwrap();
    Some(emulator()?.build(&source).unwrap_or_else(|error| panic!("{error}")))
}

/// A weight as it is stored, and the numbers it stands for.
struct Weight {
    pattern: BlockPattern,
    stored: Buffer,
    scales: Option<Buffer>,
    exact: Vec<f32>,
}

impl Weight {
    fn new(variant: &FewRows, pattern: BlockPattern, rng: &mut ChaCha8Rng) -> Self {
        let dense = draw(rng, variant.dtype, pattern.shape().area());
        let values = pack::pack(&dense, &pattern);
        if !variant.int8() {
            let stored = bindable(encode(variant.dtype, &values));
            return Self { pattern, stored, scales: None, exact: values };
        }
        let area = pattern.block().area();
        let integers: Vec<i8> = values.iter().map(|value| (value * 128.0).floor() as i8).collect();
        // Powers of two: the oracle sees the very products.
        let scales: Vec<f32> =
            (0..pattern.nnz()).map(|slot| 0.5_f32.powi(slot as i32 % 5 + 4)).collect();
        let exact =
            integers.iter().enumerate().map(|(at, &q)| f32::from(q) * scales[at / area]).collect();
        let stored = bindable(integers.iter().map(|&q| q as u8).collect());
        Self { pattern, stored, scales: Some(bindable(encode(F32, &scales))), exact }
    }

    fn buffers(&self) -> Vec<Buffer> {
        let mut buffers = vec![self.stored.clone()];
        buffers.extend(self.scales.clone());
        buffers.extend([self.pattern.col_ptr(), self.pattern.row_idx()].map(indices));
        buffers
    }
}

/// A launch binds a stand-in for a tensor without elements.
fn bindable(bytes: Vec<u8>) -> Buffer {
    Buffer { bytes: if bytes.is_empty() { vec![0; 16] } else { bytes }, writable: false }
}

/// Ragged with an empty column and row; full; one block; none; and one long column.
fn patterns(block: usize) -> Vec<BlockPattern> {
    let full: Vec<(usize, usize)> = (0..4).map(|at| (at / 2, at % 2)).collect();
    let mut long: Vec<(usize, usize)> = (0..9).map(|row| (row, 1)).collect();
    long.push((4, 0));
    // The contraction stays a multiple of 8, as lines of 16 bytes ask.
    let ragged = if block > 8 { 8 } else { 0 };
    vec![
        pattern([3 * block - ragged, 4 * block - 5], block, &[(0, 0), (2, 0), (0, 1), (2, 3)]),
        pattern([2 * block, 2 * block], block, &full),
        pattern([2 * block, 2 * block], block, &[(1, 1)]),
        pattern([block, 2 * block], block, &[]),
        pattern([9 * block, 2 * block], block, &long),
    ]
}

/// Runs a variant, with `add` if it has split-K, on `m` rows.
fn check(variant: &FewRows, program: &Program, add: Option<(&FewRows, &Program)>, m: usize) {
    let patterns = patterns(variant.block());
    let others = patterns.iter().cycle().skip(1);
    for (at, (pattern, other)) in patterns.iter().zip(others).enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut weights = vec![Weight::new(variant, pattern.clone(), &mut rng)];
        if variant.gate().is_some() {
            // Another pattern of the same shape where there is one.
            let same = other.shape() == pattern.shape();
            let up = if same { other } else { pattern }.clone();
            weights.push(Weight::new(variant, up, &mut rng));
        }
        let shape = pattern.shape();
        let dtype = variant.dtype;
        let [x, bias] = [m * shape.rows(), shape.cols()].map(|len| draw(&mut rng, dtype, len));
        let bias_buffer = || input(dtype, &bias);
        let walked: Vec<&BlockPattern> = weights.iter().map(|weight| &weight.pattern).collect();
        let blocks = if variant.splits_k() { PART } else { usize::MAX };
        let [parts, columns] = FewRows::work(&walked, blocks);
        let count = parts.len() / 3;
        let cubes = m.div_ceil(variant.rows()) * count;
        let mut buffers = vec![input(dtype, &x)];
        weights.iter().for_each(|weight| buffers.extend(weight.buffers()));
        buffers.extend(variant.bias.then(bias_buffer));
        buffers.push(indices(&parts));
        let sizes = [m, shape.rows(), shape.cols(), count];
        let mut out = m * shape.cols();
        if variant.splits_k() {
            out = walked.len() * count * m.next_multiple_of(variant.rows()) * variant.block();
        }
        buffers.push(poison(if variant.splits_k() { F32 } else { dtype }, out));
        run(variant, program, cubes, &[&sizes[..], &[cubes]].concat(), &mut buffers).unwrap();
        let mut bias_added = variant.bias;
        if let Some((adder, program)) = add {
            let partial = Buffer { writable: false, ..buffers.pop().unwrap() };
            let y = poison(dtype, m * shape.cols());
            buffers = vec![partial];
            buffers.extend(adder.bias.then(bias_buffer));
            buffers.extend([indices(&columns), y]);
            let cubes = (m * shape.cols()).div_ceil(adder.units());
            run(adder, program, cubes, &sizes, &mut buffers).unwrap();
            bias_added = adder.bias;
        }
        let got = decode(dtype, &buffers.pop().unwrap().bytes);
        let bias = bias_added.then_some(bias.as_slice());
        let want = reference::spmm(&x, &weights[0].exact, bias, pattern);
        let want = match (variant.gate(), weights.get(1)) {
            (Some(f), Some(up)) => {
                let ups = reference::spmm(&x, &up.exact, None, &up.pattern);
                reference::gated_hidden(&want, &ups, f)
            }
            _ => want,
        };
        let result = rounding(dtype).check(&got, &want);
        result.unwrap_or_else(|error| panic!("{}, m = {m}, pattern {at}: {error}", variant.name()));
    }
}

/// Checks a variant at each number of rows.
fn check_at(name: &str, rows: &[usize]) {
    let variant = variant(name);
    let Some(program) = build(&variant) else { return };
    rows.iter().for_each(|&m| check(&variant, &program, None, m));
}

#[test]
fn bf16_at_every_number_of_rows() {
    check_at("gemv_1x64_bf16", &[1]);
    check_at("gemv_2x64_bf16_bias", &[2]);
    check_at("gemv_4x32_bf16", &[3]);
    check_at("gemv_16x64_bf16_bias", &[15, 16]);
}

#[test]
fn the_smallest_and_the_largest_block() {
    check_at("gemv_16x8_bf16", &[15]);
    check_at("gemv_8x128_bf16", &[8]);
    check_at("gemv_1x128_f16", &[1]);
    check_at("gemv_2x8_f32", &[2]);
}

#[test]
fn other_types() {
    check_at("gemv_4x16_f16_bias", &[3]);
    check_at("gemv_16x32_f32", &[16]);
}

#[test]
fn integers() {
    check_at("gemv_1x64_int8", &[1]);
    check_at("gemv_16x64_int8", &[15, 33]);
    // A vector is longer than a row of these blocks.
    check_at("gemv_4x8_int8", &[3]);
    check_at("gemv_16x8_int8", &[16]);
    check_at("gemv_2x128_int8", &[2]);
}

#[test]
fn gate_and_up_in_one_launch() {
    check_at("gemv_1x64_bf16_silu", &[1]);
    check_at("gemv_4x32_f16_gelu", &[3]);
    check_at("gemv_16x16_f32_relu", &[16]);
}

#[test]
fn long_columns_with_split_k() {
    for (cut, add, m) in [
        ("gemv_1x64_bf16_split_k", "gemv_1x64_bf16_bias_add", 1),
        ("gemv_16x32_bf16_split_k", "gemv_16x32_bf16_bias_add", 15),
        ("gemv_4x64_int8_split_k", "gemv_4x64_int8_add", 3),
        ("gemv_16x16_int8_split_k", "gemv_16x16_int8_add", 17),
        ("gemv_2x32_f32_silu_split_k", "gemv_2x32_f32_silu_add", 2),
    ] {
        let (cut, add) = (variant(cut), variant(add));
        let (Some(program), Some(adder)) = (build(&cut), build(&add)) else { return };
        check(&cut, &program, Some((&add, &adder)), m);
    }
}

/// Most registers of a unit: 192 leave room for two cubes per multiprocessor, 168 for three, 128 for four, 96 for
/// five and 80 for six.
fn ceiling(variant: &FewRows) -> usize {
    match variant.rows() {
        _ if variant.adds => 40,
        1 => 80,
        2 => 96,
        4 => 128,
        16 if variant.gate().is_some() => 192,
        _ => 168,
    }
}

/// Assembles the variants that `chosen` selects and returns their registers. It must select one at least.
pub fn assemble(arch: Arch, chosen: impl Fn(&FewRows) -> bool) -> Option<BTreeMap<String, usize>> {
    let variants: Vec<FewRows> = FewRows::all().into_iter().filter(chosen).collect();
    toolkit::assemble(arch, &variants, |one| one.dtype, fault)
}

/// What is wrong with the machine code of a variant, if anything is.
fn fault(variant: &FewRows, machine: &Machine) -> Option<String> {
    // ptxas spills a few bytes of some variants, in gated ones between the two walks, rather than take more registers.
    let (aside, in_loops) = match variant {
        _ if decode::on_the_page(variant) => (0, 0),
        _ if variant.gate().is_some() => (44, 10),
        _ => (8, 3),
    };
    let spilled = machine.spill_stores.max(machine.spill_loads);
    let lean = spilled <= aside
        && machine.stack <= 2 * aside
        && machine.spills_in_loops <= in_loops
        && machine.registers <= ceiling(variant);
    // Loads before the loop and in the loop.
    let wide = machine.instructions["LDG.128"] >= 2 * variant.ahead();
    // Divisions of indices take a few; one for each value would be slow.
    let whole = machine.instructions["I2F"] < 16;
    let right = lean && (variant.adds || wide && whole);
    (!right).then(|| format!("at most {} registers: {machine:?}", ceiling(variant)))
}

#[test]
fn hopper_spills_next_to_nothing_and_reads_16_bytes_at_a_time() {
    assemble(Arch::Sm90, decode::on_the_page);
}

#[test]
fn ampere_spills_next_to_nothing_and_reads_16_bytes_at_a_time() {
    assemble(Arch::Sm80, decode::on_the_page);
}

#[test]
fn the_other_variants_spill_next_to_nothing() {
    let names = [
        "gemv_16x8_int8",
        "gemv_8x16_f16_bias",
        "gemv_2x8_bf16",
        "gemv_16x32_f32",
        "gemv_1x128_f32",
        "gemv_1x64_bf16_silu",
        "gemv_16x64_bf16_gelu",
        "gemv_16x64_bf16_silu_split_k",
        "gemv_16x64_int8_split_k",
        "gemv_16x64_bf16_gelu_add",
    ];
    let chosen = names.map(variant);
    assemble(Arch::Sm90, |one| chosen.contains(one));
}

#[test]
fn the_page_has_a_row_for_every_kernel_it_names() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/kernel-ladder.md");
    let page = std::fs::read_to_string(page).unwrap();
    for variant in FewRows::all().iter().filter(|one| decode::on_the_page(one)) {
        let row = ladder::row_head(variant);
        assert!(page.contains(&row), "docs/src/kernel-ladder.md lacks {row}: run the ladder");
    }
    for line in decode::traffic().lines() {
        assert!(page.contains(line), "docs/src/kernel-ladder.md lacks {line}: run the ladder");
    }
}

//! The tables of the dispatcher.

use super::*;
use crate::cost::DeviceClass;
use crate::cube::caps::tests::{AMPERE, AMPERE_F32, APPLE, VULKAN, WEBGPU};
use crate::{BlockMask, BlockSize, MatrixShape};

const PIPED: KernelClass = KernelClass::TensorCores { pipelined: true };
const PLAIN: KernelClass = KernelClass::TensorCores { pipelined: false };
const BY_16: KernelClass = KernelClass::CooperativeMatrices { side: 16, tf32: false };
const BY_8: KernelClass = KernelClass::CooperativeMatrices { side: 8, tf32: false };
const TF32: KernelClass = KernelClass::CooperativeMatrices { side: 16, tf32: true };
const TILES: KernelClass = KernelClass::RegisterTiles;
const FULL: Op = Op::Spmm { bias: true, activation: true, residual: true };

fn sparse(block: usize, [rows, cols]: [usize; 2]) -> BlockPattern {
    let shape = MatrixShape::new(rows, cols).unwrap();
    BlockPattern::random(shape, BlockSize::new(block).unwrap(), 0.1, 1)
}

/// One full block column of `rows` blocks beside `cols - 1` columns of one block.
fn skewed(block: usize, rows: usize, cols: usize) -> BlockPattern {
    let shape = MatrixShape::new(rows * block, cols * block).unwrap();
    let mut mask = BlockMask::empty(shape, BlockSize::new(block).unwrap());
    (0..rows).for_each(|row| mask.set(row, 0, true));
    (1..cols).for_each(|col| mask.set(0, col, true));
    BlockPattern::from_mask(&mask)
}

fn planned(op: Op, caps: &Caps, pattern: &BlockPattern, m: usize) -> Plan {
    plan(op, caps, &Problem { pattern, m })
}

#[test]
fn the_class_follows_the_table() {
    let none = Caps { cmma: None, ..AMPERE };
    let exact = Caps { cmma: None, ..AMPERE_F32 };
    let small = Caps { shared_bytes: 16_384, ..AMPERE };
    let varying = Caps { plane: None, ..VULKAN };
    let table = [
        ("all there", AMPERE, 64, [512, 1024], PIPED),
        ("no cp.async", Caps { copy_async: false, ..AMPERE }, 64, [512, 1024], PLAIN),
        ("no instruction", Caps { mma: false, ..none }, 64, [512, 1024], TILES),
        ("no ldmatrix", Caps { ldmatrix: false, ..none }, 64, [512, 1024], TILES),
        ("planes of 64", Caps { plane: Some(64), ..none }, 64, [512, 1024], TILES),
        ("planes that vary", Caps { plane: None, ..AMPERE }, 64, [512, 1024], TILES),
        ("small cubes", Caps { max_units: 128, ..none }, 64, [512, 1024], TILES),
        ("16 KiB", small, 64, [512, 1024], TILES),
        ("16 KiB, Metal", Caps { shared_bytes: 16_384, ..APPLE }, 64, [512, 1024], TILES),
        ("cubes of 128, Metal", Caps { max_units: 128, ..APPLE }, 64, [512, 1024], TILES),
        ("block 8", AMPERE, 8, [512, 1024], TILES),
        ("block 16", AMPERE, 16, [512, 1024], BY_16),
        ("no ldmatrix, but wmma", Caps { ldmatrix: false, ..AMPERE }, 64, [512, 1024], BY_16),
        ("Metal", APPLE, 64, [512, 1024], BY_8),
        ("Metal, block 16", APPLE, 16, [512, 1024], BY_8),
        ("Metal, block 8", APPLE, 8, [512, 1024], TILES),
        ("Metal, ragged by four", APPLE, 64, [516, 1028], BY_8),
        ("Metal, ragged by two", APPLE, 64, [514, 1028], TILES),
        ("Vulkan", VULKAN, 128, [512, 1024], BY_16),
        ("Vulkan, planes that vary", varying, 64, [512, 1024], TILES),
        ("Vulkan, planes of 8", Caps { plane: Some(8), ..VULKAN }, 64, [512, 1024], TILES),
        ("block 32", AMPERE, 32, [512, 1024], PIPED),
        ("block 128", AMPERE, 128, [512, 1024], PIPED),
        ("a ragged block", AMPERE, 64, [520, 1032], PIPED),
        ("rows of x not at 16 bytes", none, 64, [516, 1024], TILES),
        ("rows of y not at 16 bytes", none, 64, [512, 1028], TILES),
        ("rows at 8 bytes", AMPERE, 64, [516, 1028], BY_16),
        ("f32", exact, 64, [512, 1024], TILES),
        ("f32, TF32 allowed", AMPERE_F32, 64, [512, 1024], TF32),
        ("f32, TF32 allowed, block 8", AMPERE_F32, 8, [512, 1024], TILES),
        ("f32, TF32 allowed, block 16", AMPERE_F32, 16, [512, 1024], TF32),
        ("f32, TF32 allowed, block 128", AMPERE_F32, 128, [512, 1024], TF32),
        ("f32, TF32 allowed, ragged by four", AMPERE_F32, 64, [516, 1028], TF32),
        ("f32, TF32 allowed, ragged by two", AMPERE_F32, 64, [512, 1026], TILES),
        ("WebGPU", WEBGPU, 64, [512, 1024], TILES),
    ];
    for (name, caps, block, sides, want) in table {
        let pattern = sparse(block, sides);
        for op in [FULL, Op::SpmmT { residual: true }, Op::Sddmm] {
            assert_eq!(planned(op, &caps, &pattern, 4096).class(), want, "{name}, {op:?}");
        }
        // Cooperative matrices have no gated kernel.
        let gated = if matches!(want, PIPED | PLAIN) { want } else { TILES };
        let op = Op::Gated { up: &pattern, backward: true };
        assert_eq!(planned(op, &caps, &pattern, 4096).class(), gated, "{name}");
    }
    // With indices of 64 bits, copies do not run ahead.
    let plan = planned(Op::PRODUCT, &AMPERE, &sparse(64, [512, 1024]), 1 << 23);
    assert_eq!(plan.class(), PLAIN);
}

#[test]
fn few_rows_follow_the_table() {
    // 256 block columns fill an A100, 96 do not.
    let (wide, narrow) = (sparse(64, [512, 256 * 64]), sparse(64, [512, 96 * 64]));
    let exact = Caps { cmma: None, ..AMPERE_F32 };
    let gated = |backward| Op::Gated { up: &wide, backward };
    let activated = Op::Spmm { bias: true, activation: true, residual: false };
    let table = [
        ("one row", Op::PRODUCT, AMPERE, &wide, 1, true),
        ("eight rows", Op::PRODUCT, AMPERE, &wide, 8, true),
        ("nine rows, tensor cores", Op::PRODUCT, AMPERE, &wide, 9, false),
        ("nine rows, tensor cores, few columns", Op::PRODUCT, AMPERE, &narrow, 9, true),
        ("seventeen rows", Op::PRODUCT, AMPERE, &narrow, 17, false),
        ("nine rows, unknown size", Op::PRODUCT, APPLE, &wide, 9, true),
        ("sixteen rows, no tensor cores", Op::PRODUCT, exact, &wide, 16, true),
        // A unit keeps up with memory in f32, tensor cores or not.
        ("sixteen rows in TF32", Op::PRODUCT, AMPERE_F32, &wide, 16, true),
        ("cubes of 64", Op::PRODUCT, Caps { max_units: 64, ..AMPERE }, &wide, 1, false),
        (
            "8 KiB of shared memory",
            Op::PRODUCT,
            Caps { shared_bytes: 8192, ..AMPERE },
            &wide,
            1,
            false,
        ),
        ("the buffers of WebGPU", Op::PRODUCT, WEBGPU, &wide, 1, true),
        ("with an activation", activated, AMPERE, &wide, 1, true),
        ("with a residual", FULL, AMPERE, &wide, 1, false),
        ("transposed", Op::SpmmT { residual: false }, AMPERE, &wide, 1, false),
        ("integers", Op::SpmmInt8, AMPERE, &wide, 16, true),
        ("many integers", Op::SpmmInt8, AMPERE, &wide, 17, false),
        ("integers on WebGPU", Op::SpmmInt8, WEBGPU, &wide, 16, true),
        ("a gated pair", gated(false), AMPERE, &wide, 8, true),
        ("a gated pair of nine rows", gated(false), AMPERE, &wide, 9, false),
        // Cooperative matrices would not take it otherwise.
        ("a gated pair in TF32", gated(false), AMPERE_F32, &wide, 16, true),
        ("gradients of a gated pair", gated(true), AMPERE, &wide, 1, false),
        ("a gated pair on WebGPU", gated(false), WEBGPU, &wide, 1, false),
    ];
    for (name, op, caps, pattern, m, want) in table {
        let plan = planned(op, &caps, pattern, m);
        assert_eq!(plan.class() == KernelClass::Gemv, want, "{name}: {plan}");
    }
}

#[test]
fn what_no_kernel_does_is_left_to_the_caller() {
    let pattern = sparse(64, [512, 1024]);
    let residual = |bias| Op::Spmm { bias, activation: false, residual: true };
    let activated = Op::Spmm { bias: true, activation: true, residual: false };
    let table = [
        ("few rows", activated, AMPERE, 1, Unfused::Activation),
        ("many rows", activated, AMPERE, 64, Unfused::Nothing),
        ("residual", residual(true), AMPERE, 64, Unfused::Nothing),
        ("residual and bias on WebGPU", residual(true), WEBGPU, 64, Unfused::Residual),
        ("residual on WebGPU", residual(false), WEBGPU, 64, Unfused::Nothing),
        ("transposed", Op::SpmmT { residual: true }, APPLE, 64, Unfused::Nothing),
        ("transposed on WebGPU", Op::SpmmT { residual: true }, WEBGPU, 64, Unfused::Residual),
        ("transposed, no residual", Op::SpmmT { residual: false }, WEBGPU, 64, Unfused::Nothing),
    ];
    for (name, op, caps, m, want) in table {
        assert_eq!(planned(op, &caps, &pattern, m).unfused, want, "{name}");
    }
}

#[test]
fn candidates_are_of_one_class_and_several_heights_the_usual_one_first() {
    let exact = Caps { cmma: None, ..AMPERE_F32 };
    let table = [
        ("mma, many rows", AMPERE, 64, 8192, vec![256, 128, 64]),
        ("mma, 40 rows", AMPERE, 64, 40, vec![64, 256, 128]),
        ("mma, 129 rows", AMPERE, 64, 129, vec![256, 128, 64]),
        (
            "too little shared memory",
            Caps { shared_bytes: 16_384, ..AMPERE },
            64,
            8192,
            vec![128, 64],
        ),
        ("cooperative matrices", APPLE, 32, 8192, vec![128, 64]),
        ("cooperative matrices in f32", AMPERE_F32, 64, 8192, vec![128, 64]),
        ("register tiles", exact, 16, 8192, vec![128, 64]),
        ("register tiles, few rows", exact, 64, 3, vec![16]),
        ("register tiles, 33 rows", exact, 64, 33, vec![64, 32]),
    ];
    for (name, caps, block, m, want) in table {
        let pattern = sparse(block, [512, 512 * block]);
        let plans = candidates(FULL, &caps, &Problem { pattern: &pattern, m });
        let rows: Vec<usize> = plans.iter().map(|plan| plan.tile().unwrap()[0]).collect();
        assert_eq!(rows, want, "{name}");
        assert!(plans.iter().all(|plan| plan.class() == plans[0].class()), "{name}");
    }
}

#[test]
fn split_k_follows_the_table() {
    let long = skewed(64, 128, 16);
    let even = sparse(64, [1024, 1024]);
    let unknown = Caps { compute_units: None, ..AMPERE };
    let table = [
        ("a long column", FULL, AMPERE, &long, 64, true),
        ("its transpose", Op::SpmmT { residual: false }, AMPERE, &long, 64, false),
        ("balanced columns", FULL, AMPERE, &even, 64, false),
        ("many rows", FULL, AMPERE, &long, 1 << 16, false),
        ("an unknown number of multiprocessors", FULL, unknown, &long, 64, false),
        ("cooperative matrices", FULL, APPLE, &long, 64, false),
        ("few rows, a long column", Op::PRODUCT, AMPERE, &long, 1, true),
        ("few rows, balanced columns", Op::PRODUCT, AMPERE, &even, 1, false),
        ("rows of few groups", Op::Sddmm, AMPERE, &even, 8192, true),
        ("few rows of few groups", Op::Sddmm, AMPERE, &even, 512, false),
    ];
    for (name, op, caps, pattern, m, want) in table {
        let plan = planned(op, &caps, pattern, m);
        assert_eq!(plan.split().is_some(), want, "{name}: {plan}");
    }
}

#[test]
fn four_elements_are_moved_where_the_rows_of_the_weight_allow_it() {
    for (cols, width) in [(64, 4), (60, 4), (62, 1), (63, 1)] {
        let pattern = sparse(16, [41, cols]);
        let kernel = |op| planned(op, &WEBGPU, &pattern, 0).kernel;
        assert_eq!(kernel(Op::Pack), Kernel::Pack { width }, "{cols} columns");
        assert_eq!(kernel(Op::Unpack), Kernel::Unpack { width }, "{cols} columns");
    }
}

#[test]
fn a_plan_is_printed() {
    let (pattern, long) = (sparse(64, [512, 1024]), skewed(64, 128, 16));
    let activated = Op::Spmm { bias: false, activation: true, residual: false };
    let table = [
        (Op::PRODUCT, AMPERE, &pattern, 3, "gemv, 4 x 64 per cube"),
        (activated, AMPERE, &pattern, 1, "gemv, 1 x 64 per cube, the activation apart"),
        (
            FULL,
            AMPERE,
            &long,
            64,
            "tensor cores, copies ahead, 64 x 64 per cube, split-K by 8 blocks",
        ),
        (
            FULL,
            AMPERE_F32,
            &pattern,
            64,
            "cooperative matrices of 16 x 16 in TF32, 64 x 64 per cube",
        ),
        (FULL, APPLE, &pattern, 64, "cooperative matrices of 8 x 8, 64 x 64 per cube"),
        (
            Op::SpmmInt8,
            WEBGPU,
            &pattern,
            64,
            "values dequantised, then register tiles, 64 x 64 per cube",
        ),
        (
            Op::Sddmm,
            AMPERE,
            &pattern,
            8192,
            "tensor cores, copies ahead, 128 x 64 per cube, split-K in 8",
        ),
        (Op::Unpack, WEBGPU, &pattern, 0, "register tiles"),
    ];
    for (op, caps, pattern, m, want) in table {
        assert_eq!(planned(op, &caps, pattern, m).to_string(), want, "{op:?}");
    }
}

#[test]
fn the_cost_model_learns_of_cores_that_only_the_dense_product_has() {
    let exact = Caps { cmma: None, ..AMPERE_F32 };
    let varying = Caps { plane: None, ..VULKAN };
    let table = [
        ("Ampere", AMPERE, AMPERE, DeviceClass::TensorCores),
        ("Metal", APPLE, APPLE, DeviceClass::TensorCores),
        ("f32, TF32 allowed", AMPERE_F32, AMPERE_F32, DeviceClass::TensorCores),
        ("f32", AMPERE_F32, exact, DeviceClass::DenseTensorCores),
        ("Vulkan, planes that vary", varying, varying, DeviceClass::DenseTensorCores),
        ("none", exact, exact, DeviceClass::Gpu),
    ];
    for (name, dense, sparse, want) in table {
        assert_eq!(class::cores(&dense, &sparse), want, "{name}");
    }
}

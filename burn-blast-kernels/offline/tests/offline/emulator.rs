//! The emulator itself, on kernels written by hand: each instruction against plain arithmetic, and each
//! kind of fault.

use blast_offline::{BF16, Buffer, F16, F32, Launch, OfflineError, Source};
use cubecl::ir::ElemType;

use crate::common::{decode, emulator, encode, round};

const HEAD: &str = "typedef unsigned int uint32_t;\n\
    #include <cuda_fp16.h>\n\
    #include <mma.h>\n\
    struct alignas(16) line { uint32_t words[4]; };\n\
    struct info_st { uint32_t scalars_usize[2]; };\n";

/// A kernel of one warp with the inputs `a` and `b`, the output `d`, and `s` in shared memory.
fn kernel(body: &str) -> Source {
    let code = format!(
        "{HEAD}extern \"C\" __global__ void __launch_bounds__(32)  k_1(uint32_t const* const __restrict__ a, \
         uint32_t const* const __restrict__ b, float * const __restrict__ d, \
         __grid_constant__ info_st const info_v1) {{\n\
         extern __shared__ __align__(16) char s[];\n\
         unsigned const lane = threadIdx.x;\n{body}\n}}\n"
    );
    Source { code, entry: "k_1".into(), shared_bytes: 1024 }
}

fn run(
    body: &str,
    a: Vec<u8>,
    b: Vec<u8>,
    outputs: usize,
) -> Option<Result<Vec<f32>, OfflineError>> {
    let program = emulator()?.build(&kernel(body)).unwrap_or_else(|error| panic!("{error}"));
    let mut buffers = [a, b].map(|bytes| Buffer { bytes, writable: false }).to_vec();
    buffers.push(Buffer { bytes: encode(F32, &vec![f32::NAN; outputs]), writable: true });
    let launch = Launch { blocks: [1, 1, 1], units: 32, info: &[0; 8] };
    Some(program.run(launch, &mut buffers).map(|_| decode(F32, &buffers[2].bytes)))
}

fn numbers(dtype: ElemType, count: usize, step: usize) -> Vec<f32> {
    // Small integers and halves: exact in every type, so that sums have one right value.
    (0..count).map(|at| round(dtype, ((at * step) % 17) as f32 * 0.5 - 4.0)).collect()
}

/// `d[i, j] = Σ_k a[i, k] · b[k, j]`, of 16 rows.
fn product(a: &[f32], b: &[f32], depth: usize) -> Vec<f32> {
    let cols = b.len() / depth;
    let cell = |i: usize, j: usize| (0..depth).map(|k| a[i * depth + k] * b[k * cols + j]).sum();
    (0..16 * cols).map(|at| cell(at / cols, at % cols)).collect()
}

/// Cells of `rows` rows, by columns.
fn transpose(cells: &[f32], rows: usize) -> Vec<f32> {
    let cols = cells.len() / rows;
    (0..cells.len()).map(|at| cells[at % rows * cols + at / rows]).collect()
}

const STORE: &str = "\
    unsigned const i = lane / 4, j = lane % 4 * 2;\n\
    d[i * 8 + j] = r.i_0; d[i * 8 + j + 1] = r.i_1;\n\
    d[(i + 8) * 8 + j] = r.i_2; d[(i + 8) * 8 + j + 1] = r.i_3;\n";

/// One 16 x 8 x 16 product through shared memory; `b` is `[k, n]`, or `[n, k]` if not `transposed`.
fn sixteen_bit(kind: &str, transposed: bool) -> String {
    let (trans, row) = if transposed {
        (".trans", "lane % 16 * 16")
    } else {
        ("", "lane % 8 * 32 + lane / 8 % 2 * 16")
    };
    format!(
        "struct {{ float i_0, i_1, i_2, i_3; }} r;\n\
         uint32_t a0, a1, a2, a3, b0, b1; float const zero = 0;\n\
         ((line *)s)[lane] = ((line const *)a)[lane];\n\
         if (lane < 16) ((line *)s)[32 + lane] = ((line const *)b)[lane];\n\
         __syncthreads();\n\
         uint32_t const pa = __cvta_generic_to_shared(s) + lane % 16 * 32 + lane / 16 * 16;\n\
         uint32_t const pb = __cvta_generic_to_shared(s) + 512 + {row};\n\
         asm volatile(\"ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {{%0, %1, %2, %3}}, [%4];\" : \
         \"=r\"(a0), \"=r\"(a1), \"=r\"(a2), \"=r\"(a3) : \"r\"(pa) : \"memory\");\n\
         asm volatile(\"ldmatrix.sync.aligned.m8n8.x2{trans}.shared::cta.b16 {{%0, %1}}, [%2];\" : \
         \"=r\"(b0), \"=r\"(b1) : \"r\"(pb) : \"memory\");\n\
         asm volatile(\"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {{%0, %1, %2, %3}}, \
         {{%4, %5, %6, %7}}, {{%8, %9}}, {{%10, %11, %12, %13}};\" : \
         \"=f\"(r.i_0), \"=f\"(r.i_1), \"=f\"(r.i_2), \"=f\"(r.i_3) : \
         \"r\"(a0), \"r\"(a1), \"r\"(a2), \"r\"(a3), \"r\"(b0), \"r\"(b1), \
         \"f\"(zero), \"f\"(zero), \"f\"(zero), \"f\"(zero) );\n{STORE}"
    )
}

#[test]
fn the_16_bit_instruction_and_both_forms_of_ldmatrix() {
    for (kind, dtype) in [("f16", F16), ("bf16", BF16)] {
        let (a, b) = (numbers(dtype, 256, 5), numbers(dtype, 128, 7));
        let by_columns = transpose(&b, 16);
        for (transposed, stored) in [(true, &b), (false, &by_columns)] {
            let body = sixteen_bit(kind, transposed);
            let Some(got) = run(&body, encode(dtype, &a), encode(dtype, stored), 128) else {
                return;
            };
            assert_eq!(got.unwrap(), product(&a, &b, 16), "{kind}, transposed: {transposed}");
        }
    }
}

#[test]
fn the_tf32_instruction_drops_the_lowest_bits() {
    let body = format!(
        "struct {{ float i_0, i_1, i_2, i_3; }} r; float const zero = 0;\n\
         unsigned const q = lane / 4, t = lane % 4;\n\
         uint32_t const a0 = a[q * 8 + t], a1 = a[(q + 8) * 8 + t], a2 = a[q * 8 + t + 4], \
         a3 = a[(q + 8) * 8 + t + 4], b0 = b[t * 8 + q], b1 = b[(t + 4) * 8 + q];\n\
         asm volatile(\"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {{%0, %1, %2, %3}}, \
         {{%4, %5, %6, %7}}, {{%8, %9}}, {{%10, %11, %12, %13}};\" : \
         \"=f\"(r.i_0), \"=f\"(r.i_1), \"=f\"(r.i_2), \"=f\"(r.i_3) : \
         \"r\"(a0), \"r\"(a1), \"r\"(a2), \"r\"(a3), \"r\"(b0), \"r\"(b1), \
         \"f\"(zero), \"f\"(zero), \"f\"(zero), \"f\"(zero) );\n{STORE}"
    );
    let (a, b) = (numbers(F32, 128, 5), numbers(F32, 64, 7));
    // A part in 2^12 is below what tf32 keeps of these numbers.
    let noisy: Vec<f32> = a.iter().map(|value| value * (1.0 + 1.0 / 4096.0)).collect();
    let Some(got) = run(&body, encode(F32, &noisy), encode(F32, &b), 128) else { return };
    assert_eq!(got.unwrap(), product(&a, &b, 8));
}

/// How a product by `wmma` ends: multiplies the two fragments and hands out the result.
const MULTIPLY: &str = "mma_sync(sum, left, right, sum);\n\
    __syncthreads();\n\
    store_matrix_sync((float *)s, sum, 16, mem_row_major);\n\
    __syncthreads();\n\
    for (unsigned i = 0; i < 8; i++) d[lane * 8 + i] = ((float *)s)[lane * 8 + i];\n";

/// One 16 x 16 x 16 product by `wmma`; `a` and `b` are stored by rows or by columns.
fn cooperative(kind: &str, a: &str, b: &str) -> String {
    format!(
        "using namespace nvcuda::wmma;\n\
         ((line *)s)[lane] = ((line const *)a)[lane];\n\
         ((line *)s)[32 + lane] = ((line const *)b)[lane];\n\
         __syncthreads();\n\
         fragment<matrix_a, 16, 16, 16, {kind}, {a}> left;\n\
         fragment<matrix_b, 16, 16, 16, {kind}, {b}> right;\n\
         fragment<accumulator, 16, 16, 16, float> sum;\n\
         fill_fragment(sum, 0.0f);\n\
         load_matrix_sync(left, ({kind} const *)s, 16);\n\
         load_matrix_sync(right, ({kind} const *)(s + 512), 16);\n\
         {MULTIPLY}"
    )
}

#[test]
fn cooperative_matrices_in_both_layouts() {
    for (kind, dtype) in [("__half", F16), ("__nv_bfloat16", BF16)] {
        let (a, b) = (numbers(dtype, 256, 5), numbers(dtype, 256, 7));
        let want = product(&a, &b, 16);
        for (by_rows, order) in [(true, "row_major"), (false, "col_major")] {
            let stored =
                |cells: &[f32]| if by_rows { cells.to_vec() } else { transpose(cells, 16) };
            let (left, right) = (encode(dtype, &stored(&a)), encode(dtype, &stored(&b)));
            let Some(got) = run(&cooperative(kind, order, order), left, right, 256) else { return };
            assert_eq!(got.unwrap(), want, "{kind}, {order}");
        }
    }
}

/// One 16 x 16 x 8 product in TF32 by `wmma`, of numbers converted to it or not.
fn cooperative_tf32(order: &str, strides: [usize; 2], convert: bool) -> String {
    let convert = if convert { "__float_to_tf32" } else { "" };
    let [a, b] = strides;
    format!(
        "using namespace nvcuda::wmma;\n\
         for (unsigned i = 0; i < 4; i++) {{\n\
         ((float *)s)[lane * 4 + i] = {convert}(((float const *)a)[lane * 4 + i]);\n\
         ((float *)s)[128 + lane * 4 + i] = {convert}(((float const *)b)[lane * 4 + i]);\n\
         }}\n\
         __syncthreads();\n\
         fragment<matrix_a, 16, 16, 8, precision::tf32, {order}> left;\n\
         fragment<matrix_b, 16, 16, 8, precision::tf32, {order}> right;\n\
         fragment<accumulator, 16, 16, 8, float> sum;\n\
         fill_fragment(sum, 0.0f);\n\
         load_matrix_sync(left, (float const *)s, {a});\n\
         load_matrix_sync(right, (float const *)(s + 512), {b});\n\
         {MULTIPLY}"
    )
}

#[test]
fn cooperative_matrices_of_tf32_in_both_layouts_keep_ten_bits() {
    let (a, b) = (numbers(F32, 128, 5), numbers(F32, 128, 7));
    let want = product(&a, &b, 8);
    // Just below a number of ten bits: rounding finds it, a multiplier that truncates does not. A part in 2^12 above
    // one is truncated.
    let noisy = |value: f32, below: bool| match value {
        0.0 => 0.0,
        _ if below => f32::from_bits(value.to_bits() - 1),
        _ => value * (1.0 + 1.0 / 4096.0),
    };
    for (order, strides) in [("row_major", [8, 16]), ("col_major", [16, 8])] {
        let stored = |cells: &[f32], rows: usize| {
            if order == "row_major" { cells.to_vec() } else { transpose(cells, rows) }
        };
        for convert in [true, false] {
            let noise = |cells: Vec<f32>| -> Vec<f32> {
                cells.into_iter().map(|value| noisy(value, convert)).collect()
            };
            let (left, right) = (noise(stored(&a, 16)), noise(stored(&b, 8)));
            let body = cooperative_tf32(order, strides, convert);
            let Some(got) = run(&body, encode(F32, &left), encode(F32, &right), 256) else {
                return;
            };
            assert_eq!(got.unwrap(), want, "{order}, converted: {convert}");
        }
    }
}

#[test]
fn conversion_to_tf32_rounds_ties_away_from_zero() {
    let step = 1.0 / 1024.0;
    let table = [
        (1.0, 1.0),
        (1.0 + 0.49 * step, 1.0),
        (1.0 + 0.5 * step, 1.0 + step),
        (-1.0 - 0.5 * step, -1.0 - step),
        (1.0 + 1.5 * step, 1.0 + 2.0 * step),
        (f32::INFINITY, f32::INFINITY),
        (f32::MAX, f32::INFINITY),
    ];
    let body = "using namespace nvcuda::wmma;\n\
         d[lane] = __float_to_tf32(((float const *)a)[lane]);\n";
    let mut input = vec![0.0; 32];
    table.iter().enumerate().for_each(|(at, &(value, _))| input[at] = value);
    input[31] = f32::NAN;
    let Some(got) = run(body, encode(F32, &input), vec![0; 4], 32) else { return };
    let got = got.unwrap();
    for (&got, (value, want)) in got.iter().zip(table) {
        assert_eq!(got, want, "{value}");
    }
    assert!(got[31].is_nan());
}

fn copy(from: &str, from_bytes: &str) -> String {
    format!(
        "asm volatile(\"cp.async.cg.shared::cta.global [%0], [%1], 16, %2;\" :  : \
         \"r\"(lane * 16), \"l\"({from}), \"r\"({from_bytes}) : \"memory\");\n"
    )
}

const COMMIT: &str = "asm volatile(\"cp.async.commit_group;\" :  :  : \"memory\");\n";
const WAIT: &str = "asm volatile(\"cp.async.wait_group 0;\" :  :  : \"memory\");\n";

#[test]
fn a_short_copy_fills_up_with_zeros() {
    let read = "for (int i = 0; i < 4; i++) d[lane * 4 + i] = ((float *)s)[lane * 4 + i];";
    let body = format!("{}{COMMIT}{WAIT}{read}", copy("a + lane * 4", "8"));
    let a = numbers(F32, 128, 3);
    let Some(got) = run(&body, encode(F32, &a), vec![0; 4], 128) else { return };
    let want: Vec<f32> = (0..128).map(|at| if at % 4 < 2 { a[at] } else { 0.0 }).collect();
    assert_eq!(got.unwrap(), want);
}

const FRAGMENT: &str =
    "using namespace nvcuda::wmma; fragment<matrix_a, 16, 16, 16, __half, row_major> left; ";

#[test]
fn each_fault_is_reported_by_its_kind() {
    let copied = format!("{}{COMMIT}", copy("a + lane * 4", "16"));
    let own = "((float *)s)[lane] = 1;";
    let neighbour = "d[lane] = ((float *)s)[(lane + 1) % 32];";
    let table = [
        ("a copy read too early", format!("{copied}d[lane] = ((float *)s)[lane * 4];"), "has not arrived"),
        ("a copy overwritten", format!("{copied}((float *)s)[lane * 4] = 1;"), "overwrites a copy that has not"),
        ("a copy read by another", format!("{copied}{WAIT}if (lane == 31) d[0] = ((float *)s)[0];"), "reads what unit 0 wrote"),
        ("a store read by another", format!("{own}{neighbour}"), "never written"),
        ("a read overwritten", format!("{own}__syncthreads();{neighbour}{own}"), "another unit read"),
        ("two stores", "((float *)s)[lane / 2] = 1;".into(), "overwrites what unit 0 wrote"),
        ("a later store read", format!("((float *)s)[lane] = 1; {}", "if (lane) d[lane] = ((float *)s)[0];"), "reads what unit 0 wrote"),
        ("nothing written", "d[lane] = ((float *)s)[lane];".into(), "never written"),
        ("beyond shared memory", "((float *)s)[240 + lane] = 1;".into(), "the block has 1024 bytes"),
        ("before shared memory", "((float *)s)[(int)lane - 1] = 1;".into(), "at shared byte -4"),
        ("beyond an input", "d[lane] = a[128 + lane];".into(), "outside of every buffer"),
        ("into an input", "((uint32_t *)a)[lane] = 1;".into(), "buffer 0, an input"),
        ("half a warp", "if (lane < 16) { uint32_t r; asm volatile(\"ldmatrix.sync.aligned.m8n8.x1.shared::cta.b16 {%0}, [%1];\" : \"=r\"(r) : \"r\"(lane * 16) : \"memory\"); d[lane] = r; }".into(), "went another way"),
        ("a fragment not at 32 bytes", format!("{FRAGMENT}load_matrix_sync(left, (__half const *)s + 8, 16);"), "does not start at 32 bytes"),
        ("lines of a fragment too close", format!("{FRAGMENT}load_matrix_sync(left, (__half const *)s, 20);"), "not a multiple of 16 bytes"),
        ("lanes with fragments of their own", format!("{FRAGMENT}load_matrix_sync(left, (__half const *)s + lane * 16, 16);"), "different addresses"),
        ("a fragment never written", format!("{FRAGMENT}load_matrix_sync(left, (__half const *)s, 16);"), "never written"),
        ("a copy not at 16 bytes", copy("a + 1", "16"), "not aligned"),
    ];
    let (a, b) = (encode(F32, &numbers(F32, 128, 3)), vec![0; 4]);
    for (name, body, want) in table {
        let Some(got) = run(&body, a.clone(), b.clone(), 128) else { return };
        match got {
            Err(OfflineError::Fault { message, .. }) => {
                assert!(message.contains(want), "{name}: {message}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn code_that_is_not_cpp_is_refused_with_the_compiler_s_words() {
    let Some(emulator) = emulator() else { return };
    let error = emulator.build(&kernel("d[lane] = nonsense;")).err().unwrap().to_string();
    assert!(error.contains("refuses the emulated kernel (set CXX"), "{error}");
    assert!(error.contains("nonsense"), "{error}");
}

//! What the tests share: the emulator, and one problem laid out as a launch lays it out.

use std::sync::OnceLock;

use blast_offline::{
    Arch, BF16, Buffer, Emulator, F16, F32, Launch, OfflineError, Program, Source, TF32, Toolkit,
    Traffic, cooperative, generate,
};
use burn_blast_kernels::cube::catalogue::{Definition, Parts, Variant, Verb};
use burn_blast_kernels::reference::{self, Exact, Rounding};
use burn_blast_kernels::{BlockMask, BlockPattern, BlockSize, MatrixShape, pack};
use cubecl::ir::{AddressType, ElemType};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The emulator, compiled once. Without a C++ compiler the caller's test is skipped, with a word about it.
pub fn emulator() -> Option<&'static Emulator> {
    static EMULATOR: OnceLock<Option<Emulator>> = OnceLock::new();
    let emulator = EMULATOR.get_or_init(|| {
        Emulator::new().unwrap_or_else(|error| panic!("the emulator does not compile: {error}"))
    });
    if emulator.is_none() {
        let required = std::env::var("BURN_BLAST_REQUIRE_EMULATOR").is_ok_and(|value| value == "1");
        assert!(!required, "BURN_BLAST_REQUIRE_EMULATOR is set, but there is no g++ and no $CXX");
        println!("SKIPPED: there is no g++ and no $CXX to compile the emulator with");
    }
    emulator.as_ref()
}

/// The toolkit. Without it the caller's test is skipped, with a word about it.
pub fn toolkit() -> Option<Toolkit> {
    let toolkit = Toolkit::find();
    if toolkit.is_none() {
        let required = std::env::var("BURN_BLAST_REQUIRE_TOOLKIT").is_ok_and(|value| value == "1");
        assert!(
            !required,
            "BURN_BLAST_REQUIRE_TOOLKIT is set, but there is no CUDA toolkit: run toolkit.sh"
        );
        println!(
            "SKIPPED: there is no CUDA toolkit; burn-blast-kernels/offline/toolkit.sh installs one"
        );
    }
    toolkit
}

/// A variant by its name.
pub fn variant(name: &str) -> Variant {
    let mut all = Variant::all();
    all.extend(cooperative(Arch::Sm80, BF16));
    *all.iter()
        .find(|variant| variant.name() == name)
        .unwrap_or_else(|| panic!("no variant {name}"))
}

/// Picks the variants with these names.
pub fn named<const N: usize>(names: [&str; N]) -> impl Fn(&Variant) -> bool {
    let names = names.map(|name| variant(name).name());
    move |variant| names.contains(&variant.name())
}

pub fn source(variant: &Variant, dtype: ElemType) -> Source {
    generate(variant, Arch::Sm80, dtype, AddressType::U32).unwrap()
}

/// The emulated kernel of a variant.
pub fn build(emulator: &Emulator, variant: &Variant, dtype: ElemType) -> Result<Program, String> {
    emulator.build(&source(variant, dtype)).map_err(|error| format!("{}: {error}", variant.name()))
}

/// A pattern of the kept blocks `(row, col)`.
pub fn pattern(sides: [usize; 2], block: usize, kept: &[(usize, usize)]) -> BlockPattern {
    let shape = MatrixShape::new(sides[0], sides[1]).unwrap();
    let mut mask = BlockMask::empty(shape, BlockSize::new(block).unwrap());
    kept.iter().for_each(|&(row, col)| mask.set(row, col, true));
    BlockPattern::from_mask(&mask)
}

/// Numbers from -1 to 1, rounded to the type.
pub fn draw(rng: &mut ChaCha8Rng, dtype: ElemType, count: usize) -> Vec<f32> {
    (0..count).map(|_| round(dtype, rng.random_range(-1.0..1.0))).collect()
}

/// Tensors of one product, rounded to the storage type.
pub struct Problem {
    pub dtype: ElemType,
    pub pattern: BlockPattern,
    pub m: usize,
    pub x: Vec<f32>,
    pub dy: Vec<f32>,
    pub values: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Problem {
    /// A problem on the kept blocks `(row, col)`.
    pub fn new(
        dtype: ElemType,
        sides: [usize; 2],
        block: usize,
        kept: &[(usize, usize)],
        m: usize,
    ) -> Self {
        let pattern = pattern(sides, block, kept);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut draw = |count| draw(&mut rng, dtype, count);
        Self {
            x: draw(m * sides[0]),
            dy: draw(m * sides[1]),
            values: pack::pack(&draw(sides[0] * sides[1]), &pattern),
            bias: draw(sides[1]),
            dtype,
            pattern,
            m,
        }
    }

    /// What a variant of `spmm` or `spmm_t` must give, and its contraction and output sides.
    fn wanted(&self, variant: &Variant) -> (Vec<Exact>, [usize; 2]) {
        let (pattern, shape) = (&self.pattern, self.pattern.shape());
        let Parts { bias, activation, residual } = variant.epilogue();
        let bias = bias.then_some(self.bias.as_slice());
        let (mut want, sides) = if variant.verb() == Verb::SpmmT {
            let want = reference::spmm_t(&self.dy, &self.values, pattern);
            (want, [shape.cols(), shape.rows()])
        } else {
            let want = reference::spmm(&self.x, &self.values, bias, pattern);
            (want, [shape.rows(), shape.cols()])
        };
        if let Some(f) = activation {
            want = reference::activate(&want, f);
        }
        let residual = residual.then_some(self.residual(variant));
        for (sum, &term) in want.iter_mut().zip(residual.into_iter().flatten()) {
            sum.add(f64::from(term));
        }
        (want, sides)
    }

    /// As large as the result.
    fn residual(&self, variant: &Variant) -> &[f32] {
        if variant.verb() == Verb::SpmmT { &self.x } else { &self.dy }
    }

    /// The tensors that a variant of `spmm` or `spmm_t` reads before its indices.
    fn operands(&self, variant: &Variant) -> Vec<Buffer> {
        let x = if variant.verb() == Verb::SpmmT { &self.dy } else { &self.x };
        let mut buffers = vec![self.input(x), self.input(&self.values)];
        buffers.extend(variant.epilogue().bias.then(|| self.input(&self.bias)));
        buffers
    }

    /// The one that it reads after them, if any.
    fn last_operand(&self, variant: &Variant) -> Option<Buffer> {
        variant.epilogue().residual.then(|| self.input(self.residual(variant)))
    }

    /// Runs a variant of `spmm` or `spmm_t` and compares with the oracle. With split-K: the most blocks of a part, and
    /// the kernel that adds the parts.
    pub fn check_product(
        &self,
        variant: &Variant,
        program: &Program,
        split: Option<(usize, &Variant, &Program)>,
    ) -> Result<Traffic, String> {
        let (pattern, order) = (&self.pattern, self.pattern.work_order());
        let (want, [contraction, output]) = self.wanted(variant);
        let (ptr, order, views) = if variant.verb() == Verb::SpmmT {
            (pattern.row_ptr(), &order.rows_by_length, vec![pattern.col_idx(), pattern.slot()])
        } else {
            (pattern.col_ptr(), &order.cols_by_length, vec![pattern.row_idx()])
        };
        let [rows, block] = variant.tile_size().unwrap();
        let work = split.map(|(blocks, ..)| Variant::work(ptr, blocks));
        let mut buffers = self.operands(variant);
        let columns = match &work {
            Some(([parts, _], _)) => {
                buffers.push(indices(parts));
                parts.len() / 4
            }
            None => {
                buffers.extend([order, ptr].map(indices));
                order.len()
            }
        };
        buffers.extend(views.into_iter().map(indices));
        buffers.extend(self.last_operand(variant));
        buffers.push(poison(self.dtype, want.len()));
        if let Some((_, partials)) = &work {
            assert!(*partials > 1, "nothing was split");
            buffers.push(poison(F32, partials * self.m * block));
        }
        let row_tiles = self.m.div_ceil(rows);
        let cubes = row_tiles * columns * variant.block_tiles();
        let scalars = [self.m, contraction, output, cubes, panel(row_tiles)];
        let traffic = run(variant, program, cubes, &scalars, &mut buffers)
            .map_err(|error| error.to_string())?;
        if let (Some((_, adder, program)), Some(([_, columns], _))) = (split, &work) {
            let partial = Buffer { writable: false, ..buffers.pop().unwrap() };
            let y = buffers.pop().unwrap();
            buffers = vec![partial];
            buffers.extend(variant.epilogue().bias.then(|| self.input(&self.bias)));
            buffers.push(indices(columns));
            buffers.extend(self.last_operand(variant));
            buffers.push(y);
            let count = columns.len() / 3;
            let cubes = (count * self.m * block / 4).div_ceil(adder.units());
            run(adder, program, cubes, &[self.m, output, count], &mut buffers)
                .map_err(|error| error.to_string())?;
        }
        self.compare(buffers.last().unwrap(), &want)?;
        Ok(traffic)
    }

    /// Runs a variant of `sddmm`, with `add` if its rows are split, and compares with the oracle.
    pub fn check_sddmm(
        &self,
        variant: &Variant,
        program: &Program,
        add: Option<&Program>,
    ) -> Result<Traffic, String> {
        let (result, traffic) =
            self.sddmm(variant, program, add).map_err(|error| error.to_string())?;
        self.compare(&result, &reference::sddmm(&self.x, &self.dy, &self.pattern))?;
        Ok(traffic)
    }

    /// What a variant of `sddmm` writes, and its traffic.
    pub fn sddmm(
        &self,
        variant: &Variant,
        program: &Program,
        add: Option<&Program>,
    ) -> Result<(Buffer, Traffic), OfflineError> {
        let (pattern, shape) = (&self.pattern, self.pattern.shape());
        let parts = if variant.splits_k() { 3 } else { 1 };
        let starts = variant.group_starts(pattern.col_ptr());
        let cubes = (starts.len() - 1) * parts * variant.block_tiles();
        let count = pattern.value_count();
        let out = if variant.splits_k() { F32 } else { self.dtype };
        let order = pattern.work_order();
        let mut buffers = vec![self.input(&self.x), self.input(&self.dy)];
        buffers.extend([pattern.row_idx(), &order.col_of_slot, &starts].map(indices));
        buffers.push(poison(out, parts * count));
        let mut sizes = vec![self.m, shape.rows(), shape.cols()];
        if !variant.is_cooperative() {
            sizes.extend([count, parts]);
        }
        sizes.push(cubes);
        let traffic = run(variant, program, cubes, &sizes, &mut buffers)?;
        let mut result = buffers.pop().unwrap();
        if let Some(add) = add {
            let adder = self::variant("add_row_parts");
            let partial = Buffer { writable: false, ..result };
            let mut buffers = vec![partial, poison(self.dtype, count)];
            let blocks = (count / 4).div_ceil(adder.units());
            run(&adder, add, blocks, &[count / 4, parts], &mut buffers)?;
            result = buffers.pop().unwrap();
        }
        Ok((result, traffic))
    }

    pub fn input(&self, data: &[f32]) -> Buffer {
        input(self.dtype, data)
    }

    pub fn compare(&self, got: &Buffer, want: &[Exact]) -> Result<(), String> {
        let rounding = match self.dtype {
            // Inputs that TF32 holds exactly.
            TF32 => Rounding::F32,
            F32 => Rounding::TF32,
            dtype => rounding(dtype),
        };
        rounding.check(&decode(self.dtype, &got.bytes), want)
    }
}

/// Row tiles of a panel: two panels where there are several row tiles, the second of an odd number smaller.
pub fn panel(row_tiles: usize) -> usize {
    row_tiles.div_ceil(2)
}

/// Whether no two lanes of a warp met in the banks of shared memory.
pub fn check_banks(traffic: Traffic) -> Result<(), String> {
    let Traffic { reads, read_wavefronts, writes, write_wavefronts, .. } = traffic;
    if reads == read_wavefronts && writes == write_wavefronts {
        return Ok(());
    }
    Err(format!("bank conflicts: {traffic:?}"))
}

/// Runs a kernel with these scalars.
pub fn run(
    variant: &impl Definition,
    program: &Program,
    blocks: usize,
    scalars: &[usize],
    buffers: &mut [Buffer],
) -> Result<Traffic, OfflineError> {
    // One block more than there is work for: launches round up too.
    let blocks = [blocks as u64 + 1, 1, 1];
    let info: Vec<u8> = scalars.iter().flat_map(|&n| (n as u32).to_le_bytes()).collect();
    program.run(Launch { blocks, units: variant.units(), info: &info }, buffers)
}

/// Of results of this type from exact inputs.
pub fn rounding(dtype: ElemType) -> Rounding {
    match dtype {
        F16 => Rounding::F16,
        BF16 => Rounding::BF16,
        _ => Rounding::F32,
    }
}

pub fn input(dtype: ElemType, data: &[f32]) -> Buffer {
    Buffer { bytes: encode(dtype, data), writable: false }
}

/// An output full of NaN.
pub fn poison(dtype: ElemType, count: usize) -> Buffer {
    Buffer { bytes: encode(dtype, &vec![f32::NAN; count]), writable: true }
}

/// An index array; one zero for an empty one, as a launch binds it.
pub fn indices(data: &[u32]) -> Buffer {
    let data = if data.is_empty() { &[0] } else { data };
    Buffer { bytes: data.iter().flat_map(|n| n.to_le_bytes()).collect(), writable: false }
}

pub fn round(dtype: ElemType, value: f32) -> f32 {
    match dtype {
        F16 => f16::from_f32(value).to_f32(),
        BF16 => bf16::from_f32(value).to_f32(),
        TF32 => f32::from_bits((value.to_bits() + 0x1000) & !0x1fff),
        _ => value,
    }
}

pub fn encode(dtype: ElemType, data: &[f32]) -> Vec<u8> {
    let word = |&value: &f32| match dtype {
        F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    data.iter().flat_map(word).collect()
}

pub fn decode(dtype: ElemType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        F16 => bytes.as_chunks().0.iter().map(|&two| f16::from_le_bytes(two).to_f32()).collect(),
        BF16 => bytes.as_chunks().0.iter().map(|&two| bf16::from_le_bytes(two).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect(),
    }
}

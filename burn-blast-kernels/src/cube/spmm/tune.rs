//! The height of the tile, measured on the device: once for products alike, the first time one is launched.
//!
//! Heights compute every sum in the same order, so the choice does not show in results, with one exception: lines
//! are cut by the number of tiles (`mma/pieces`), so where one is long its last bits may follow the choice.
//!
//! Burn's dense product is no candidate here: whether a layer is sparse at all is
//! [`Strategy`](crate::Strategy)'s decision.

use std::fmt;

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::BufferBinding;
use cubecl::tune::{AutotuneKey, LocalTuner, Tunable, TunableSet, local_tuner};
use serde::{Deserialize, Serialize};

use super::launch::{Side, run};
use super::plan::Plan;
use crate::Activation;
use crate::BlockPattern;
use crate::cube::call::binding;
use crate::cube::mma::pieces::base::longest_bound;
use crate::cube::{Call, Epilogue};

/// Most plans of a product, and their names in the tuner's log.
const MAX_PLANS: usize = 3;
const NAMES: [&str; MAX_PLANS] = ["tallest", "second", "third"];
/// Names of adapters that compute on the processor: tuning there costs seconds and says nothing.
const SOFTWARE: [&str; 4] = ["llvmpipe", "lavapipe", "swiftshader", "basic render"];

static TUNER: LocalTuner<Key, String> = local_tuner!("spmm");

/// Products alike: rows and kept blocks to the next power of two, everything else exactly.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    class: String,
    dtype: String,
    transposed: bool,
    bias: bool,
    activation: String,
    residual: bool,
    /// Height of each plan, and whether its launch cuts lines. The tuner keeps the number of the fastest, on disk too,
    /// which means the same plan only where these are the same.
    plans: Vec<(usize, bool)>,
    block: usize,
    contraction: usize,
    output: usize,
    log2_rows: u32,
    log2_blocks: u32,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl AutotuneKey for Key {}

/// Whether launches on this device are tuned: not on software adapters, nor on CubeCL's CPU runtime.
pub(super) fn is_on(client: &Client) -> bool {
    let properties = client.properties();
    !is_software(&properties.identity.name, properties.hardware.num_cpu_cores)
}

fn is_software(adapter: &str, cpu_cores: Option<u32>) -> bool {
    let adapter = adapter.to_lowercase();
    cpu_cores.is_some() || SOFTWARE.iter().any(|name| adapter.contains(name))
}

/// A product whose tile is still open.
#[derive(Clone)]
pub(super) struct Product {
    client: Client,
    pattern: BlockPattern,
    dtype: ElemType,
    transposed: bool,
    m: usize,
    /// Tallest first.
    plans: Vec<Plan>,
    compute_units: usize,
}

/// A product with its buffers, as the tuner runs it several times. Each run writes the whole output.
#[derive(Clone)]
struct Input {
    product: Product,
    buffers: [Buffer; 3],
    bias: Option<Buffer>,
    activation: Option<Activation>,
    residual: Option<Buffer>,
}

impl Product {
    /// `plans` are those of the function of this name, more than one.
    pub fn new(call: &Call, transposed: bool, m: usize, mut plans: Vec<Plan>) -> Self {
        plans.sort_by_key(|plan| std::cmp::Reverse(plan.rows()));
        let (client, pattern) = (call.client.clone(), call.pattern.clone());
        let compute_units = call.offer().compute_units;
        Self { client, pattern, dtype: call.dtype, transposed, m, plans, compute_units }
    }

    fn key(&self, [bias, residual]: [bool; 2], activation: Option<Activation>) -> Key {
        let shape = self.pattern.shape();
        let [contraction, output] = if self.transposed {
            [shape.cols(), shape.rows()]
        } else {
            [shape.rows(), shape.cols()]
        };
        let log2 = |count: usize| count.max(1).next_power_of_two().ilog2();
        Key {
            class: self.plans[0].class().into(),
            dtype: format!("{:?}", self.dtype),
            transposed: self.transposed,
            bias,
            activation: format!("{activation:?}"),
            residual,
            plans: self.plans.iter().map(|plan| (plan.rows(), self.cuts(plan))).collect(),
            block: self.pattern.block().get(),
            contraction,
            output,
            log2_rows: log2(self.m),
            log2_blocks: log2(self.pattern.nnz()),
        }
    }

    fn cuts(&self, plan: &Plan) -> bool {
        let row_tiles = self.m.div_ceil(plan.rows());
        let bound = || longest_bound(&self.pattern, self.transposed, self.compute_units, row_tiles);
        matches!(plan, Plan::Mma(_)) && bound().is_some()
    }

    /// Launches the fastest plan, after measuring all if no product alike has been launched.
    pub fn run(self, buffers: [BufferArg; 3], epilogue: Epilogue) {
        let client = self.client.clone();
        let input = Input {
            product: self,
            buffers: buffers.map(Buffer::of),
            bias: epilogue.bias.map(Buffer::of),
            activation: epilogue.activation,
            residual: epilogue.residual.map(Buffer::of),
        };
        let id = format!("{}-{}", client.name(), client.service_id().device);
        let set = TUNER.init(&id, || {
            let key = |input: &Input| input.key();
            // By height, so that a number means the same plan for all products of a key.
            let empty = TunableSet::<Key, Input, ()>::new_cloning_inputs(key);
            (0..MAX_PLANS).fold(empty, |set, at| {
                set.with(Tunable::new(NAMES[at], move |input: Input| input.launch(at)))
            })
        });
        TUNER.execute(&id, &client, set, input);
    }
}

impl Input {
    fn key(&self) -> Key {
        self.product.key([self.bias.is_some(), self.residual.is_some()], self.activation)
    }

    /// Launches the plan of this number, if there is one.
    fn launch(self, at: usize) -> Result<(), String> {
        let Product { client, pattern, dtype, transposed, m, plans, .. } = &self.product;
        let plan = *plans.get(at).ok_or("the product has no such plan")?;
        let call = Call { client, pattern, dtype: *dtype };
        let index = call.index();
        let side = Side::of(&call, &index, *transposed);
        let epilogue = Epilogue {
            bias: self.bias.map(Buffer::arg),
            activation: self.activation,
            residual: self.residual.map(Buffer::arg),
        };
        run(&call, &index, side, plan, self.buffers.map(Buffer::arg), epilogue, *m);
        Ok(())
    }
}

/// A buffer that can be bound more than once.
#[derive(Clone)]
struct Buffer {
    binding: BufferBinding,
    length: usize,
}

impl Buffer {
    fn of(arg: BufferArg) -> Self {
        Self { length: arg.len(), binding: binding(arg) }
    }

    fn arg(self) -> BufferArg {
        // SAFETY: the length is the one it had.
        unsafe { BufferArg::from_raw_parts_binding(self.binding, self.length) }
    }
}

#[cfg(test)]
mod tests {
    use cubecl::ir::FloatKind;

    use super::super::plan::plans;
    use super::*;
    use crate::cube::mma::offer::Class;
    use crate::cube::mma::offer::tests::AMPERE;
    use crate::cube::testing::client;
    use crate::reference::{self, Rounding};
    use crate::{BlockMask, BlockSize, MatrixShape};

    #[test]
    fn software_adapters_are_known_by_name_and_processors_by_their_cores() {
        for name in [
            "llvmpipe (LLVM 15.0.6, 256 bits)",
            "SwiftShader Device (Subzero)",
            "Microsoft Basic Render Driver",
        ] {
            assert!(is_software(name, None), "{name}");
        }
        for name in
            ["NVIDIA H100 80GB HBM3", "Apple M3 Max", "AMD Radeon RX 7900 XTX (RADV NAVI31)"]
        {
            assert!(!is_software(name, None), "{name}");
        }
        assert!(is_software("a processor by any name", Some(8)));
    }

    fn product(client: &Client, m: usize, seed: u64) -> Product {
        let (shape, block) = (MatrixShape::new(24, 16).unwrap(), BlockSize::new(8).unwrap());
        let pattern = BlockPattern::random(shape, block, 0.5, seed);
        let dtype = ElemType::Float(FloatKind::F32);
        let call = Call::new(client, &pattern, dtype).unwrap();
        let plans = plans(&call.offer(), Class::Unit, block, false, [m, 2], call.max_units());
        Product::new(&call, false, m, plans)
    }

    #[test]
    fn products_of_about_one_size_share_a_key() {
        let Some(client) = client() else { return };
        let key = |m, seed| product(&client, m, seed).key([false; 2], None);
        assert_eq!(key(33, 1), key(64, 2));
        assert_ne!(key(64, 1), key(65, 1));
        let heights: Vec<usize> = product(&client, 40, 1).plans.iter().map(Plan::rows).collect();
        assert_eq!(heights, [64, 32]);
        let text = key(40, 1).to_string();
        for part in ["unit", "F32", "block: 8", "contraction: 24", "log2_rows: 6", "log2_blocks: 2"]
        {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    /// A number in the cache of an older version must not be taken for another plan.
    #[test]
    fn products_with_other_plans_or_cuts_have_other_keys() {
        let Some(client) = client() else { return };
        let mma = Class::Mma { pipelined: true };
        let block = BlockSize::new(32).unwrap();
        let one_column = |kept: usize| {
            let mut mask = BlockMask::empty(MatrixShape::new(32 * 128, 64).unwrap(), block);
            (0..kept).for_each(|row| mask.set(row, 0, true));
            BlockPattern::from_mask(&mask)
        };
        // Numbers of blocks that round to the same power of two.
        let (long, short) = (one_column(33), one_column(40));
        let key = |pattern: &BlockPattern, compute_units: usize, heights: usize| {
            let call = Call::new(&client, pattern, ElemType::Float(FloatKind::F32)).unwrap();
            let mut plans = plans(&AMPERE, mma, block, false, [64, 2], 256);
            plans.truncate(heights);
            Product { compute_units, ..Product::new(&call, false, 64, plans) }.key([false; 2], None)
        };
        assert_eq!(key(&long, 1, 3), key(&short, 1, 3));
        assert_ne!(key(&long, 1, 3), key(&long, 1, 2));
        // Known multiprocessors: lines of more than sixteen blocks are cut.
        assert_eq!(key(&long, 108, 3).plans, [(256, true), (128, true), (64, true)]);
        assert_ne!(key(&long, 108, 3), key(&long, 1, 3));
    }

    /// Tuned all the same on a software adapter, which takes seconds: hence one tiny case.
    #[test]
    fn a_tuned_product_is_right_the_first_time_and_later() {
        let Some(client) = client() else { return };
        let product = product(&client, 20, 1);
        assert_eq!(product.plans.len(), 2);
        let (m, pattern) = (product.m, product.pattern.clone());
        let numbers = |count: usize| -> Vec<f32> {
            (0..count).map(|at| (at * 7 % 13) as f32 / 8.0 - 0.7).collect()
        };
        let (x, values) = (numbers(m * 24), numbers(pattern.value_count()));
        let want = reference::spmm(&x, &values, None, &pattern);
        let upload = |data: &[f32]| client.create_from_slice(f32::as_bytes(data));
        for launch in 0..2 {
            let out = upload(&vec![f32::NAN; m * 16]);
            let arg = |handle, length| {
                // SAFETY: the buffers were made with these lengths.
                unsafe { BufferArg::from_raw_parts(handle, length) }
            };
            let buffers = [
                arg(upload(&x), x.len()),
                arg(upload(&values), values.len()),
                arg(out.clone(), m * 16),
            ];
            product.clone().run(buffers, Epilogue::default());
            let got = f32::from_bytes(&client.read_one(out).unwrap()).to_vec();
            Rounding::F32.check(&got, &want).unwrap_or_else(|error| panic!("{launch}: {error}"));
        }
    }
}

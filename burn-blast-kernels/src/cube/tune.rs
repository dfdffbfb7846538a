//! The tile height of a product, measured on the device the first time a product of its kind is launched.
//!
//! Every height computes every sum in the same order, so the choice does not show in results, with one exception:
//! split-K depends on the number of row tiles, so the last bits of long block columns may follow the choice.
//!
//! The dense product of Burn is no candidate here: [`Strategy`](crate::Strategy) decides whether a layer is sparse at
//! all.

use std::cmp::Reverse;
use std::fmt;

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::tune::{AutotuneKey, LocalTuner, Tunable, TunableSet, local_tuner};
use serde::{Deserialize, Serialize};

use super::buffer::SharedBuffer;
use super::caps::Caps;
use super::context::Context;
use super::dispatch::{Args, Plan, launch};
use super::epilogue::Epilogue;
use super::spmm::{Tensors, sides};
use crate::Activation;
use crate::BlockPattern;

/// Most plans of a product, and their names in the log of the tuner.
const MAX_PLANS: usize = 3;
const NAMES: [&str; MAX_PLANS] = ["tallest", "second", "third"];
/// Names of adapters that compute on the CPU: tuning there takes seconds and the result is meaningless.
const SOFTWARE: [&str; 4] = ["llvmpipe", "lavapipe", "swiftshader", "basic render"];

static TUNER: LocalTuner<Key, String> = local_tuner!("spmm");

/// A kind of product: rows and kept blocks to the next power of two, everything else exactly.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    class: String,
    dtype: String,
    transposed: bool,
    bias: bool,
    activation: String,
    residual: bool,
    /// Height of each plan, and whether it has split-K. The tuner keeps the number of the fastest, on disk too, which
    /// means the same plan only where these are the same.
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

/// Whether launches on this device are tuned: not on software adapters, nor on the CPU runtime of CubeCL.
pub(super) fn is_on(client: &Client) -> bool {
    let properties = client.properties();
    !is_software(&properties.identity.name, properties.hardware.num_cpu_cores)
}

fn is_software(adapter: &str, cpu_cores: Option<u32>) -> bool {
    let adapter = adapter.to_lowercase();
    cpu_cores.is_some() || SOFTWARE.iter().any(|name| adapter.contains(name))
}

/// A product whose tile height is still open. The tuner runs it several times; each run writes the whole output.
#[derive(Clone)]
pub(super) struct Product {
    client: Client,
    pattern: BlockPattern,
    dtype: ElemType,
    caps: Caps,
    /// Tallest first.
    plans: Vec<Plan>,
    transposed: bool,
    m: usize,
    x: SharedBuffer,
    values: SharedBuffer,
    y: SharedBuffer,
    bias: Option<SharedBuffer>,
    activation: Option<Activation>,
    residual: Option<SharedBuffer>,
}

impl Product {
    /// `plans` are the candidates for one product, more than one.
    pub(super) fn new(ctx: &Context, mut plans: Vec<Plan>, tensors: Tensors) -> Self {
        plans.sort_by_key(|plan| Reverse(rows(plan)));
        let Tensors { transposed, x, values, y, epilogue, m } = tensors;
        let [x, values, y] = [x, values, y].map(SharedBuffer::new);
        Self {
            client: ctx.client.clone(),
            pattern: ctx.pattern.clone(),
            dtype: ctx.dtype,
            caps: ctx.caps,
            plans,
            transposed,
            m,
            x,
            values,
            y,
            bias: epilogue.bias.map(SharedBuffer::new),
            activation: epilogue.activation,
            residual: epilogue.residual.map(SharedBuffer::new),
        }
    }

    fn key(&self) -> Key {
        let [contraction, output] = sides(&self.pattern, self.transposed);
        let log2 = |count: usize| count.max(1).next_power_of_two().ilog2();
        Key {
            class: self.plans[0].class().to_string(),
            dtype: format!("{:?}", self.dtype),
            transposed: self.transposed,
            bias: self.bias.is_some(),
            activation: format!("{:?}", self.activation),
            residual: self.residual.is_some(),
            plans: self.plans.iter().map(|plan| (rows(plan), plan.split().is_some())).collect(),
            block: self.pattern.block().get(),
            contraction,
            output,
            log2_rows: log2(self.m),
            log2_blocks: log2(self.pattern.nnz()),
        }
    }

    /// Launches the fastest plan, after measuring all if no product of this kind has been launched.
    pub(super) fn run(self) {
        let client = self.client.clone();
        let id = format!("{}-{}", client.name(), client.service_id().device);
        let set = TUNER.init(&id, || {
            // By height, so that a number means the same plan for all products of a key.
            let empty = TunableSet::<Key, Self, ()>::new_cloning_inputs(Self::key);
            (0..MAX_PLANS).fold(empty, |set, at| {
                set.with(Tunable::new(NAMES[at], move |product: Self| product.launch(at)))
            })
        });
        TUNER.execute(&id, &client, set, self);
    }

    /// Launches the plan of this number, if there is one.
    fn launch(self, at: usize) -> Result<(), String> {
        let plan = *self.plans.get(at).ok_or("the product has no such plan")?;
        let (client, pattern) = (&self.client, &self.pattern);
        let ctx = Context { client, pattern, dtype: self.dtype, caps: self.caps };
        let tensors = Tensors {
            transposed: self.transposed,
            x: self.x.arg(),
            values: self.values.arg(),
            y: self.y.arg(),
            epilogue: Epilogue {
                bias: self.bias.as_ref().map(SharedBuffer::arg),
                activation: self.activation,
                residual: self.residual.as_ref().map(SharedBuffer::arg),
            },
            m: self.m,
        };
        launch(&ctx, plan, Args::Product(tensors));
        Ok(())
    }
}

/// Rows of the output tile, by which the plans for one product differ.
fn rows(plan: &Plan) -> usize {
    plan.tile().map_or(0, |[rows, _]| rows)
}

#[cfg(test)]
mod tests {
    use cubecl::ir::FloatKind;
    use cubecl::server::Handle;

    use super::*;
    use crate::cube::caps::tests::AMPERE;
    use crate::cube::dispatch::{Op, Problem, candidates};
    use crate::cube::testing::client;
    use crate::reference::{self, Rounding};
    use crate::{BlockMask, BlockSize, MatrixShape};

    /// A product that would not take the kernel for few rows.
    const OP: Op = Op::SpmmT { residual: false };

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

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|at| (at * 7 % 13) as f32 / 8.0 - 0.7).collect()
    }

    /// A product that these capabilities plan and the client runs, and its output.
    fn product(
        client: &Client,
        caps: Option<Caps>,
        pattern: &BlockPattern,
        m: usize,
    ) -> (Product, Handle) {
        let ctx = Context::new(client, pattern, ElemType::Float(FloatKind::F32)).unwrap();
        let plans = candidates(OP, &caps.unwrap_or(ctx.caps), &Problem { pattern, m });
        let upload = |data: &[f32]| client.create_from_slice(f32::as_bytes(data));
        // SAFETY: the buffers are made with these lengths.
        let arg = |handle, len| unsafe { BufferArg::from_raw_parts(handle, len) };
        let input = |len| arg(upload(&numbers(len)), len);
        let shape = pattern.shape();
        let y = upload(&vec![f32::NAN; m * shape.rows()]);
        let tensors = Tensors {
            transposed: true,
            x: input(m * shape.cols()),
            values: input(pattern.value_count()),
            y: arg(y.clone(), m * shape.rows()),
            epilogue: Epilogue::default(),
            m,
        };
        (Product::new(&ctx, plans, tensors), y)
    }

    fn random(seed: u64) -> BlockPattern {
        let (shape, block) = (MatrixShape::new(24, 16).unwrap(), BlockSize::new(8).unwrap());
        BlockPattern::random(shape, block, 0.5, seed)
    }

    #[test]
    fn products_of_about_one_size_share_a_key() {
        let Some(client) = client() else { return };
        let key = |m, seed| product(&client, None, &random(seed), m).0.key();
        assert_eq!(key(33, 1), key(64, 2));
        assert_ne!(key(64, 1), key(65, 1));
        let text = key(40, 1).to_string();
        for part in [
            "register tiles",
            "F32",
            "block: 8",
            "contraction: 16",
            "(64, false), (32, false)",
            "log2_rows: 6",
            "log2_blocks: 2",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    /// A number in the cache of an older version must not be taken for another plan.
    #[test]
    fn products_with_other_plans_or_splits_have_other_keys() {
        let Some(client) = client() else { return };
        let block = BlockSize::new(32).unwrap();
        let one_row = |kept: usize| {
            let mut mask = BlockMask::empty(MatrixShape::new(64, 32 * 128).unwrap(), block);
            (0..kept).for_each(|col| mask.set(0, col, true));
            BlockPattern::from_mask(&mask)
        };
        // Numbers of blocks that round to the same power of two.
        let (long, short) = (one_row(33), one_row(40));
        let key = |pattern: &BlockPattern, compute_units: Option<usize>, heights: usize| {
            let caps = Caps { compute_units, ..AMPERE };
            let (mut product, _) = product(&client, Some(caps), pattern, 64);
            product.plans.truncate(heights);
            product.key()
        };
        assert_eq!(key(&long, None, 3), key(&short, None, 3));
        assert_ne!(key(&long, None, 3), key(&long, None, 2));
        // Known multiprocessors: rows of more than sixteen blocks are split.
        assert_eq!(key(&long, Some(108), 3).plans, [(256, true), (128, true), (64, true)]);
        assert_ne!(key(&long, Some(108), 3), key(&long, None, 3));
    }

    /// Tuned all the same on a software adapter, which takes seconds: hence one tiny case.
    #[test]
    fn a_tuned_product_is_right_the_first_time_and_later() {
        let Some(client) = client() else { return };
        let (pattern, m) = (random(1), 20);
        let (x, values) = (numbers(m * 16), numbers(pattern.value_count()));
        let want = reference::spmm_t(&x, &values, &pattern);
        for launch in 0..2 {
            let (product, y) = product(&client, None, &pattern, m);
            assert_eq!(product.plans.len(), 2);
            product.run();
            let got = f32::from_bytes(&client.read_one(y).unwrap()).to_vec();
            Rounding::F32.check(&got, &want).unwrap_or_else(|error| panic!("{launch}: {error}"));
        }
    }
}

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
use crate::BlockPattern;
use crate::cpu::Activation;
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

/// Whether launches on this device are tuned: not on software adapters.
pub(super) fn is_on(client: &Client) -> bool {
    !is_software(&client.properties().identity.name)
}

fn is_software(adapter: &str) -> bool {
    let adapter = adapter.to_lowercase();
    SOFTWARE.iter().any(|name| adapter.contains(name))
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
        Self { client, pattern, dtype: call.dtype, transposed, m, plans }
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
            block: self.pattern.block().get(),
            contraction,
            output,
            log2_rows: log2(self.m),
            log2_blocks: log2(self.pattern.nnz()),
        }
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
enum Buffer {
    Bound(BufferBinding, usize),
    Alias(usize, usize),
}

impl Buffer {
    fn of(arg: BufferArg) -> Self {
        let length = arg.len();
        match arg {
            BufferArg::Handle { handle } => Self::Bound(handle.handle, length),
            BufferArg::Alias { input_pos, .. } => Self::Alias(input_pos, length),
        }
    }

    fn arg(self) -> BufferArg {
        match self {
            // SAFETY: the length is the one it had.
            Self::Bound(binding, length) => unsafe {
                BufferArg::from_raw_parts_binding(binding, length)
            },
            Self::Alias(at, length) => BufferArg::alias(at, length),
        }
    }
}

#[cfg(test)]
mod tests {
    use cubecl::Device;
    use cubecl::ir::FloatKind;

    use super::super::plan::plans;
    use super::*;
    use crate::cube::mma::offer::Class;
    use crate::reference::{self, Rounding};
    use crate::{BlockSize, MatrixShape};

    #[test]
    fn software_adapters_are_known_by_name() {
        for name in [
            "llvmpipe (LLVM 15.0.6, 256 bits)",
            "SwiftShader Device (Subzero)",
            "Microsoft Basic Render Driver",
        ] {
            assert!(is_software(name), "{name}");
        }
        for name in
            ["NVIDIA H100 80GB HBM3", "Apple M3 Max", "AMD Radeon RX 7900 XTX (RADV NAVI31)"]
        {
            assert!(!is_software(name), "{name}");
        }
    }

    /// A client of wgpu's adapter, if there is one.
    fn client() -> Option<Client> {
        let found = !Device::enumerate_all().is_empty();
        let required = std::env::var("BURN_BLAST_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(found || !required, "BURN_BLAST_REQUIRE_GPU is set, but wgpu found no adapter");
        found.then(|| Device::Wgpu(Default::default()).client())
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

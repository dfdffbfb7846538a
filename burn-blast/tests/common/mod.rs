//! The devices every test body runs on, and exact comparison.
// Each test file uses its own part.
#![allow(dead_code)]

pub mod saved;
pub mod toy;

use std::sync::OnceLock;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use burn_blast::{BlockPattern, BlockSize, MatrixShape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A device and its name in messages.
pub struct Engine {
    pub name: &'static str,
    pub device: Device,
    /// Small grids only: the software GPU compiles every kernel variant for seconds.
    pub slow: bool,
}

/// Every backend of the test build. A GPU that is not there is named and counted as skipped;
/// `BURN_BLAST_REQUIRE_GPU=1` makes that a failure.
#[allow(deprecated)]
pub fn engines() -> Vec<Engine> {
    let mut engines = vec![
        Engine { name: "flex", device: Device::flex(), slow: false },
        Engine { name: "ndarray", device: Device::ndarray(), slow: false },
    ];
    match wgpu() {
        Some(device) => engines.push(Engine { name: "wgpu", device, slow: true }),
        None => println!("SKIPPED wgpu: this machine has no WebGPU adapter"),
    }
    engines
}

fn wgpu() -> Option<Device> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = *FOUND.get_or_init(|| {
        let works = || {
            let device = Device::wgpu(Default::default());
            Tensor::<1>::ones([2], &device).into_data().iter::<f32>().sum::<f32>() == 2.0
        };
        let found = std::panic::catch_unwind(works).unwrap_or(false);
        let required = std::env::var("BURN_BLAST_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(
            found || !required,
            "BURN_BLAST_REQUIRE_GPU is set, but there is no WebGPU adapter"
        );
        found
    });
    found.then(|| Device::wgpu(Default::default()))
}

/// Float types of a device that kernels must serve.
pub fn dtypes(engine: &Engine) -> Vec<DType> {
    let all = [FloatDType::F32, FloatDType::F16, FloatDType::BF16];
    let served = all.into_iter().filter(|&dtype| engine.device.supports_dtype(dtype));
    served.map(DType::from).collect()
}

/// The model with every float parameter in another precision.
pub fn cast<M: Module>(model: M, dtype: DType) -> M {
    struct Cast(DType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.cast(self.0))
        }
    }
    model.map(&mut Cast(dtype))
}

/// One optimizer step against the gradient of a loss.
pub fn descend<M: Module>(model: M, optim: &mut ModuleOptimizer, lr: f64, loss: &Tensor<1>) -> M {
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    optim.step(lr, model, grads)
}

pub fn pattern(rows: usize, cols: usize, block: usize, density: f64, seed: u64) -> BlockPattern {
    let shape = MatrixShape::new(rows, cols).unwrap();
    BlockPattern::random(shape, BlockSize::new(block).unwrap(), density, seed)
}

/// Uniform numbers in `[-1, 1)`.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A tensor of such numbers.
pub fn uniform<const D: usize>(dims: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    tensor(&numbers(dims.iter().product(), seed), dims, device, DType::F32)
}

pub fn tensor<const D: usize>(
    numbers: &[f32],
    dims: [usize; D],
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers.to_vec(), dims), (device, dtype))
}

pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Largest distance between two slices, relative to the largest element.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().chain(b).fold(1e-6_f32, |max, x| max.max(x.abs()));
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    off.fold(0.0, |max, off| if off.is_nan() { f32::NAN } else { max.max(off) }) / largest
}

/// Sets every float parameter to zero.
pub struct Zeros;

impl ModuleMapper for Zeros {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.zeros_like())
    }
}

/// Elements as bits, for bitwise comparison.
pub fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    floats(tensor).into_iter().map(f32::to_bits).collect()
}

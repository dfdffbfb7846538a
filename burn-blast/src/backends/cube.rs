//! CUDA, ROCm, Metal, Vulkan and WebGPU, all through one CubeCL backend: contiguous buffers in, one launch.

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::ops::{FloatTensorOps, QTensorOps};
use burn::backend::{DispatchDevice, TensorMetadata};
use burn::tensor::{DType, Device, Shape};
use burn_blast_kernels::BlockPattern;
use burn_blast_kernels::cost::DeviceClass;
use burn_blast_kernels::cube::{self, Context, CubeError, Epilogue, Op, Plan, Unfused};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::{BufferArg, Client};

use crate::feed_forward::{GatedPatterns, MlpPatterns, activate};
use crate::ops::{BlastOps, packed};

impl BlastOps for CubeBackend {
    fn spmm(x: CubeTensor, values: CubeTensor, pattern: BlockPattern) -> CubeTensor {
        product(x, values, None, pattern)
    }

    fn spmm_bias(
        x: CubeTensor,
        values: CubeTensor,
        bias: CubeTensor,
        pattern: BlockPattern,
    ) -> CubeTensor {
        product(x, values, Some(bias), pattern)
    }

    fn spmm_quantized(x: CubeTensor, values: CubeTensor, pattern: BlockPattern) -> CubeTensor {
        let m = x.shape()[0];
        let y = output_like(&x, Shape::new([m, pattern.shape().cols()]));
        let (integers, scales) = values.quantized_handles().expect("a quantised tensor has both");
        let weight = [integers, scales].map(input);
        let dtype = x.dtype.into();
        let dequantize = || input(Self::dequantize(values, dtype));
        let ctx = context_on(&y, &pattern, m);
        cube::spmm_int8(&ctx, input(x), weight, dequantize, output(&y), m);
        y
    }

    fn spmm_t(dy: CubeTensor, values: CubeTensor, pattern: BlockPattern) -> CubeTensor {
        product_t(dy, values, None, &pattern).0
    }

    fn sddmm(x: CubeTensor, dy: CubeTensor, pattern: BlockPattern) -> CubeTensor {
        let m = x.shape()[0];
        let dw = output_like(&x, packed(&pattern));
        cube::sddmm(&context_on(&dw, &pattern, m), input(x), input(dy), output(&dw), m);
        dw
    }

    fn block_norms(values: CubeTensor, pattern: BlockPattern) -> CubeTensor {
        let norms = output_like(&values, Shape::new([pattern.nnz()]));
        cube::block_norms(&context(&norms, &pattern), input(values), output(&norms));
        norms
    }

    fn grad_block_norms(x: CubeTensor, dy: CubeTensor, pattern: BlockPattern) -> CubeTensor {
        let m = x.shape()[0];
        let norms = output_like(&x, Shape::new([pattern.block_rows(), pattern.block_cols()]));
        let ctx = context_on(&norms, &pattern, m);
        cube::grad_block_norms(&ctx, input(x), input(dy), output(&norms), m);
        norms
    }

    fn pack(dense: CubeTensor, pattern: BlockPattern) -> CubeTensor {
        let values = output_like(&dense, packed(&pattern));
        cube::pack(&context_dense(&values, &pattern), input(dense), output(&values));
        values
    }

    fn unpack(values: CubeTensor, pattern: BlockPattern) -> CubeTensor {
        let shape = Shape::new([pattern.shape().rows(), pattern.shape().cols()]);
        let dense = output_like(&values, shape);
        cube::unpack(&context_dense(&dense, &pattern), input(values), output(&dense));
        dense
    }

    fn gated_mlp(
        x: CubeTensor,
        gate: CubeTensor,
        up: CubeTensor,
        down: CubeTensor,
        patterns: GatedPatterns,
    ) -> CubeTensor {
        let GatedPatterns { gate: first, up: second, down: last, activation } = patterns;
        let m = x.shape()[0];
        let h = output_like(&x, Shape::new([m, first.shape().cols()]));
        let (ctx, values) = (context_on(&h, &first, m), [gate, up].map(input));
        cube::gated_hidden(&ctx, &second, activation.into(), input(x), values, output(&h), m);
        product(h, down, None, last)
    }

    fn gated_mlp_backward(
        x: CubeTensor,
        gate: CubeTensor,
        up: CubeTensor,
        down: CubeTensor,
        dy: CubeTensor,
        patterns: GatedPatterns,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let GatedPatterns { gate: first, up: second, down: last, activation } = patterns;
        let m = x.shape()[0];
        // Holds the gradient of the hidden features first; the kernel overwrites it with the features.
        let (h, _) = product_t(dy.clone(), down, None, &last);
        let [dg, du] = [(); 2].map(|()| output_like(&h, h.shape()));
        let values = [gate.clone(), up.clone()].map(input);
        cube::gated_hidden_backward(
            &context_on(&h, &first, m),
            &second,
            activation.into(),
            input(x.clone()),
            values,
            output(&h),
            [&dg, &du].map(output),
            m,
        );
        let (dx, _) = product_t(dg.clone(), gate, None, &first);
        let dx = match product_t(du.clone(), up, Some(dx.clone()), &second) {
            (sum, Unfused::Residual) => Self::float_add(dx, sum),
            (sum, _) => sum,
        };
        let (dgate, dup) = (Self::sddmm(x.clone(), dg, first), Self::sddmm(x, du, second));
        (dx, dgate, dup, Self::sddmm(h, dy, last))
    }

    fn mlp(
        x: CubeTensor,
        up: CubeTensor,
        up_bias: CubeTensor,
        down: CubeTensor,
        down_bias: CubeTensor,
        patterns: MlpPatterns,
    ) -> CubeTensor {
        let MlpPatterns { up: first, down: last, activation } = patterns;
        let m = x.shape()[0];
        let h = output_like(&x, Shape::new([m, first.shape().cols()]));
        let epilogue = Epilogue {
            activation: Some(activation.into()),
            ..Epilogue::bias(Some(input(up_bias)))
        };
        let ctx = context_on(&h, &first, m);
        let unfused = cube::spmm(&ctx, input(x), input(up), epilogue, output(&h), m);
        let h = if unfused == Unfused::Activation { activate::<Self>(h, activation) } else { h };
        product(h, down, Some(down_bias), last)
    }
}

fn product(
    x: CubeTensor,
    values: CubeTensor,
    bias: Option<CubeTensor>,
    pattern: BlockPattern,
) -> CubeTensor {
    let m = x.shape()[0];
    let y = output_like(&x, Shape::new([m, pattern.shape().cols()]));
    let (ctx, epilogue) = (context_on(&y, &pattern, m), Epilogue::bias(bias.map(input)));
    cube::spmm(&ctx, input(x), input(values), epilogue, output(&y), m);
    y
}

/// `dy · wᵀ + residual`, and whether the residual is left to the caller.
fn product_t(
    dy: CubeTensor,
    values: CubeTensor,
    residual: Option<CubeTensor>,
    pattern: &BlockPattern,
) -> (CubeTensor, Unfused) {
    let m = dy.shape()[0];
    let dx = output_like(&dy, Shape::new([m, pattern.shape().rows()]));
    let (ctx, residual) = (context_on(&dx, pattern, m), residual.map(input));
    let unfused = cube::spmm_t(&ctx, input(dy), input(values), residual, output(&dx), m);
    (dx, unfused)
}

/// Recycled memory of the same type on the same device: kernels write every element.
fn output_like(tensor: &CubeTensor, shape: Shape) -> CubeTensor {
    let (client, device) = (tensor.client.clone(), tensor.device.clone());
    empty_device_contiguous_dtype(client, device, shape, tensor.dtype)
}

fn input(tensor: CubeTensor) -> BufferArg {
    into_contiguous(tensor).into_buffer_arg()
}

fn output(tensor: &CubeTensor) -> BufferArg {
    tensor.clone().into_buffer_arg()
}

/// Panics, as Burn does at a tensor call, if the type has no kernel or the device is too small.
fn context<'a>(output: &'a CubeTensor, pattern: &'a BlockPattern) -> Context<'a> {
    Context::new(&output.client, pattern, dtype_to_elem_type(output.dtype))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// [`context`] for `m` rows.
fn context_on<'a>(output: &'a CubeTensor, pattern: &'a BlockPattern, m: usize) -> Context<'a> {
    context(output, pattern).for_rows(m).unwrap_or_else(|error| panic!("{error}"))
}

/// [`context`] for reading or writing the dense weight.
fn context_dense<'a>(output: &'a CubeTensor, pattern: &'a BlockPattern) -> Context<'a> {
    context(output, pattern).for_dense().unwrap_or_else(|error| panic!("{error}"))
}

/// The client of a device that CubeCL runs.
fn client(device: &Device) -> Option<Client> {
    match device.clone().inner().as_dispatch() {
        DispatchDevice::Cube(device) => Some(device.client()),
        // No other backend may be switched on.
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

/// How a forward product of `rows` rows runs on a device, or why it does not; `None` if CubeCL does not run the device.
pub(super) fn plan(
    device: &Device,
    pattern: &BlockPattern,
    dtype: DType,
    int8: bool,
    rows: usize,
) -> Option<Result<Plan, CubeError>> {
    let op = if int8 { Op::SpmmInt8 } else { Op::PRODUCT };
    let client = client(device)?;
    let ctx = Context::new(&client, pattern, dtype_to_elem_type(dtype));
    Some(ctx.and_then(|ctx| ctx.for_rows(rows)).map(|ctx| ctx.plan(op, rows)))
}

/// What the cost model knows about products of this type on a device that CubeCL runs.
pub(crate) fn device_class(device: &Device, dtype: DType) -> DeviceClass {
    let float = matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::Flex32);
    match client(device) {
        Some(client) if float => cube::device_class(&client, dtype_to_elem_type(dtype)),
        _ => DeviceClass::Gpu,
    }
}

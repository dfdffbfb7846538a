//! A block-sparse weight: packed values and their pattern, as one Burn module.

use std::sync::Arc;

use burn::module::{
    Content, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param, ParamId,
};
use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData};
use burn_blast_checkpoint::format::{PROBE, VALUES, indices, parse};
use burn_blast_kernels::{BlockMask, BlockPattern, BlockSize, MatrixShape, PatternError};

use crate::backends::has_int4;
use crate::break_even::TuningTable;
use crate::functions::{gather, pack, unpack};
use crate::int4::{before_int4, is_int4};
use crate::ops::packed;
use crate::quantize::{Integer, dequantized, is_integer, stored_shape, value_bytes};
use crate::window::{self, LayerId, Stage, View};

/// Container name under which visitors and mappers meet a weight.
pub(crate) const CONTAINER: &str = "Struct:BlockSparseWeight";

/// The weight of a block-sparse layer.
///
/// It holds the kept blocks only, `values [nnz, b, b]`, and their [`BlockPattern`]. The format is drawn in
/// [`burn_blast_kernels::pattern`]. Weight, gradient and optimizer moments therefore shrink with the kept blocks.
///
/// Load files with [`io::load`](crate::io::load), which checks everything first. Burn's own loading accepts only
/// records with the same number of blocks, and panics on indices that are not a pattern of this weight, since a module
/// walk cannot return an error.
///
/// A record holds it as `values`, `row_idx [nnz]`, `col_ptr [block_cols + 1]` and `layout [5]`. In the step before an
/// update that grows by gradient it also has a `probe [block_rows, block_cols]`, whose gradient is the gradient norm of
/// every block. See [`functions::spmm_probed`](crate::functions::spmm_probed).
#[derive(Debug, Clone)]
pub struct BlockSparseWeight {
    values: Param<Tensor<3>>,
    probe: Option<Param<Tensor<2>>>,
    /// Id of every probe this weight will ever have, so that the probes of all replicas are one parameter.
    probe_id: ParamId,
    pattern: BlockPattern,
    index_ids: [ParamId; 3],
    layer: Option<LayerId>,
    /// Type of the values, if they are not quantised; otherwise their type before.
    float: DType,
    tuning: Option<Arc<TuningTable>>,
}

impl BlockSparseWeight {
    /// A weight of packed values.
    ///
    /// # Shapes
    /// - `values`: `[nnz, b, b]`
    ///
    /// # Panics
    /// If `values` does not fit the pattern.
    pub fn new(values: Tensor<3>, pattern: BlockPattern) -> Self {
        let values = values.detach();
        let float = values.dtype();
        let values = Param::from_tensor(values);
        check_fit(&values, &pattern);
        let index_ids = [ParamId::new(), ParamId::new(), ParamId::new()];
        let probe_id = ParamId::new();
        let (layer, tuning) = (None, None);
        Self { values, probe: None, probe_id, pattern, index_ids, layer, float, tuning }
    }

    /// A weight that keeps no block. [`io::Pretrained`](crate::io::Pretrained) fills it.
    pub fn empty(shape: MatrixShape, block: BlockSize, device: &Device) -> Self {
        let pattern = BlockPattern::from_mask(&BlockMask::empty(shape, block));
        Self::new(Tensor::zeros(packed(&pattern), device), pattern)
    }

    /// The kept blocks of a dense weight.
    ///
    /// # Shapes
    /// - `dense`: `[d_input, d_output]`
    ///
    /// # Panics
    /// If `dense` does not have the pattern's shape.
    pub fn from_dense(dense: Tensor<2>, pattern: BlockPattern) -> Self {
        Self::new(pack(dense.detach(), &pattern), pattern)
    }

    /// The blocks of a dense weight that hold anything but zeros.
    ///
    /// # Shapes
    /// - `dense`: `[d_input, d_output]`
    ///
    /// # Errors
    /// If the block size is not supported.
    pub fn from_nonzero_blocks(dense: Tensor<2>, block_size: usize) -> Result<Self, PatternError> {
        let [rows, cols] = dense.dims();
        let (shape, block) = (MatrixShape::new(rows, cols)?, BlockSize::new(block_size)?);
        let host = dense.to_data().convert::<f32>();
        let host = host.as_slice::<f32>().expect("converted to f32 just above");
        let mask = burn_blast_kernels::pack::nonzero_blocks(host, shape, block);
        Ok(Self::from_dense(dense, BlockPattern::from_mask(&mask)))
    }

    /// The weight restricted to some of its block rows and block columns, in their order.
    ///
    /// # Panics
    /// If none are left of either.
    pub(crate) fn submatrix(&self, rows: &[bool], cols: &[bool]) -> Self {
        let (pattern, b) = (&self.pattern, self.pattern.block().get());
        let left = |keep: &[bool], size: usize| {
            let sides = keep.iter().enumerate().filter(|(_, keep)| **keep);
            sides.map(|(at, _)| b.min(size - at * b)).sum()
        };
        let (d_input, d_output) = (pattern.shape().rows(), pattern.shape().cols());
        let shape = MatrixShape::new(left(rows, d_input), left(cols, d_output));
        let shape = shape.expect("a part has rows and columns");
        let place = |keep: &[bool], at: usize| keep[..at].iter().filter(|keep| **keep).count();
        let mut mask = BlockMask::empty(shape, pattern.block());
        let mut sources = Vec::new();
        for (slot, (row, col)) in pattern.blocks().enumerate() {
            if rows[row] && cols[col] {
                mask.set(place(rows, row), place(cols, col), true);
                sources.push(Some(slot as u32));
            }
        }
        Self::new(gather(self.float_values(), &sources), BlockPattern::from_mask(&mask))
    }

    /// The dense weight, zero where no block is kept. Differentiable.
    ///
    /// # Shapes
    /// - output: `[d_input, d_output]`
    pub fn to_dense(&self) -> Tensor<2> {
        unpack(self.float_values(), &self.pattern)
    }

    /// The packed values.
    ///
    /// # Shapes
    /// - output: `[nnz, b, b]`; if they are 4-bit integers, their bytes, which [`to_dense`](Self::to_dense) reads
    pub fn values(&self) -> Tensor<3> {
        self.values.val()
    }

    /// Which blocks are kept.
    pub fn pattern(&self) -> &BlockPattern {
        &self.pattern
    }

    /// Share of blocks removed, in `[0, 1]`.
    pub fn sparsity(&self) -> f64 {
        1.0 - self.pattern.density()
    }

    /// Where the values are.
    pub fn device(&self) -> Device {
        self.values.lazy_device()
    }

    /// Type of the values.
    pub fn dtype(&self) -> DType {
        // A clone would copy the scales of integers.
        self.values.dtype()
    }

    /// Whether the values are quantised.
    pub fn is_quantized(&self) -> bool {
        matches!(self.dtype(), DType::QFloat(_))
    }

    /// The integers that the values were rounded to, if they are quantised.
    pub fn integer(&self) -> Option<Integer> {
        let (dtype, shape) = (self.dtype(), self.values.lazy_shape());
        let is_integer = is_integer(dtype, &shape, self.pattern.block());
        is_integer.then(|| if is_int4(dtype, &shape) { Integer::Int4 } else { Integer::Int8 })
    }

    /// Type of inputs: the type of the values, before they were quantised.
    pub(crate) fn float_dtype(&self) -> DType {
        let dtype = self.dtype();
        match self.is_quantized() {
            true => before_int4(dtype).unwrap_or(self.float),
            false => dtype,
        }
    }

    /// The packed values, dequantised if they are quantised.
    pub(crate) fn float_values(&self) -> Tensor<3> {
        match self.is_quantized() {
            true => dequantized(self.values(), &self.pattern).cast(self.float_dtype()),
            false => self.values(),
        }
    }

    /// Bytes of the values, of their scales if they are quantised, and of both index views.
    pub fn bytes(&self) -> usize {
        value_bytes(self.dtype(), &self.pattern) + self.pattern.index_bytes()
    }

    /// Identifier of the values, the key of their gradient.
    pub fn id(&self) -> ParamId {
        self.values.id
    }

    /// What was measured of products with the weight, if a table was applied.
    pub(crate) fn tuning(&self) -> Option<&TuningTable> {
        self.tuning.as_deref()
    }

    /// What a walk sees first.
    fn view(&self, replicated: bool) -> View {
        let (stage, pattern) = (Stage::Probe, self.pattern.clone());
        View { stage, pattern, layer: self.layer, float: self.float_dtype(), replicated }
    }

    pub(crate) fn probe(&self) -> Option<Tensor<2>> {
        self.probe.as_ref().map(Param::val)
    }

    /// Whether Burn's distributed training reduces the gradient of the values over devices.
    fn is_replicated(&self) -> bool {
        self.device().is_autodiff() && !self.is_quantized() && self.values().is_distributed()
    }

    /// The weight with floats, if its values are integers that a device does not have.
    fn readable_by(self, device: &Device) -> Self {
        if !is_int4(self.dtype(), &self.values.lazy_shape()) || has_int4(device) {
            return self;
        }
        let (pattern, float) = (self.pattern.clone(), self.float_dtype());
        let values = self.values.map(|values| dequantized(values, &pattern).cast(float));
        // As integers are.
        Self { values: values.set_require_grad(false), ..self }
    }

    fn set_probe(&mut self, present: bool) {
        let shape = [self.pattern.block_rows(), self.pattern.block_cols()];
        self.probe = match (present, self.probe.take()) {
            (false, _) => None,
            (true, Some(probe)) if probe.lazy_shape()[..] == shape => Some(probe),
            (true, _) => {
                let values = self.values.val();
                let mut zeros = Tensor::zeros(shape, (&values.device(), DType::F32));
                if self.is_replicated() {
                    zeros = zeros.set_distributed(self.probe_id.val().into());
                }
                Some(Param::initialized(self.probe_id, zeros).set_require_grad(true))
            }
        };
    }

    /// The indices as a record holds them. They are made only if a walk reads or replaces them.
    fn indices(&self) -> [(&'static str, Param<Tensor<1, Int>>); 3] {
        let mut ids = self.index_ids.into_iter();
        indices(&self.pattern, self.probe.is_some()).map(|(name, numbers)| {
            let (id, shape) = (ids.next().expect("an id per index"), Shape::new([numbers.len()]));
            let make = move |device: &Device, _| {
                let data = TensorData::new(numbers.clone(), [numbers.len()]);
                Tensor::from_data(data, (device, DType::I32))
            };
            (name, Param::uninitialized(id, make, self.device(), false, shape))
        })
    }

    /// Replaces the pattern by indices that a walk may have loaded.
    ///
    /// # Panics
    /// If they are not a pattern of this weight: a walk cannot return an error.
    fn replace_pattern(&mut self, indices: [Param<Tensor<1, Int>>; 3]) {
        // If a record has another number of blocks, Burn reports an error for each tensor it refuses and leaves it
        // uninitialised. The old pattern stays.
        if indices.iter().any(|index| !index.is_initialized()) {
            return;
        }
        self.index_ids = [indices[0].id, indices[1].id, indices[2].id];
        let [layout, row_idx, col_ptr] = indices.map(|index| numbers(&index.val()));
        let shape = self.pattern.shape();
        let (pattern, probe) =
            parse(&layout, &row_idx, &col_ptr, Some(shape)).unwrap_or_else(|error| {
                panic!("the block pattern loaded into this weight is not valid: {error}")
            });
        if pattern != self.pattern {
            self.pattern = pattern;
        }
        self.set_probe(probe);
    }
}

fn numbers(tensor: &Tensor<1, Int>) -> Vec<i64> {
    tensor.to_data().iter::<i64>().collect()
}

fn check_fit(values: &Param<Tensor<3>>, pattern: &BlockPattern) {
    let found = values.lazy_shape();
    // Asking for the type of other values may initialise them.
    let expected = match found == packed(pattern) {
        true => return,
        false => stored_shape(values.dtype(), &found, pattern),
    };
    assert!(
        found == expected,
        "the packed values must have shape {expected:?} for {pattern:?}, but have {found:?}: \
         load files of another sparsity with burn_blast::io::load"
    );
}

impl Module for BlockSparseWeight {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        window::open(self.view(false), || {
            if let Some(probe) = &self.probe {
                visitor.enter_module(PROBE, CONTAINER);
                probe.visit(visitor);
                visitor.exit_module(PROBE, CONTAINER);
            }
            window::enter(Stage::Values);
            visitor.enter_module(VALUES, CONTAINER);
            self.values.visit(visitor);
            visitor.exit_module(VALUES, CONTAINER);
        });
        for (name, index) in self.indices() {
            visitor.enter_module(name, CONTAINER);
            index.visit(visitor);
            visitor.exit_module(name, CONTAINER);
        }
    }

    /// Passes the parameters to the mapper with the window open, then applies the changes it asked for. This is where an
    /// optimizer step changes the number of blocks.
    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        let float = self.float_dtype();
        let ((probe, values), request) = window::open(self.view(self.is_replicated()), || {
            let probe = self.probe.take().map(|probe| {
                mapper.enter_module(PROBE, CONTAINER);
                let probe = Module::map(probe, mapper);
                mapper.exit_module(PROBE, CONTAINER);
                probe
            });
            window::enter(Stage::Values);
            mapper.enter_module(VALUES, CONTAINER);
            let values = Module::map(self.values, mapper);
            mapper.exit_module(VALUES, CONTAINER);
            (probe, values)
        });
        let mut weight = Self { values, probe, float, ..self };
        if let Some(pattern) = request.pattern {
            weight.pattern = pattern;
        }
        if let Some(probe) = request.probe {
            weight.set_probe(probe);
        }
        weight.layer = request.layer.or(weight.layer);
        weight.tuning = request.tuning.or(weight.tuning);
        let indices = weight.indices().map(|(name, index)| {
            mapper.enter_module(name, CONTAINER);
            let index = Module::map(index, mapper);
            mapper.exit_module(name, CONTAINER);
            index
        });
        weight.replace_pattern(indices);
        check_fit(&weight.values, &weight.pattern);
        weight
    }

    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.values.collect_devices(devices)
    }

    fn to_device(self, device: &Device) -> Self {
        let this = self.readable_by(device);
        let values = this.values.to_device(device);
        let probe = this.probe.map(|probe| probe.to_device(device));
        Self { values, probe, ..this }
    }

    fn fork(self, device: &Device) -> Self {
        // Burn's fork detaches, which would dequantise the values.
        let this = self.readable_by(device);
        let values = match this.is_quantized() {
            true => this.values.to_device(device),
            false => this.values.fork(device),
        };
        let probe = this.probe.map(|probe| probe.fork(device));
        Self { values, probe, ..this }
    }

    fn valid(&self) -> Self {
        let values = self.values.valid();
        let probe = self.probe.as_ref().map(Module::valid);
        Self { values, probe, ..self.clone() }
    }

    fn train(self) -> Self {
        let values = self.values.train();
        let probe = self.probe.map(Module::train);
        Self { values, probe, ..self }
    }

    fn materialize(self) -> Self {
        Self { values: self.values.materialize(), ..self }
    }
}

impl ModuleDisplayDefault for BlockSparseWeight {
    fn content(&self, content: Content) -> Option<Content> {
        content
            .set_top_level_type("BlockSparseWeight")
            .add("block", &self.pattern.block().get())
            .add("kept", &self.pattern.nnz())
            .add("blocks", &self.pattern.block_count())
            .optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for BlockSparseWeight {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }
}

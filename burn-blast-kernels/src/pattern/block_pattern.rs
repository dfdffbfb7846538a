//! The checked, immutable form of a pattern.

use std::any::Any;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock};

use super::{BlockMask, BlockSize, MatrixShape, WorkOrder};
use crate::PatternError;

/// Content hash of a pattern: equal patterns have equal ids on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PatternId(u64);

impl PatternId {
    /// The hash as a number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// Kept blocks of a weight, in column order, with the row order beside it.
///
/// Cloning shares the content. Equality compares the content.
///
/// # Invariants (all checked by [`new`](Self::new))
/// - `col_ptr` has one entry per block column plus one, starts at 0, never decreases, ends at `nnz`
/// - rows increase strictly within each column and stay below the number of block rows
/// - `slot` is a permutation of `0..nnz`: the k-th block in row order is value slot `slot[k]`
#[derive(Clone)]
pub struct BlockPattern(Arc<Inner>);

struct Inner {
    shape: MatrixShape,
    block: BlockSize,
    col_ptr: Vec<u32>,
    row_idx: Vec<u32>,
    row_ptr: Vec<u32>,
    col_idx: Vec<u32>,
    slot: Vec<u32>,
    id: PatternId,
    work_order: OnceLock<WorkOrder>,
    attached: Mutex<Vec<Arc<dyn Any + Send + Sync>>>,
}

impl BlockPattern {
    /// Checks a column view and builds the row view.
    ///
    /// # Errors
    /// If an invariant of the type does not hold.
    pub fn new(
        shape: MatrixShape,
        block: BlockSize,
        col_ptr: Vec<u32>,
        row_idx: Vec<u32>,
    ) -> Result<Self, PatternError> {
        check_columns(shape, block, &col_ptr, &row_idx)?;
        let (row_ptr, col_idx, slot) = row_view(shape.block_rows(block), &col_ptr, &row_idx);
        let id = content_id(shape, block, &col_ptr, &row_idx);
        Ok(Self(Arc::new(Inner {
            shape,
            block,
            col_ptr,
            row_idx,
            row_ptr,
            col_idx,
            slot,
            id,
            work_order: OnceLock::new(),
            attached: Mutex::new(Vec::new()),
        })))
    }

    /// The pattern of a mask.
    pub fn from_mask(mask: &BlockMask) -> Self {
        let (shape, block) = (mask.shape(), mask.block());
        let cols = shape.block_cols(block);
        let mut columns: Vec<Vec<u32>> = vec![Vec::new(); cols];
        for index in mask.indices() {
            columns[index % cols].push((index / cols) as u32);
        }
        let mut col_ptr = vec![0];
        let mut row_idx = Vec::with_capacity(mask.count());
        for column in columns {
            row_idx.extend(column);
            col_ptr.push(row_idx.len() as u32);
        }
        Self::new(shape, block, col_ptr, row_idx).expect("a mask is always inside its grid")
    }

    /// Size of the weight.
    pub fn shape(&self) -> MatrixShape {
        self.0.shape
    }

    /// Size of a block.
    pub fn block(&self) -> BlockSize {
        self.0.block
    }

    /// Block rows of the grid.
    pub fn block_rows(&self) -> usize {
        self.0.row_ptr.len() - 1
    }

    /// Block columns of the grid.
    pub fn block_cols(&self) -> usize {
        self.0.col_ptr.len() - 1
    }

    /// Blocks of the grid, kept or not.
    pub fn block_count(&self) -> usize {
        self.block_rows() * self.block_cols()
    }

    /// Kept blocks.
    pub fn nnz(&self) -> usize {
        self.0.row_idx.len()
    }

    /// Elements of the packed values: `nnz * b * b`.
    pub fn value_count(&self) -> usize {
        self.nnz() * self.block().area()
    }

    /// Bytes of the indices of both views.
    pub fn index_bytes(&self) -> usize {
        let numbers = self.col_ptr().len() + self.row_ptr().len() + 3 * self.nnz();
        numbers * size_of::<u32>()
    }

    /// Share of blocks kept, in `[0, 1]`.
    pub fn density(&self) -> f64 {
        self.nnz() as f64 / self.block_count() as f64
    }

    /// Start of each block column in slot order, and the end of the last.
    pub fn col_ptr(&self) -> &[u32] {
        &self.0.col_ptr
    }

    /// Block row of each slot.
    pub fn row_idx(&self) -> &[u32] {
        &self.0.row_idx
    }

    /// Start of each block row in row order, and the end of the last.
    pub fn row_ptr(&self) -> &[u32] {
        &self.0.row_ptr
    }

    /// Block column of each block in row order.
    pub fn col_idx(&self) -> &[u32] {
        &self.0.col_idx
    }

    /// Value slot of each block in row order.
    pub fn slot(&self) -> &[u32] {
        &self.0.slot
    }

    /// Content hash.
    pub fn id(&self) -> PatternId {
        self.0.id
    }

    /// `(block row, block column)` of each slot, in slot order.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.block_cols()).flat_map(|col| {
            let (start, end) = (self.0.col_ptr[col] as usize, self.0.col_ptr[col + 1] as usize);
            self.0.row_idx[start..end].iter().map(move |&row| (row as usize, col))
        })
    }

    /// Slot of each block number (`row * block_cols + col`), `None` where the block is absent.
    pub fn slots_by_index(&self) -> Vec<Option<u32>> {
        let mut slots = vec![None; self.block_count()];
        for (slot, (row, col)) in self.blocks().enumerate() {
            slots[row * self.block_cols() + col] = Some(slot as u32);
        }
        slots
    }

    /// The order in which kernels process columns and rows, computed on first use.
    pub fn work_order(&self) -> &WorkOrder {
        self.0.work_order.get_or_init(|| WorkOrder::new(self))
    }

    /// A value that is derived from this pattern and lives as long, such as its index buffers on a device. Returns the
    /// first attached `T` for which `matches` holds, or attaches the result of `build` if there is none.
    pub fn attached<T: Any + Send + Sync>(
        &self,
        matches: impl Fn(&T) -> bool,
        build: impl FnOnce() -> T,
    ) -> Arc<T> {
        self.attached_while(|_| true, matches, build)
    }

    /// [`attached`](Self::attached) for values that are also derived from something else. Every `T` that is no longer
    /// `alive` is dropped first.
    pub(crate) fn attached_while<T: Any + Send + Sync>(
        &self,
        alive: impl Fn(&T) -> bool,
        matches: impl Fn(&T) -> bool,
        build: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut attached = self.0.attached.lock().unwrap_or_else(|poison| poison.into_inner());
        attached.retain(|item| item.downcast_ref::<T>().is_none_or(&alive));
        for item in attached.iter() {
            if let Ok(item) = item.clone().downcast::<T>()
                && matches(&item)
            {
                return item;
            }
        }
        let item = Arc::new(build());
        attached.push(item.clone());
        item
    }

    /// A reference that does not keep the pattern alive.
    #[cfg(any(feature = "cube", test))]
    pub(crate) fn downgrade(&self) -> WeakPattern {
        WeakPattern(Arc::downgrade(&self.0))
    }
}

/// A reference to a [`BlockPattern`] that does not keep it alive.
#[cfg(any(feature = "cube", test))]
pub(crate) struct WeakPattern(std::sync::Weak<Inner>);

#[cfg(any(feature = "cube", test))]
impl WeakPattern {
    /// Whether anyone still has the pattern.
    pub(crate) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Whether it is alive and has the content of `other`.
    pub(crate) fn is(&self, other: &BlockPattern) -> bool {
        self.0.upgrade().is_some_and(|inner| BlockPattern(inner) == *other)
    }
}

impl PartialEq for BlockPattern {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.shape == other.0.shape
                && self.0.block == other.0.block
                && self.0.col_ptr == other.0.col_ptr
                && self.0.row_idx == other.0.row_idx)
    }
}

impl Eq for BlockPattern {}

impl fmt::Debug for BlockPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BlockPattern({} x {}, block {}, {} of {} blocks)",
            self.shape().rows(),
            self.shape().cols(),
            self.block().get(),
            self.nnz(),
            self.block_count()
        )
    }
}

fn check_columns(
    shape: MatrixShape,
    block: BlockSize,
    col_ptr: &[u32],
    row_idx: &[u32],
) -> Result<(), PatternError> {
    let (rows, cols) = (shape.block_rows(block), shape.block_cols(block));
    if col_ptr.len() != cols + 1 {
        return Err(PatternError::ColPtrLen { found: col_ptr.len(), expected: cols + 1, cols });
    }
    if col_ptr[0] != 0 {
        return Err(PatternError::ColPtrStart { found: col_ptr[0] });
    }
    for col in 0..cols {
        let (from, to) = (col_ptr[col], col_ptr[col + 1]);
        if to < from {
            return Err(PatternError::ColPtrDecreases { col, from, to });
        }
    }
    if col_ptr[cols] as usize != row_idx.len() {
        return Err(PatternError::ColPtrEnd { found: col_ptr[cols], expected: row_idx.len() });
    }
    for col in 0..cols {
        let column = &row_idx[col_ptr[col] as usize..col_ptr[col + 1] as usize];
        if let Some(&row) = column.iter().find(|&&row| row as usize >= rows) {
            return Err(PatternError::RowOutOfGrid { row, col, rows });
        }
        if let Some(pair) = column.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(PatternError::RowOrder { row: pair[1], previous: pair[0], col });
        }
    }
    Ok(())
}

fn row_view(rows: usize, col_ptr: &[u32], row_idx: &[u32]) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let mut row_ptr = vec![0_u32; rows + 1];
    for &row in row_idx {
        row_ptr[row as usize + 1] += 1;
    }
    for row in 0..rows {
        row_ptr[row + 1] += row_ptr[row];
    }
    let mut next = row_ptr.clone();
    let mut col_idx = vec![0; row_idx.len()];
    let mut slot = vec![0; row_idx.len()];
    for col in 0..col_ptr.len() - 1 {
        for at in col_ptr[col]..col_ptr[col + 1] {
            let place = &mut next[row_idx[at as usize] as usize];
            col_idx[*place as usize] = col as u32;
            slot[*place as usize] = at;
            *place += 1;
        }
    }
    (row_ptr, col_idx, slot)
}

fn content_id(shape: MatrixShape, block: BlockSize, col_ptr: &[u32], row_idx: &[u32]) -> PatternId {
    let head = [shape.rows() as u32, shape.cols() as u32, block.get() as u32];
    let numbers = head.iter().chain(col_ptr).chain(row_idx);
    PatternId(fnv1a(numbers.flat_map(|number| number.to_le_bytes())))
}

/// FNV-1a hash. Unlike the standard hasher, it is the same on every machine.
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(seed: u64) -> BlockPattern {
        let shape = MatrixShape::new(64, 64).unwrap();
        BlockPattern::random(shape, BlockSize::new(8).unwrap(), 0.5, seed)
    }

    /// As in pruning: the pattern of one weight stays, the pattern of the other is replaced repeatedly.
    #[test]
    fn what_is_attached_for_a_pair_is_dropped_with_either_pattern() {
        let gate = pattern(0);
        gate.attached(|_: &u8| true, || 7);
        let pair = |up: &BlockPattern| {
            gate.attached_while(WeakPattern::is_alive, |weak| weak.is(up), || up.downgrade())
        };
        let kept = pattern(1);
        let first = pair(&kept);
        for seed in 2..10 {
            pair(&pattern(seed));
        }
        // A pattern of equal content matches. The pattern of the last round is dropped by this call.
        assert!(Arc::ptr_eq(&pair(&pattern(1)), &first));
        assert_eq!(gate.0.attached.lock().unwrap().len(), 2);
    }
}

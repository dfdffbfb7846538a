//! In which order, and in which shares, the block columns and rows of a pattern are worked on.

use super::BlockPattern;

/// The order in which kernels process the block columns and rows of a pattern, computed once per pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkOrder {
    /// Block columns, most kept blocks first; ties by index.
    pub cols_by_length: Vec<u32>,
    /// Block rows, most kept blocks first; ties by index.
    pub rows_by_length: Vec<u32>,
    /// Block column of each slot.
    pub col_of_slot: Vec<u32>,
}

impl WorkOrder {
    pub(super) fn new(pattern: &BlockPattern) -> Self {
        Self {
            cols_by_length: by_length(pattern.col_ptr()),
            rows_by_length: by_length(pattern.row_ptr()),
            col_of_slot: pattern.blocks().map(|(_, col)| col as u32).collect(),
        }
    }
}

fn by_length(ptr: &[u32]) -> Vec<u32> {
    let length = |&at: &u32| ptr[at as usize + 1] - ptr[at as usize];
    let mut order: Vec<u32> = (0..ptr.len() as u32 - 1).collect();
    order.sort_by_key(|at| std::cmp::Reverse(length(at)));
    order
}

/// Divides `0..ptr.len() - 1` into at most `parts` ranges of about equal work, where an entry costs its number of blocks
/// plus one.
pub(crate) fn equal_work(ptr: &[u32], parts: usize) -> Vec<std::ops::Range<usize>> {
    let entries = ptr.len() - 1;
    let total = ptr[entries] as usize + entries;
    let mut ranges = Vec::with_capacity(parts);
    let mut start = 0;
    for part in 1..=parts {
        let goal = total * part / parts;
        let mut end = start;
        while end < entries && ptr[end + 1] as usize + end < goal {
            end += 1;
        }
        if part == parts {
            end = entries;
        }
        if end > start {
            ranges.push(start..end);
        }
        start = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_work_covers_every_column_once() {
        let ptr = [0, 5, 5, 6, 20, 20, 21];
        for parts in 1..9 {
            let ranges = equal_work(&ptr, parts);
            let covered: Vec<usize> = ranges.into_iter().flatten().collect();
            assert_eq!(covered, (0..6).collect::<Vec<_>>(), "{parts} parts");
        }
    }

    #[test]
    fn the_longest_column_comes_first() {
        assert_eq!(by_length(&[0, 1, 4, 4, 7]), [1, 3, 0, 2]);
    }
}

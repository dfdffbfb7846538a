//! How traversals that see parameters only meet the weight they belong to.
//!
//! Burn's optimizers, records and visitors walk a module parameter by parameter. While a
//! [`BlockSparseWeight`](crate::BlockSparseWeight) hands its parameters to such a walk, a window onto the
//! weight is open on the thread: the optimizer wrapper reads the pattern there and leaves a new one,
//! loading resizes the weight through it, reports read it. This works because a walk calls the mapper or
//! visitor synchronously, on the thread that walks.

use std::cell::RefCell;

use burn_blast_kernels::BlockPattern;

thread_local! {
    static WINDOW: RefCell<Option<Window>> = const { RefCell::new(None) };
}

/// Which parameter of the weight is being walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Probe,
    Values,
}

/// What a walk sees of the weight.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) stage: Stage,
    pub(crate) pattern: BlockPattern,
    pub(crate) layer: Option<usize>,
    /// Other devices train replicas of the weight.
    pub(crate) replicated: bool,
    /// Norms of the gradient of every block, row by row, left by the walk over the probe.
    pub(crate) grad_norms: Option<Vec<f32>>,
    pub(crate) changes: Changes,
}

/// What a walk wants changed about the weight. The values it returns must fit the new pattern.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) pattern: Option<BlockPattern>,
    pub(crate) armed: Option<bool>,
    pub(crate) layer: Option<usize>,
}

impl Window {
    pub(crate) fn new(pattern: BlockPattern, layer: Option<usize>) -> Self {
        let changes = Changes::default();
        Self { stage: Stage::Probe, pattern, layer, replicated: false, grad_norms: None, changes }
    }
}

/// Runs `walk` with the window open and returns what it left there.
pub(crate) fn open<R>(window: Window, walk: impl FnOnce() -> R) -> (R, Changes) {
    /// Restores the outer window even if the walk panics.
    struct Close(Option<Window>);
    impl Drop for Close {
        fn drop(&mut self) {
            WINDOW.replace(self.0.take());
        }
    }
    let close = Close(WINDOW.replace(Some(window)));
    let result = walk();
    let changes = with(|window| std::mem::take(&mut window.changes)).unwrap_or_default();
    drop(close);
    (result, changes)
}

/// Looks through the window, if a weight holds one open.
pub(crate) fn with<R>(look: impl FnOnce(&mut Window) -> R) -> Option<R> {
    WINDOW.with_borrow_mut(|window| window.as_mut().map(look))
}

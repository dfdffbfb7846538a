//! How sparse a layer should be at a step.

use serde::{Deserialize, Serialize};

/// Curve from the starting sparsity of a layer to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schedule {
    /// Fast at first, slow near the target: `s_f + (s_0 - s_f)(1 - t)³` (BLaST; Zhu and Gupta).
    Cubic,
    /// A straight line.
    Linear,
    /// The target at the first update, and no further updates.
    OneShot,
    /// The target from the first update on, with blocks exchanged at that sparsity (RigL, SET).
    Constant,
    /// The cubic curve several times, each time from the start.
    Cyclic {
        /// How many times.
        cycles: usize,
    },
}

impl Schedule {
    /// Sparsity at a step; `first` and `last` are the steps of the first and last update.
    pub(crate) fn at(self, step: usize, first: usize, last: usize, start: f64, end: f64) -> f64 {
        if step < first {
            return start;
        }
        if step >= last {
            return end;
        }
        let progress = (step - first) as f64 / (last - first) as f64;
        let cubic = |t: f64| end + (start - end) * (1.0 - t).powi(3);
        match self {
            Schedule::Cubic => cubic(progress),
            Schedule::Linear => start + (end - start) * progress,
            Schedule::OneShot | Schedule::Constant => end,
            Schedule::Cyclic { cycles } => cubic((progress * cycles as f64).fract()),
        }
    }
}

//! The number of the current optimizer step.

use std::thread::ThreadId;

use crate::window::LayerId;

/// Counts the optimizer steps of a run.
///
/// Burn steps parameter by parameter and never says where a step begins. But one walk over a model visits its layers in
/// the order of their numbers, so on one thread a step begins where that order starts again. Replicas on other devices
/// walk on threads of their own, so between threads the step number is taken from the state of the layer.
#[derive(Debug, Default)]
pub(super) struct StepClock {
    step: usize,
    /// Layer of the latest call, and the thread that walked it.
    latest: Option<(ThreadId, LayerId)>,
}

impl StepClock {
    /// The current step, 0 before the first.
    pub(super) fn step(&self) -> usize {
        self.step
    }

    /// The number of the step that `layer` takes now. `layer_steps` is the number of its latest step: a resumed layer
    /// brings it along, and a layer that missed some steps catches up.
    pub(super) fn tick(&mut self, layer: LayerId, layer_steps: usize) -> usize {
        let thread = std::thread::current().id();
        let again = self.latest.is_some_and(|(walker, at)| walker == thread && layer <= at);
        self.latest = Some((thread, layer));
        self.step = (self.step + usize::from(again)).max(layer_steps + 1);
        self.step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps that `layers` layers count, if in each walk only the layers of `walks` take part.
    fn counted(layers: usize, walks: &[&[usize]]) -> Vec<Vec<usize>> {
        let mut clock = StepClock::default();
        let mut steps = vec![0; layers];
        let mut walk = |layers: &&[usize]| {
            let mut count = |&layer: &usize| {
                steps[layer] = clock.tick(LayerId(layer), steps[layer]);
                steps[layer]
            };
            layers.iter().map(&mut count).collect()
        };
        walks.iter().map(&mut walk).collect()
    }

    #[test]
    fn a_layer_that_missed_steps_counts_the_steps_of_the_others() {
        assert_eq!(counted(1, &[&[0], &[0]]), [[1], [2]]);
        let late_first: [&[usize]; 4] = [&[0, 1], &[1], &[0, 1], &[0, 1]];
        assert_eq!(counted(2, &late_first), [vec![1, 1], vec![2], vec![3, 3], vec![4, 4]]);
        let late_last: [&[usize]; 3] = [&[0, 1], &[0], &[0, 1]];
        assert_eq!(counted(2, &late_last), [vec![1, 1], vec![2], vec![3, 3]]);
    }

    #[test]
    fn replicas_on_other_threads_count_the_same_steps() {
        let mut clock = StepClock::default();
        for steps in 0..3 {
            for _replica in 0..2 {
                let mut walk = || [0, 1].map(|layer| clock.tick(LayerId(layer), steps));
                std::thread::scope(|scope| {
                    assert_eq!(scope.spawn(&mut walk).join().unwrap(), [steps + 1; 2]);
                });
            }
        }
    }
}

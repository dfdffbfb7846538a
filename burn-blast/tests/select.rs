//! Selection, schedules and budgets: exact counts, ties, balance.

use burn_blast::prune::{
    BlastConfig, Budget, Growth, KeepRule, LayerRule, Ranked, Schedule, grow, keep_top,
};
use burn_blast::{BlockMask, BlockSize, MatrixShape};
use proptest::prelude::*;

fn mask(rows: usize, cols: usize, kept: impl IntoIterator<Item = usize>) -> BlockMask {
    let shape = MatrixShape::new(8 * rows, 8 * cols).unwrap();
    BlockMask::from_indices(shape, BlockSize::new(8).unwrap(), kept)
}

#[test]
fn equal_scores_go_to_the_lower_index() {
    assert_eq!(keep_top(&[1.0, 3.0, 3.0, 2.0, 3.0], 2), [1, 2]);
    assert_eq!(keep_top(&[0.0, -0.0, 0.0], 2), [0, 1]);
}

#[test]
fn a_nan_score_ranks_last() {
    assert_eq!(keep_top(&[f32::NAN, -1.0, f32::NEG_INFINITY], 2), [1, 0]);
}

#[test]
fn the_best_by_score_stay_and_the_best_of_the_rest_come_by_gradient() {
    let current = mask(1, 6, [0, 1, 2, 3]);
    let scores = [4.0, 3.0, 2.0, 1.0, 0.0, 0.0];
    let gradients = [0.0, 0.0, 5.0, 1.0, 9.0, 2.0];
    let ranked = Ranked { current: &current, scores: &scores, gradients: Some(&gradients) };
    let kept = |keep, exchange| -> Vec<usize> {
        grow(&ranked, keep, exchange, Growth::Gradient, KeepRule::Exact, 0).indices().collect()
    };
    assert_eq!(kept(3, 1), [0, 1, 4]);
    // Block 2 leaves by score and comes back by gradient.
    assert_eq!(kept(4, 2), [0, 1, 2, 4]);
    assert_eq!(kept(2, 0), [0, 1]);
    // More than are kept: the difference grows.
    assert_eq!(kept(5, 0), [0, 1, 2, 3, 4]);
}

#[test]
fn without_growth_nothing_comes_back() {
    let current = mask(1, 6, [0, 1, 2]);
    let ranked =
        Ranked { current: &current, scores: &[1.0, 2.0, 3.0, 0.0, 0.0, 0.0], gradients: None };
    let kept = grow(&ranked, 5, 2, Growth::None, KeepRule::Exact, 0);
    assert_eq!(kept, current);
}

#[test]
fn the_union_rule_keeps_both_top_sets() {
    let current = mask(1, 6, [0, 1, 2, 3]);
    let scores = [4.0, 3.0, 2.0, 1.0, 0.0, 0.0];
    let gradients = [0.0, 5.0, 0.0, 0.0, 9.0, 2.0];
    let ranked = Ranked { current: &current, scores: &scores, gradients: Some(&gradients) };
    let kept = grow(&ranked, 2, 1, Growth::Gradient, KeepRule::Union, 0);
    assert_eq!(kept.indices().collect::<Vec<_>>(), [0, 1, 4]);
}

#[test]
fn random_growth_follows_the_seed() {
    let current = mask(8, 8, 0..32);
    let scores: Vec<f32> = (0..64).map(|at| at as f32).collect();
    let ranked = Ranked { current: &current, scores: &scores, gradients: None };
    let kept = |seed| grow(&ranked, 20, 8, Growth::Random, KeepRule::Exact, seed);
    assert_eq!(kept(1), kept(1));
    assert_ne!(kept(1), kept(2));
    assert_eq!(kept(1).count(), 20);
}

proptest! {
    #[test]
    fn the_count_is_exact_and_balances(
        kept in prop::collection::btree_set(0_usize..48, 1..48),
        // Few distinct values, so that ties are the rule.
        scores in prop::collection::vec(0_u8..4, 48),
        gradients in prop::collection::vec(0_u8..4, 48),
        keep in 1_usize..=48,
        exchange in 0_usize..20,
        growth in prop::sample::select(vec![Growth::Gradient, Growth::Random, Growth::None]),
        seed in any::<u64>(),
    ) {
        let current = mask(6, 8, kept.iter().copied());
        let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
        let gradients: Vec<f32> = gradients.into_iter().map(f32::from).collect();
        let ranked = Ranked { current: &current, scores: &scores, gradients: Some(&gradients) };
        let next = grow(&ranked, keep, exchange, growth, KeepRule::Exact, seed);
        let expected = if growth == Growth::None { keep.min(kept.len()) } else { keep };
        prop_assert_eq!(next.count(), expected);

        let survivors = current.intersection(&next).count();
        let dropped = current.difference(&next).count();
        let grown = next.difference(&current).count();
        prop_assert_eq!(survivors + dropped, current.count());
        prop_assert_eq!(survivors + grown, next.count());
        prop_assert_eq!(current.union(&next).count(), survivors + dropped + grown);
        prop_assert_eq!(&next, &grow(&ranked, keep, exchange, growth, KeepRule::Exact, seed));
    }

    #[test]
    fn every_schedule_starts_where_the_layer_is_and_lands_on_target(
        schedule in prop::sample::select(vec![
            Schedule::Cubic, Schedule::Linear, Schedule::OneShot, Schedule::Constant,
            Schedule::Cyclic { cycles: 3 },
        ]),
        total in 10_usize..500,
        interval in 1_usize..10,
        end_fraction in 0.1_f64..=1.0,
        start in 0.0_f64..0.5,
        end in 0.5_f64..0.99,
    ) {
        let config = BlastConfig::new(total)
            .with_interval(interval)
            .with_end_fraction(end_fraction)
            .with_schedule(schedule);
        let (first, last) = (config.first_update(), config.last_update());
        let at = |step| config.sparsity_at(step, start, end);
        prop_assert_eq!(at(first - 1), start);
        prop_assert_eq!(at(last), end);
        prop_assert_eq!(at(total.max(last)), end);
        if !matches!(schedule, Schedule::Cyclic { .. }) {
            for step in 1..total {
                prop_assert!(at(step) <= at(step + 1) + 1e-12);
            }
        }
        prop_assert!((1..=total).all(|step| (0.0..1.0).contains(&at(step))));
        let updates: Vec<usize> = (0..=total).filter(|&step| config.is_update(step)).collect();
        prop_assert!(updates[0] == first || updates == [last]);
        prop_assert!(updates.windows(2).all(|pair| pair[1] - pair[0] >= interval));
        if schedule != Schedule::OneShot {
            prop_assert_eq!(*updates.last().unwrap(), last);
        }
    }
}

#[test]
fn the_exchange_share_falls_to_nothing() {
    let config = BlastConfig::new(100).with_growth_fraction(0.4);
    assert!(config.growth_at(1) > 0.39);
    assert!(config.growth_at(70) < 1e-12);
    assert!((1..70).all(|step| config.growth_at(step) > config.growth_at(step + 1)));
}

#[test]
fn every_bad_setting_is_named() {
    let config = || BlastConfig::new(100);
    let cases = [
        (BlastConfig::new(0), "total_steps is 0, but must be at least 1"),
        (config().with_interval(0), "interval is 0, but must be at least 1"),
        (config().with_sparsity(1.0), "sparsity is 1, but must be at least 0 and below 1"),
        (config().with_sparsity(f64::NAN), "sparsity is NaN, but must be at least 0 and below 1"),
        (config().with_end_fraction(1.5), "end_fraction is 1.5, but must be between 0 and 1"),
        (
            BlastConfig::new(10),
            "total_steps is 10, but must be at least the step of the first update (start_step, else interval)",
        ),
        (
            config().with_growth_fraction(-0.1),
            "growth_fraction is -0.1, but must be between 0 and 1",
        ),
        (
            config().with_layers(vec![LayerRule { path: "a".into(), sparsity: 1.0 }]),
            "layers.sparsity is 1, but must be at least 0 and below 1",
        ),
        (
            config().with_schedule(Schedule::Cyclic { cycles: 0 }),
            "schedule.cycles is 0, but must be at least 1",
        ),
        (
            config().with_schedule(Schedule::Cyclic { cycles: 2 }).with_growth(Growth::None),
            "growth is None, but must be Gradient or Random with a cyclic schedule, which brings blocks back",
        ),
        (
            config().with_budget(Budget::Global { min_density: 0.2, max_density: 0.5 }),
            "budget is Global { min_density: 0.2, max_density: 0.5 }, but must be min_density <= 1 - sparsity <= max_density, with min_density at least 0",
        ),
        (
            config()
                .with_schedule(Schedule::Cyclic { cycles: 2 })
                .with_budget(Budget::Global { min_density: 0.0, max_density: 1.0 }),
            "schedule is Cyclic { cycles: 2 }, but must be one that never brings blocks back with a global budget, which ranks kept blocks only",
        ),
        (
            config().with_keep(KeepRule::Union).with_growth(Growth::Random),
            "keep is Union, but must be Exact without growth by gradient: a union needs both rankings",
        ),
        (
            config()
                .with_interval(3)
                .with_budget(Budget::Global { min_density: 0.0, max_density: 1.0 }),
            "interval is 3, but must be at least 4 with a global budget, which gathers all layers' scores three steps ahead",
        ),
    ];
    for (config, message) in cases {
        assert_eq!(config.validate().unwrap_err().to_string(), message);
    }
}

#[test]
fn settings_survive_a_file() {
    use burn::config::Config;
    let config = BlastConfig::new(100)
        .with_schedule(Schedule::Cyclic { cycles: 2 })
        .with_budget(Budget::Global { min_density: 0.1, max_density: 0.5 });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blast.json");
    config.save(&path).unwrap();
    assert_eq!(BlastConfig::load(&path).unwrap().to_string(), config.to_string());
}

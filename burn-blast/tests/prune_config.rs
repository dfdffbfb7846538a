//! Settings of a pruning run: schedules, updates and refusals.

use burn_blast::prune::{BlastConfig, BlastError, Budget, Growth, KeepRule, LayerRule, Schedule};
use proptest::prelude::*;

proptest! {
    #[test]
    fn every_schedule_starts_where_the_layer_is_and_lands_on_target(
        schedule in prop::sample::select(vec![
            Schedule::Cubic, Schedule::Linear, Schedule::Step, Schedule::Constant,
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
        if schedule != Schedule::Step {
            prop_assert_eq!(*updates.last().unwrap(), last);
        }
    }
}

#[test]
fn the_exchanged_share_falls_to_zero() {
    let config = BlastConfig::new(100).with_growth_fraction(0.4);
    assert!(config.growth_at(1) > 0.39);
    assert!(config.growth_at(70) < 1e-12);
    assert!((1..70).all(|step| config.growth_at(step) > config.growth_at(step + 1)));
}

#[test]
fn every_bad_setting_is_named() {
    let config = || BlastConfig::new(100);
    let global = |min_density, max_density| Budget::Global { min_density, max_density };
    let cyclic = |cycles| Schedule::Cyclic { cycles };
    let rule = LayerRule { path: "a".into(), sparsity: 1.0 };
    let cases = [
        (BlastConfig::new(0), "total_steps", "0", "at least 1"),
        (config().with_interval(0), "interval", "0", "at least 1"),
        (config().with_start_step(Some(0)), "start_step", "0", "at least 1"),
        (config().with_sparsity(1.0), "sparsity", "1", "below 1"),
        (config().with_sparsity(f64::NAN), "sparsity", "NaN", "below 1"),
        (config().with_end_fraction(1.5), "end_fraction", "1.5", "between 0 and 1"),
        (BlastConfig::new(10), "total_steps", "10", "the step of the first update"),
        (config().with_growth_fraction(-0.1), "growth_fraction", "-0.1", "between 0 and 1"),
        (config().with_lr_exponent(1.5), "lr_exponent", "1.5", "between 0 and 1"),
        (config().with_layers(vec![rule]), "layers.sparsity", "1", "below 1"),
        (config().with_schedule(cyclic(0)), "schedule.cycles", "0", "at least 1"),
        (
            config().with_schedule(cyclic(2)).with_growth(Growth::None),
            "growth",
            "None",
            "Gradient or Random",
        ),
        (
            config().with_budget(global(0.2, 0.5)),
            "budget",
            "Global { min_density: 0.2, max_density: 0.5 }",
            "min_density <= 1 - sparsity <= max_density",
        ),
        (
            config().with_schedule(cyclic(2)).with_budget(global(0.0, 1.0)),
            "schedule",
            "Cyclic { cycles: 2 }",
            "never brings blocks back",
        ),
        (
            config().with_keep(KeepRule::Union).with_growth(Growth::Random),
            "keep",
            "Union",
            "Exact without growth by gradient",
        ),
        (config().with_interval(3).with_budget(global(0.0, 1.0)), "interval", "3", "at least 4"),
    ];
    for (config, field, value, phrase) in cases {
        let error = config.validate().unwrap_err();
        let BlastError::Config { name, found, expected } = &error else { panic!("{error}") };
        assert_eq!((*name, found.as_str()), (field, value));
        assert!(expected.contains(phrase), "{error}");
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

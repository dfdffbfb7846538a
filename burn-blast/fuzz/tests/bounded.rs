//! Each target for a moment. `BURN_BLAST_FUZZ=SECONDS` sets how long, `BURN_BLAST_FUZZ_TARGET=NAME` takes one of them.

use std::time::{Duration, Instant};

use burn_blast_fuzz::{Mutator, TARGETS, Target};

/// Longest time of one input.
const LONGEST: Duration = Duration::from_secs(10);

#[test]
fn no_target_panics_or_hangs() {
    let seconds = std::env::var("BURN_BLAST_FUZZ").map_or(2.0, |seconds| seconds.parse().unwrap());
    let wanted = std::env::var("BURN_BLAST_FUZZ_TARGET").ok();
    let is_wanted = |target: &Target| wanted.as_ref().is_none_or(|name| target.name == name);
    let targets: Vec<Target> = TARGETS.into_iter().filter(is_wanted).collect();
    assert!(!targets.is_empty(), "there is no target {wanted:?}");
    for target in targets {
        let seeds = (target.seeds)();
        for seed in &seeds {
            assert!((target.run)(seed), "{}: {}", target.name, String::from_utf8_lossy(seed));
        }
        let (start, mut count) = (Instant::now(), 0_u64);
        let mut mutator = Mutator::new(1);
        while start.elapsed() < Duration::from_secs_f64(seconds) {
            let input = mutator.next(&seeds);
            let before = Instant::now();
            (target.run)(&input);
            assert!(before.elapsed() < LONGEST, "{}: {input:?}", target.name);
            count += 1;
        }
        assert!(count > 10, "{}: {count} inputs", target.name);
        println!("{}: {count} inputs", target.name);
    }
}

//! A long run of a tiny model.

mod common;

use burn::optim::AdamWConfig;
use burn::tensor::Device;
use burn_blast::prune::{Blast, BlastConfig, LayerSnapshot, Schedule};
use common::toy::{BLOCK, D, Net, step};

const STEPS: usize = 20_000;

/// Resident memory in KiB, where the system reports it.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[test]
fn twenty_thousand_steps_keep_exact_counts_and_no_memory() {
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("run.jsonl");
    let config = BlastConfig::new(STEPS)
        .with_sparsity(0.75)
        .with_interval(10)
        .with_end_fraction(1.0)
        .with_schedule(Schedule::Cyclic { cycles: 20 });
    let blast = Blast::new(AdamWConfig::new().build(), config.clone());
    let monitor = blast.monitor();
    let blast = blast.with_ledger(&ledger).unwrap();
    let (mut model, mut optim) = blast.attach(Net::new(&device)).unwrap();
    let blocks = (D / BLOCK) * (D / BLOCK);
    let (mut early, mut updates) = (None, 0);
    for at in 1..=STEPS {
        let loss;
        (model, loss) = step(model, &mut optim, at, 1e-3, &device);
        assert!(loss.is_finite(), "step {at}");
        if config.is_update(at) {
            updates += 1;
            let asked = config.sparsity_at(at, 0.0, 0.75);
            let kept = ((1.0 - asked) * blocks as f64).round() as usize;
            for layer in [&model.a, &model.b] {
                assert_eq!(layer.pattern().nnz(), kept, "step {at}");
            }
            assert_eq!(monitor.snapshot().layers[0].kept, kept);
        }
        if at == STEPS / 10 {
            early = resident();
        }
    }
    if let (Some(early), Some(late)) = (early, resident()) {
        println!("{early} KiB after a tenth of the steps, {late} KiB at the end");
        assert!(late <= 1.05 * early, "{early} KiB grew to {late} KiB");
    }
    let text = std::fs::read_to_string(&ledger).unwrap();
    let lines: Vec<LayerSnapshot> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2 * updates);
    for layer in ["a", "b"] {
        let mut before = blocks;
        for line in lines.iter().filter(|line| line.name == layer) {
            assert_eq!(line.survivors + line.added, line.kept);
            assert_eq!(line.survivors + line.dropped, before, "step {}", line.step);
            before = line.kept;
        }
    }
}

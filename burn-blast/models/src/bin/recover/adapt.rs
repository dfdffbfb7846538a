//! Low-rank adapters beside block-sparse weights: put there, and merged.

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::tensor::Device;
use burn_blast::module::AnyLinear;
use burn_blast::module::LoraLinearConfig;
use burn_blast_models::{Checkpoint, Form, Model, Precision};

use crate::args::MergeArgs;

/// Of what an adapter adds, over its rank, unless asked for otherwise.
const ALPHA: f64 = 16.0;

/// Freezes a model and puts adapters beside the block-sparse weights of its MLPs. The same seed draws the same ones.
///
/// # Errors
/// If there is no such weight, or a setting is not valid.
pub fn adapt(model: Model, rank: usize, alpha: Option<f64>, seed: u64) -> Result<Model> {
    let alpha = alpha.unwrap_or(ALPHA);
    ensure!(rank > 0, "--lora must be at least 1");
    ensure!(alpha > 0.0 && alpha.is_finite(), "--lora-alpha must be above 0");
    let mut model = model.set_require_grad(false);
    model.device().seed(seed);
    let config = LoraLinearConfig::new(rank).with_alpha(alpha);
    let mut adapted = 0;
    for (_, linear) in model.mlps_mut(0) {
        adapted += usize::from(linear.adapt(&config));
    }
    ensure!(
        adapted > 0,
        "no MLP weight of the model is block-sparse: --lora trains beside those; make some with one-shot, or with \
         fine-tune without --lora"
    );
    Ok(model)
}

/// Refuses a model that has adapters already, whose weights are frozen.
///
/// # Errors
/// If it has some.
pub fn check_bare(model: &mut Model) -> Result<()> {
    let adapted = |(_, linear): &(String, &mut AnyLinear)| matches!(linear, AnyLinear::Adapted(_));
    ensure!(
        !model.linears_mut().iter().any(adapted),
        "the model has adapters already: merge them first with recover merge"
    );
    Ok(())
}

/// Merges the adapters of a checkpoint, writes it, and prints what was lost.
///
/// # Errors
/// If there are none, or a file cannot be read or written.
pub fn merge(args: &MergeArgs) -> Result<()> {
    ensure!(!args.out.exists(), "{} exists: choose another OUT, or remove it", args.out.display());
    let checkpoint = Checkpoint::open(&args.model)?;
    let mut model = checkpoint.load(&Device::flex(), Precision::File)?;
    let lost = merge_all(&mut model, args.within)?;
    checkpoint.save(&model, &args.out, Form::Packed)?;
    if args.within {
        println!(
            "{:.1} % of the squares of the change lie outside the blocks and are lost",
            100.0 * lost
        );
    }
    println!("{} is written", args.out.display());
    Ok(())
}

/// Merges all adapters, into dense weights or within their blocks; the mean share of the change that is lost.
fn merge_all(model: &mut Model, within: bool) -> Result<f64> {
    let mut shares = Vec::new();
    for (_, linear) in model.linears_mut() {
        if let AnyLinear::Adapted(layer) = linear {
            let layer = layer.clone();
            if within {
                let (merged, lost) = layer.merge_within();
                shares.push(lost);
                *linear = AnyLinear::Sparse(merged);
            } else {
                shares.push(0.0);
                *linear = AnyLinear::Dense(layer.into_linear());
            }
        }
    }
    ensure!(!shares.is_empty(), "the model has no adapters: there is nothing to merge");
    Ok(shares.iter().sum::<f64>() / shares.len() as f64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::module::{ModuleVisitor, Param};
    use burn::tensor::{DType, Tensor};

    use super::*;
    use crate::train::tests::{args, corpus, model, run};

    /// Adapters that change something.
    fn changed(model: Model) -> Model {
        let mut model = model;
        for (_, linear) in model.mlps_mut(0) {
            if let AnyLinear::Adapted(layer) = linear {
                let b = layer.lora_b.val();
                layer.lora_b = Param::from_tensor(b.add_scalar(0.02));
            }
        }
        model
    }

    fn scores(model: &Model) -> Vec<f32> {
        let batch = corpus().batch(&args().text, 0, 0, &model.device());
        model.forward(batch.inputs, None).into_data().iter::<f32>().collect()
    }

    fn apart(one: &[f32], other: &[f32]) -> f32 {
        one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn fresh_adapters_change_nothing_and_merged_ones_what_they_did() {
        let start = model(DType::F32);
        let adapted = adapt(start.clone(), 4, None, 7).unwrap();
        assert_eq!(scores(&adapted), scores(&start));
        let adapted = changed(adapted);
        let want = scores(&adapted);
        assert!(apart(&want, &scores(&start)) > 1e-3);
        let mut dense = adapted.clone();
        assert_eq!(merge_all(&mut dense, false).unwrap(), 0.0);
        assert!(apart(&scores(&dense), &want) < 1e-4);
        let mut within = adapted;
        // Every block is still kept before training.
        assert!(merge_all(&mut within, true).unwrap() < 1e-6);
        assert!(apart(&scores(&within), &want) < 1e-4);
        assert!(
            within.mlps_mut(0).iter().all(|(_, linear)| matches!(linear, AnyLinear::Sparse(_)))
        );
    }

    #[test]
    fn a_checkpoint_with_adapters_loads_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(crate::train::tests::config()).unwrap();
        let adapted = changed(adapt(model(DType::F32), 4, Some(6.0), 7).unwrap());
        for (form, merged) in [(Form::Packed, false), (Form::Dense, true)] {
            let out = folder.path().join(format!("{form:?}"));
            checkpoint.save(&adapted, &out, form).unwrap();
            let again = Checkpoint::open(&out).unwrap();
            let mut again = again.load(&Device::flex(), Precision::File).unwrap();
            let apart = apart(&scores(&again), &scores(&adapted));
            assert!(if merged { apart < 1e-4 } else { apart == 0.0 }, "{form:?}: {apart}");
            assert_eq!(check_bare(&mut again).is_ok(), merged);
        }
    }

    /// Every parameter by its path.
    #[derive(Default)]
    struct Numbers(Vec<String>, BTreeMap<String, Vec<f32>>);

    impl ModuleVisitor for Numbers {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.push(name.to_string());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let numbers = param.val().into_data().iter::<f32>().collect();
            self.1.insert(self.0.join("."), numbers);
        }
    }

    fn numbers(model: &Model) -> BTreeMap<String, Vec<f32>> {
        let mut numbers = Numbers::default();
        model.visit(&mut numbers);
        numbers.1
    }

    #[test]
    fn only_adapters_learn_and_a_resumed_run_is_bitwise_the_unbroken_one() {
        for dtype in [DType::F32, DType::BF16] {
            let folder = tempfile::tempdir().unwrap();
            let start = adapt(model(dtype), 4, None, 7).unwrap();
            let path = |name: &str| {
                std::fs::create_dir(folder.path().join(name)).unwrap();
                folder.path().join(name).join("out")
            };
            let (unbroken, broken) = (path("unbroken"), path("broken"));
            let (whole, log) = run(&start, None, None, &unbroken, 12);
            run(&start, None, None, &broken, 5);
            let (resumed, _) = run(&start, None, None, &broken, 12);
            assert_eq!(numbers(&whole), numbers(&resumed), "{dtype:?}");
            let before = numbers(&start);
            for (path, numbers) in numbers(&whole) {
                let learns = path.ends_with("lora_a") || path.ends_with("lora_b");
                assert_eq!(numbers != before[&path], learns, "{dtype:?} {path}");
            }
            let first = log.losses.first().unwrap().1;
            let last = log.losses.last().unwrap().1;
            assert!(last < first, "{dtype:?}: {last} after {first}");
        }
    }

    #[test]
    fn what_cannot_be_adapted_or_merged_is_refused() {
        let refuse =
            |model: Model, rank, alpha| adapt(model, rank, alpha, 0).unwrap_err().to_string();
        assert_eq!(refuse(model(DType::F32), 0, None), "--lora must be at least 1");
        assert!(refuse(model(DType::F32), 4, Some(0.0)).contains("--lora-alpha must be above 0"));
        let checkpoint = Checkpoint::new(crate::train::tests::config()).unwrap();
        let dense = || checkpoint.config().init_normal(&Device::flex(), 1).unwrap();
        assert!(refuse(dense(), 4, None).contains("no MLP weight of the model is block-sparse"));
        let error = merge_all(&mut dense(), false).unwrap_err().to_string();
        assert!(error.contains("there is nothing to merge"), "{error}");
        let mut adapted = adapt(model(DType::F32), 4, None, 0).unwrap();
        let error = check_bare(&mut adapted).unwrap_err().to_string();
        assert!(error.contains("merge them first with recover merge"), "{error}");
    }

    #[test]
    fn a_tensor_of_another_rank_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(crate::train::tests::config()).unwrap();
        let mut adapted = adapt(model(DType::F32), 4, None, 7).unwrap();
        for (_, linear) in adapted.mlps_mut(0) {
            if let AnyLinear::Adapted(layer) = linear {
                let b = Tensor::zeros([3, layer.lora_b.val().dims()[1]], &layer.device());
                layer.lora_b = Param::from_tensor(b);
            }
        }
        let out = folder.path().join("out");
        checkpoint.save(&adapted, &out, Form::Packed).unwrap();
        let error = Checkpoint::open(&out).unwrap().load(&Device::flex(), Precision::File);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("lora_b\" has shape [3, "), "{error}");
    }
}

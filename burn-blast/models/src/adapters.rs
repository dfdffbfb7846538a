//! Low-rank adapters beside block-sparse weights: added, and merged.

use burn::module::Module;
use burn_blast::module::{AnyLinear, LoraLinearConfig};

use crate::{Error, Model};

impl Model {
    /// Freezes the model and puts adapters beside the block-sparse weights of its MLPs. The same seed draws the same
    /// ones on a device that nothing else draws from at the same time.
    ///
    /// # Errors
    /// If there is no such weight, there are adapters already, or a setting is not valid.
    pub fn adapt(self, config: &LoraLinearConfig, seed: u64) -> Result<Self, Error> {
        Error::at_least_one(&[("lora", config.rank)])?;
        Error::in_range("lora-alpha", config.alpha, config.alpha > 0.0, "above 0")?;
        let mut model = self.set_require_grad(false);
        model.check_unadapted()?;
        model.device().seed(seed);
        let mut adapted = 0;
        for (_, linear) in model.mlps_mut(0) {
            adapted += usize::from(linear.adapt(config));
        }
        match adapted {
            0 => Err(Error::Adapters(
                "no MLP weight of the model is block-sparse: adapters are trained beside block-sparse weights, so \
                 sparsify the model first",
            )),
            _ => Ok(model),
        }
    }

    /// Refuses a model that has adapters, whose weights are frozen.
    ///
    /// # Errors
    /// If it has some.
    pub fn check_unadapted(&mut self) -> Result<(), Error> {
        let adapted =
            |(_, linear): &(String, &mut AnyLinear)| matches!(linear, AnyLinear::Adapted(_));
        match self.linears_mut().iter().any(adapted) {
            true => Err(Error::Adapters("the model has adapters already: merge them first")),
            false => Ok(()),
        }
    }

    /// Merges all adapters: into dense weights, or only `within` the kept blocks. Returns the mean share of the change,
    /// by its squares, that is lost.
    ///
    /// # Errors
    /// If there are none.
    pub fn merge(&mut self, within: bool) -> Result<f64, Error> {
        let mut shares = Vec::new();
        for (_, linear) in self.linears_mut() {
            let AnyLinear::Adapted(layer) = linear else { continue };
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
        match shares.len() {
            0 => Err(Error::Adapters("the model has no adapters: there is nothing to merge")),
            count => Ok(shares.iter().sum::<f64>() / count as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{DType, Device, Tensor};
    use tempfile::tempdir;

    use super::*;
    use crate::fine_tune::tests::{config, corpus, model, run, settings, stored};
    use crate::{Form, ModelFolder, Precision};

    /// The model with adapters whose second factor is `change` of what it was.
    fn adapted(
        model: Model,
        config: &LoraLinearConfig,
        change: impl Fn(Tensor<2>) -> Tensor<2>,
    ) -> Model {
        let mut model = model.adapt(config, 7).unwrap();
        for (_, linear) in model.mlps_mut(0) {
            if let AnyLinear::Adapted(layer) = linear {
                layer.lora_b = Param::from_tensor(change(layer.lora_b.val()));
            }
        }
        model
    }

    /// Adapters that change something.
    fn changed(model: Model, config: &LoraLinearConfig) -> Model {
        adapted(model, config, |b| b.add_scalar(0.02))
    }

    fn scores(model: &Model) -> Vec<f32> {
        let batch = corpus().batch(settings().sequences, 0, 0, &model.device());
        model.forward(batch.inputs, None).into_data().iter::<f32>().collect()
    }

    fn apart(one: &[f32], other: &[f32]) -> f32 {
        one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn fresh_adapters_change_nothing_and_merged_ones_what_they_did() {
        let (start, config) = (model(DType::F32), LoraLinearConfig::new(4));
        assert!(scores(&adapted(start.clone(), &config, |b| b)) == scores(&start));
        let adapted = changed(start.clone(), &config);
        let want = scores(&adapted);
        assert!(apart(&want, &scores(&start)) > 1e-3);
        let mut dense = adapted.clone();
        assert_eq!(dense.merge(false).unwrap(), 0.0);
        assert!(apart(&scores(&dense), &want) < 1e-4);
        let mut within = adapted;
        // Every block is still kept before training.
        assert!(within.merge(true).unwrap() < 1e-6);
        assert!(apart(&scores(&within), &want) < 1e-4);
        assert!(
            within.mlps_mut(0).iter().all(|(_, linear)| matches!(linear, AnyLinear::Sparse(_)))
        );
    }

    #[test]
    fn a_checkpoint_with_adapters_loads_as_it_was() {
        let folder = tempdir().unwrap();
        let checkpoint = ModelFolder::new(config()).unwrap();
        let adapted = changed(model(DType::F32), &LoraLinearConfig::new(4).with_alpha(6.0));
        for (form, merged) in [(Form::Packed, false), (Form::Dense, true)] {
            let out = folder.path().join(format!("{form:?}"));
            checkpoint.save(&adapted, &out, form).unwrap();
            let again = ModelFolder::open(&out).unwrap();
            let mut again = again.load(&Device::flex(), Precision::File).unwrap();
            let apart = apart(&scores(&again), &scores(&adapted));
            assert!(if merged { apart < 1e-4 } else { apart == 0.0 }, "{form:?}: {apart}");
            assert_eq!(again.check_unadapted().is_ok(), merged);
        }
    }

    #[test]
    fn only_adapters_learn_and_a_resumed_run_is_bitwise_the_unbroken_one() {
        for dtype in [DType::F32, DType::BF16] {
            let start = model(dtype).adapt(&LoraLinearConfig::new(4), 7).unwrap();
            let (unbroken, broken) = (tempdir().unwrap(), tempdir().unwrap());
            let (whole, log) = run(&start, None, None, &unbroken, 12);
            run(&start, None, None, &broken, 5);
            let (resumed, _) = run(&start, None, None, &broken, 12);
            assert_eq!(stored(&whole), stored(&resumed), "{dtype:?}");
            let before = stored(&start);
            for (name, bytes) in stored(&whole) {
                let learns = name.ends_with("lora_a") || name.ends_with("lora_b");
                assert_eq!(bytes != before[&name], learns, "{dtype:?} {name}");
            }
            let first = log.losses.first().unwrap().1;
            let last = log.losses.last().unwrap().1;
            assert!(last < first, "{dtype:?}: {last} after {first}");
        }
    }

    #[test]
    fn a_tensor_of_another_rank_is_named() {
        let folder = tempdir().unwrap();
        let checkpoint = ModelFolder::new(config()).unwrap();
        let longer = |b: Tensor<2>| Tensor::zeros([3, b.dims()[1]], &b.device());
        let adapted = adapted(model(DType::F32), &LoraLinearConfig::new(4), longer);
        let out = folder.path().join("out");
        checkpoint.save(&adapted, &out, Form::Packed).unwrap();
        let error = ModelFolder::open(&out).unwrap().load(&Device::flex(), Precision::File);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("lora_b\" has shape [3, "), "{error}");
    }
}

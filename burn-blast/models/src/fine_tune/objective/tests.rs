use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Distribution};

use super::*;
use crate::ModelConfig;
use crate::fine_tune::tests::{config, corpus, model, settings};
use crate::fine_tune::trainer::read;

/// Loss and gradients of an objective.
fn gradients(objective: &Objective, model: &Model, batch: &Batch) -> (f64, GradientsParams) {
    let mut into = GradientsAccumulator::new();
    let loss = objective.gradients(model, batch, 1.0, &mut into);
    (read(vec![loss]).unwrap()[0], into.grads())
}

/// Every gradient, parameter by parameter.
struct Listed<'a>(&'a GradientsParams, Vec<Vec<f32>>);

impl ModuleVisitor for Listed<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.0.get::<D>(param.id);
        self.1.push(gradient.map(|one| one.into_data().iter().collect()).unwrap_or_default());
    }
}

#[test]
fn gradients_in_pieces_are_those_of_the_whole_loss() {
    let device = Device::flex().autodiff();
    let batch = corpus().batch(settings().sequences, 0, 0, &device);
    // The scores come in more than one piece.
    assert_eq!(batch.targets.dims(), [32]);
    for is_tied in [true, false] {
        let mut config = config();
        config["tie_word_embeddings"] = is_tied.into();
        let config = ModelConfig::parse(&config).unwrap();
        let [student, teacher] =
            [3, 4].map(|seed| config.init_normal(&Device::flex(), seed).unwrap());
        let student = student.train();
        let objective = Objective {
            next_token: 0.7,
            divergence: 0.4,
            temperature: 2.0,
            hidden_states: 0.3,
            mlps: 0.0,
            teacher: Some(teacher.clone()),
        };
        let (loss, found) = gradients(&objective, &student, &batch);
        let constant = |tensor| Tensor::<3>::from_inner(tensor).to_device(&device);
        let (ours, hidden) = student.trace(batch.inputs.clone());
        let (theirs, target) = teacher.trace(batch.inputs.clone().inner());
        let (scores, target) = (student.logits(hidden), teacher.logits(target));
        let theirs = theirs.into_iter().map(constant).collect();
        let whole = next_token(scores.clone(), batch.targets.clone()) * 0.7
            + divergence(scores, constant(target), 2.0) * 0.4
            + hidden_states(ours, theirs) * 0.3;
        let expected = number(whole.clone().inner());
        assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
        let expected = GradientsParams::from_grads(whole.backward(), &student);
        let [found, expected] = [found, expected].map(|grads| {
            let mut listed = Listed(&grads, Vec::new());
            student.visit(&mut listed);
            listed.1
        });
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.len(), expected.len(), "parameter {at}");
            assert!(!found.is_empty(), "parameter {at}");
            let largest = expected.iter().fold(0f32, |most, one| most.max(one.abs()));
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-4 * largest, "{at}: {found} {expected}");
            }
        }
    }
}

#[test]
fn an_mlp_is_compared_on_what_the_teacher_gives_it() {
    let device = Device::flex().autodiff();
    let batch = corpus().batch(settings().sequences, 0, 0, &device);
    let config = ModelConfig::parse(&config()).unwrap();
    let [student, teacher] = [3, 4].map(|seed| config.init_normal(&Device::flex(), seed).unwrap());
    let objective = Objective {
        next_token: 0.0,
        mlps: 1.0,
        teacher: Some(teacher.clone()),
        ..Objective::default()
    };
    let (loss, found) = gradients(&objective, &student.clone().train(), &batch);
    let mut expected = 0.0;
    let mut inputs = Vec::new();
    teacher.observe(batch.inputs.clone().inner(), &mut |name, input| {
        if name.ends_with("gate_proj") {
            inputs.push(input);
        }
    });
    for (layer, input) in inputs.iter().enumerate() {
        let [ours, theirs] = [&student, &teacher].map(|model| model.mlp(layer, input.clone()));
        expected += number(relative(ours, theirs)) / 2.0;
    }
    assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
    // Three weights in each of two layers.
    let mut listed = Listed(&found, Vec::new());
    student.visit(&mut listed);
    assert_eq!(listed.1.iter().filter(|gradient| !gradient.is_empty()).count(), 6);
}

#[test]
fn only_named_parts_of_the_objective_count() {
    let (start, corpus) = (model(DType::F32), corpus());
    let device = Device::flex().autodiff();
    let batch = corpus.batch(settings().sequences, 0, 0, &device);
    let tracked = start.clone().train();
    let loss = |objective: Objective| gradients(&objective, &tracked, &batch).0;
    let plain = loss(Objective::default());
    let with = |next_token, divergence, hidden_states| {
        let teacher = Some(start.clone());
        let (temperature, mlps) = (1.0, hidden_states);
        loss(Objective { next_token, divergence, temperature, hidden_states, mlps, teacher })
    };
    assert!((with(2.0, 0.0, 0.0) - 2.0 * plain).abs() < 1e-4);
    // The teacher is the student.
    assert!(with(0.0, 1.0, 1.0).abs() < 1e-4);
}

#[test]
fn a_teacher_of_another_width_gives_its_scores() {
    let (start, corpus) = (model(DType::F32), corpus());
    let mut wide = config();
    wide["hidden_size"] = 32.into();
    let teacher = ModelConfig::parse(&wide).unwrap().init_normal(&Device::flex(), 2).unwrap();
    let batch = corpus.batch(settings().sequences, 0, 0, &Device::flex().autodiff());
    let teacher = Some(teacher);
    let objective = Objective { next_token: 0.0, divergence: 1.0, teacher, ..Objective::default() };
    let (loss, _) = gradients(&objective, &start.train(), &batch);
    assert!(loss > 0.0 && loss.is_finite(), "{loss}");
}

fn number(loss: Tensor<1>) -> f64 {
    f64::from(loss.into_scalar::<f32>())
}

#[test]
fn equal_scores_cost_their_entropy_and_diverge_by_nothing() {
    let device = Device::flex();
    let logits = Tensor::<3>::zeros([2, 3, 8], &device);
    let targets = Tensor::<1, Int>::from_ints([0, 1, 2, 3, 4, 5], &device);
    assert!((number(next_token(logits.clone(), targets)) - 8.0_f64.ln()).abs() < 1e-6);
    assert!(number(divergence(logits.clone(), logits, 2.0)).abs() < 1e-6);
}

#[test]
fn the_divergence_follows_the_formula() {
    let device = Device::flex();
    let student = Tensor::<3>::from_floats([[[1.0, 0.0, -1.0]]], &device);
    let teacher = Tensor::<3>::from_floats([[[0.0, 2.0, 0.0]]], &device);
    let shares = |logits: [f64; 3]| {
        let sum: f64 = logits.iter().map(|x| (x / 2.0).exp()).sum();
        logits.map(|x| (x / 2.0).exp() / sum)
    };
    let (p, q) = (shares([0.0, 2.0, 0.0]), shares([1.0, 0.0, -1.0]));
    let want: f64 = 4.0 * p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
    assert!((number(divergence(student, teacher, 2.0)) - want).abs() < 1e-5);
}

#[test]
fn the_distance_of_hidden_states_is_relative() {
    let device = Device::flex();
    let teacher = Tensor::<3>::random([2, 3, 4], Distribution::Default, &device) + 1.0;
    let far = |scale: f64| teacher.clone() * scale;
    let one = number(hidden_states(vec![far(1.5)], vec![teacher.clone()]));
    assert!((one - 0.25).abs() < 1e-5, "{one}");
    let two =
        number(hidden_states(vec![far(1.5), far(1.0)], vec![teacher.clone(), teacher.clone()]));
    assert!((two - 0.125).abs() < 1e-5, "{two}");
}

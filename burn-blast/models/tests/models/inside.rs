//! What one can see of a model while it runs, and models that are not trained yet.

use burn_blast_models::{Blocks, Model, Role};

use crate::compact::{fresh, gpt2, llama};

#[test]
fn a_trace_has_every_layer_and_the_scores_of_a_forward_pass() {
    for config in [llama(), gpt2()] {
        let (_, model) = fresh(config);
        let tokens = model.tokens(&[&[1, 2, 3, 4], &[9, 8, 7, 6]]);
        let (features, hidden) = model.trace(tokens.clone());
        assert_eq!(features.len(), model.layers());
        assert!(features.iter().all(|one| one.dims() == [2, 4, 32]));
        assert_eq!(model.logits(hidden).into_data(), model.forward(tokens, None).into_data());
    }
}

#[test]
fn a_witness_hears_every_layer_of_the_mlps_in_order() {
    for config in [llama(), gpt2()] {
        let (_, mut model) = fresh(config);
        // Block-sparse ones are heard too, although they would run as one.
        for (_, linear) in model.mlps_mut(1) {
            linear.pack(8).unwrap();
        }
        let tokens = model.tokens(&[&[1, 2, 3]]);
        let mut heard = Vec::new();
        model.observe(tokens, &mut |name, input| heard.push((name.to_string(), input.dims()[2])));
        let all = model.mlps_mut(0).into_iter();
        let expected: Vec<_> = all.map(|(name, linear)| (name, linear.shape()[0])).collect();
        assert_eq!(heard, expected);
        assert_eq!(model.mlps_mut(1).len(), expected.len() / 2);
        assert!(model.mlps_mut(2).is_empty());
    }
}

#[test]
fn a_sparse_start_has_the_scale_of_fewer_inputs() {
    for config in [llama(), gpt2()] {
        let (_, mut model) = fresh(config);
        let dense = model.linears_mut().into_iter().map(|(_, linear)| linear.to_dense());
        let before: Vec<f32> = dense.map(|w| w.square().mean().into_scalar::<f32>()).collect();
        let roles = vec![Role::Attention, Role::Mlp];
        let blocks = Blocks::new(8).with_sparsity(0.75).with_dense_last(1).with_roles(roles);
        model.start_sparse(&blocks, 3).unwrap();
        assert!(!model.roles_mut(&blocks.roles, 1).is_empty());
        for (_, linear) in model.roles_mut(&blocks.roles, 1) {
            let sparse = linear.as_sparse().expect("the layer starts sparse");
            assert_eq!(sparse.sparsity(), 0.75);
        }
        assert!(model.roles_mut(&blocks.roles, 0).last().unwrap().1.as_sparse().is_none());
        // A quarter of the weights with twice the deviation: outputs keep their variance.
        for ((name, linear), before) in model.linears_mut().into_iter().zip(before) {
            let after = linear.to_dense().square().mean().into_scalar::<f32>();
            assert!((after / before - 1.0).abs() < 0.2, "{name}: {after} after {before}");
        }
        let error = model.start_sparse(&blocks, 3).unwrap_err().to_string();
        assert!(error.contains("is not dense"), "{error}");
    }
}

#[test]
fn every_linear_layer_has_one_role() {
    for config in [llama(), gpt2()] {
        let (_, mut model) = fresh(config);
        let count = |model: &mut Model, roles: &[Role]| model.roles_mut(roles, 0).len();
        let all = [Role::Attention, Role::Mlp, Role::Head];
        assert_eq!(count(&mut model, &all), model.linears_mut().len());
        for (role, part) in all.iter().zip([".attn.|.self_attn.", ".mlp.", "lm_head"]) {
            let heads = count(&mut model, &[Role::Head]);
            let layers = model.roles_mut(&[*role], 0);
            assert!(!layers.is_empty() || *role == Role::Head);
            for (name, _) in layers {
                assert!(part.split('|').any(|part| name.contains(part)), "{role:?}: {name}");
            }
            // The output layer is in no layer that could be left dense.
            let left = if *role == Role::Head { heads } else { 0 };
            assert_eq!(model.roles_mut(&[*role], 9).len(), left);
        }
        let blocks = |roles: &[Role]| Blocks::new(8).with_roles(roles.to_vec());
        model.pack(&blocks(&[Role::Attention])).unwrap();
        assert!(model.mlps_mut(0).iter().all(|(_, linear)| linear.as_sparse().is_none()));
        let is_tied = count(&mut model, &[Role::Head]) == 0;
        match model.pack(&blocks(&[Role::Head])) {
            Ok(()) => {
                assert!(!is_tied && model.roles_mut(&[Role::Head], 2)[0].1.as_sparse().is_some())
            }
            Err(error) => {
                assert!(is_tied && error.to_string().contains("is the embedding"), "{error}")
            }
        }
        let error = model.pack(&blocks(&[Role::Mlp]).with_dense_last(2)).unwrap_err();
        assert!(error.to_string().contains("below the number of layers, 2"), "{error}");
    }
}

#[test]
fn a_fresh_model_has_narrow_matrices() {
    for config in [llama(), gpt2()] {
        let (_, mut model) = fresh(config);
        for (name, linear) in model.linears_mut() {
            let square = linear.to_dense().square().mean().into_scalar::<f32>();
            assert!((0.01..0.04).contains(&square.sqrt()), "{name}: {}", square.sqrt());
        }
    }
}

use super::*;

fn quick(filter: Filter) -> Result<Vec<Problem>> {
    problems(Catalogue::Quick, &filter)
}

fn message(filter: Filter) -> String {
    quick(filter).expect_err("nothing is left").to_string()
}

#[test]
fn no_problem_is_in_a_catalogue_twice() {
    for catalogue in [Catalogue::Host, Catalogue::Gpu, Catalogue::Quick] {
        let all = problems(catalogue, &Filter::default()).unwrap();
        let different: HashSet<String> = all.iter().map(describe).collect();
        assert_eq!(different.len(), all.len(), "{catalogue:?}");
    }
}

#[test]
fn a_filter_replaces_the_values_of_its_axis() {
    let filter = Filter { blocks: vec![8], elements: vec![Element::F16], ..Filter::default() };
    let all = quick(filter).unwrap();
    assert!(all.iter().all(|problem| problem.block == 8 && problem.dtype == Element::F16));
    assert!(all.iter().any(|problem| problem.rows == 1024));
    assert!(all.iter().all(|problem| problem.verb != Verb::Step), "step is f32 only");
}

#[test]
fn a_model_outside_the_quick_catalogue_can_be_requested() {
    let filter = Filter { models: vec!["8B".to_owned()], ..Filter::default() };
    let all = quick(filter).unwrap();
    assert!(all.iter().all(|problem| problem.model.starts_with("llama-3.1-8b")));
    assert!(all.iter().any(|problem| problem.verb == Verb::GatedMlp));
}

#[test]
fn decoding_is_cold_by_default() {
    let one =
        |cold| Filter { rows: vec![1], verbs: vec![Verb::Forward], cold, ..Filter::default() };
    assert!(quick(one(None)).unwrap().iter().all(|problem| problem.cold));
    assert!(quick(one(Some(false))).unwrap().iter().all(|problem| !problem.cold));
    let many = Filter { rows: vec![256], ..Filter::default() };
    assert!(quick(many).unwrap().iter().all(|problem| !problem.cold));
}

#[test]
fn an_unknown_value_is_answered_with_the_known_ones() {
    let models = message(Filter { models: vec!["gpt5".to_owned()], ..Filter::default() });
    assert!(models.contains("\"gpt5\"") && models.contains("llama-3.2-1b"), "{models}");
    let rows = message(Filter { rows: vec![7], ..Filter::default() });
    assert!(rows.contains("--rows 7") && rows.contains("8192"), "{rows}");
    let block = message(Filter { blocks: vec![48], ..Filter::default() });
    assert!(block.contains("--block 48") && block.contains("128"), "{block}");
    let sparsity = message(Filter { sparsity: vec![33], ..Filter::default() });
    assert!(sparsity.contains("--sparsity 33") && sparsity.contains("95"), "{sparsity}");
    let verbs = vec![Verb::GatedMlp];
    let gated = message(Filter { models: vec!["vit".to_owned()], verbs, ..Filter::default() });
    assert!(gated.contains("needs a gated model (llama-3.2-1b"), "{gated}");
    let cold = message(Filter { rows: vec![256], cold: Some(true), ..Filter::default() });
    assert!(cold.contains("at most 16 rows"), "{cold}");
}

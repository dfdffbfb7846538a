//! The targets.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread_local;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn_blast::io;
use burn_blast::module::{BlockSparseLinear, BlockSparseLinearConfig};
use burn_blast::prune::{Blast, BlastConfig};
use burn_blast_checkpoint::{Checkpoint, PackedWeight, json};
use burn_blast_models::fine_tune::RunFolder;
use burn_blast_models::{ModelFolder, Precision, Texts, Tokenizer};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use tempfile::TempDir;

use crate::Target;

/// Every target.
pub const TARGETS: [Target; 8] = [
    Target { name: "config", run: config, seeds: config_seeds },
    Target { name: "gguf", run: gguf, seeds: gguf_seeds },
    Target { name: "index", run: index, seeds: index_seeds },
    Target { name: "header", run: header, seeds: header_seeds },
    Target { name: "layout", run: layout, seeds: layout_seeds },
    Target { name: "tokenizer", run: tokenizer, seeds: tokenizer_seeds },
    Target { name: "lines", run: lines, seeds: lines_seeds },
    Target { name: "run", run, seeds: run_seeds },
];

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Calls `with` with a folder that the calls of a thread share.
fn in_folder(with: impl FnOnce(&Path) -> bool) -> bool {
    thread_local! {
        static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
    }
    FOLDER.with(|folder| {
        with(folder.get_or_init(|| tempfile::tempdir().expect("temporary folders")).path())
    })
}

fn put(path: &Path, bytes: &[u8]) {
    // In place of the old file, which may be mapped.
    let _ = fs::remove_file(path);
    fs::write(path, bytes).expect("a temporary file");
}

/// A file of the models that the tests of `burn-blast-models` use.
fn sample(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/testdata").join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A model's `config.json`, beside weights of another size as a rule.
fn config(input: &[u8]) -> bool {
    in_folder(|folder| {
        put(&folder.join("config.json"), input);
        let weights = folder.join(WEIGHTS);
        if !weights.exists() {
            put(&weights, &sample("llama3/model.safetensors"));
        }
        let Ok(opened) = ModelFolder::open(folder) else { return false };
        assert!(opened.config().vocabulary() > 0 && opened.config().width() > 0);
        let _ = opened.load(&Device::flex(), Precision::F32);
        let read = String::from_utf8(input.to_vec()).ok().map(|text| json::parse(&text));
        if let Some(Ok(read)) = read {
            assert_eq!(json::parse(&json::text(&read)).ok(), Some(read));
        }
        true
    })
}

fn config_seeds() -> Vec<Vec<u8>> {
    ["llama3", "tied", "mistral", "gpt2", "qwen2", "gemma3", "smollm3", "yarn"]
        .map(|model| sample(&format!("{model}/config.json")))
        .into()
}

/// A GGUF file.
fn gguf(input: &[u8]) -> bool {
    in_folder(|folder| {
        let file = folder.join("input.gguf");
        put(&file, input);
        let Ok(opened) = ModelFolder::open(&file) else { return false };
        let _ = opened.load(&Device::flex(), Precision::F32);
        if let Ok(tokenizer) = opened.tokenizer() {
            let _ = tokenizer.encode("a naïve café 🦙").map(|tokens| tokenizer.decode(&tokens));
        }
        true
    })
}

fn gguf_seeds() -> Vec<Vec<u8>> {
    ["llama3", "pieces", "qwen3"].map(|name| sample(&format!("gguf/{name}.gguf"))).into()
}

/// An index of two small files.
fn index(input: &[u8]) -> bool {
    in_folder(|folder| {
        let _ = fs::remove_file(folder.join(WEIGHTS));
        for name in ["a", "b"] {
            let file = folder.join(format!("{name}.safetensors"));
            if !file.exists() {
                put(&file, &one_tensor(name));
            }
        }
        put(&folder.join(INDEX), input);
        let opened = Checkpoint::open(folder);
        fs::remove_file(folder.join(INDEX)).expect("it was just written");
        let Ok(checkpoint) = opened else { return false };
        for shard in &checkpoint.shards {
            assert!(shard.path.starts_with(folder) && !shard.name.contains(".."), "{shard:?}");
        }
        for name in checkpoint.names() {
            assert_eq!(checkpoint.tensor(name).map(|tensor| tensor.bytes().len()), Some(16));
        }
        true
    })
}

fn one_tensor(name: &str) -> Vec<u8> {
    let view = TensorView::new(Dtype::F32, vec![4], &[0; 16]).expect("four numbers");
    safetensors::serialize([(name, view)], None).expect("one tensor")
}

fn index_seeds() -> Vec<Vec<u8>> {
    let index = r#"{"metadata": {"total_size": 32}, "weight_map": {"a": "a.safetensors", "b": "./b.safetensors"}}"#;
    vec![index.into(), br#"{"weight_map": {"a": "a.safetensors"}}"#.to_vec()]
}

/// A safetensors file.
fn header(input: &[u8]) -> bool {
    in_folder(|folder| {
        let file = folder.join("input.safetensors");
        put(&file, input);
        let Ok(checkpoint) = Checkpoint::open(&file) else { return false };
        for name in checkpoint.names() {
            let tensor = checkpoint.tensor(name).expect("a name of the file");
            let bits = tensor.shape().iter().product::<usize>() * tensor.dtype().bitsize();
            assert_eq!(bits, 8 * tensor.bytes().len(), "{name}");
            let _ = (tensor.non_finite(), checkpoint.orientation(name));
        }
        for name in PackedWeight::names(&checkpoint) {
            read_packed(&checkpoint, &name);
        }
        let _ = io::load_safetensors(small(), &file);
        true
    })
}

fn header_seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("temporary folders");
    let file = folder.path().join("small");
    io::save_safetensors(&small(), &file).expect("a small file");
    vec![fs::read(&file).expect("it was just written"), one_tensor("w.weight")]
}

/// A layer whose file has a pattern.
fn small() -> BlockSparseLinear {
    BlockSparseLinearConfig::new(16, 24).with_block_size(8).with_sparsity(0.5).init(&Device::flex())
}

fn read_packed(checkpoint: &Checkpoint, name: &str) -> bool {
    let Ok(packed) = PackedWeight::read(checkpoint, name) else { return false };
    let problems = packed.problems(checkpoint);
    let pattern = &packed.pattern;
    assert_eq!(packed.values.bytes().len(), pattern.nnz() * packed.block_bytes());
    if pattern.nnz() > 0 {
        assert_eq!(packed.slot(pattern.nnz() - 1).len(), packed.block_bytes());
    }
    // A packed weight may be of any size, its dense form too.
    if problems.is_empty() && pattern.shape().area() < 1 << 20 {
        assert_eq!(pattern.blocks().count(), pattern.nnz());
    }
    true
}

/// The index tensors of a packed weight: numbers of 32 bits, shared out by the first two bytes.
fn layout(input: &[u8]) -> bool {
    let Some((lengths, numbers)) = input.split_first_chunk::<2>() else { return false };
    let mut rest = numbers;
    let mut take = |count: usize| {
        let bytes = (4 * count).min(rest.len() / 4 * 4);
        let (taken, left) = rest.split_at(bytes);
        rest = left;
        taken
    };
    let layout = take(5);
    let row_idx = take(lengths[0].into());
    let col_ptr = take(lengths[1].into());
    let kept = row_idx.len() / 4;
    let side = layout.get(4..6).map_or(8, |side| usize::from(side[0]).clamp(1, 128));
    let values = vec![0; kept * side * side * 4];
    let indices = |bytes| TensorView::new(Dtype::I32, vec![<[u8]>::len(bytes) / 4], bytes);
    let tensors = [
        ("w.weight.values", TensorView::new(Dtype::F32, vec![kept, side, side], &values)),
        ("w.weight.layout", indices(layout)),
        ("w.weight.row_idx", indices(row_idx)),
        ("w.weight.col_ptr", indices(col_ptr)),
    ];
    let tensors = tensors.map(|(name, view)| (name, view.expect("of the size of its bytes")));
    let bytes = safetensors::serialize(tensors, None).expect("four tensors");
    in_folder(|folder| {
        let file = folder.join("layout.safetensors");
        put(&file, &bytes);
        let checkpoint = Checkpoint::open(&file).expect("a good header");
        read_packed(&checkpoint, "w.weight")
    })
}

fn layout_seeds() -> Vec<Vec<u8>> {
    let seed = |layout: [i32; 5], row_idx: &[i32], col_ptr: &[i32]| {
        let numbers = layout.iter().chain(row_idx).chain(col_ptr);
        let lengths = [row_idx.len() as u8, col_ptr.len() as u8];
        lengths.into_iter().chain(numbers.flat_map(|number| number.to_le_bytes())).collect()
    };
    vec![
        seed([1, 8, 16, 24, 0], &[0, 1, 0, 1], &[0, 1, 2, 4]),
        seed([1, 8, 9, 7, 1], &[], &[0, 0]),
        seed([1, 16, 64, 16, 0], &[1, 3], &[0, 2]),
    ]
}

/// A `tokenizer.json`, with a text to cut.
fn tokenizer(input: &[u8]) -> bool {
    in_folder(|folder| {
        put(&folder.join("tokenizer.json"), input);
        let Ok(tokenizer) = Tokenizer::open(folder, 300) else { return false };
        let Ok(tokens) = tokenizer.encode("A text, €5 and 🦙.\n\tabc") else { return false };
        let mut stream = tokenizer.stream();
        for token in tokens {
            if stream.push(token).is_err() {
                return false;
            }
        }
        stream.finish().is_ok()
    })
}

fn tokenizer_seeds() -> Vec<Vec<u8>> {
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), Value::from(byte)));
    let vocabulary: serde_json::Map<String, Value> = bytes.collect();
    let small = serde_json::json!({
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": true},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    });
    vec![sample("llama3/tokenizer.json"), small.to_string().into_bytes()]
}

/// JSON lines, or a text if the first byte is even.
fn lines(input: &[u8]) -> bool {
    let Some((kind, text)) = input.split_first() else { return false };
    in_folder(|folder| {
        let file = folder.join(if kind % 2 == 0 { "input.txt" } else { "input.jsonl" });
        put(&file, text);
        let Ok(texts) = Texts::read(&file) else { return false };
        let tokens = texts.tokens(&Tokenizer::Bytes).expect("bytes");
        assert_eq!(tokens.len(), texts.bytes());
        true
    })
}

fn lines_seeds() -> Vec<Vec<u8>> {
    let lines =
        "1{\"text\": \"one \\u20ac\"}\n\n{\"id\": 3, \"text\": \"two\\n\", \"score\": NaN}\r\n";
    vec![lines.into(), b"0A plain text.\nOf two lines.".to_vec()]
}

/// What an interrupted run left: its log, its model or the state of its optimizer, by the first byte.
fn run(input: &[u8]) -> bool {
    let Some((kind, bytes)) = input.split_first() else { return false };
    in_folder(|folder| match kind % 3 {
        0 => {
            let run = folder.join("out.run");
            fs::create_dir_all(&run).expect("a temporary folder");
            put(&run.join("log.json"), bytes);
            let opened = RunFolder::open(&folder.join("out"), Value::Null, &[], 7, true);
            opened.is_ok_and(|run| run.checkpoint().is_some())
        }
        1 => io::from_bytes(small(), bytes.to_vec()).is_ok(),
        _ => {
            let file = folder.join("optimizer.bpk");
            put(&file, bytes);
            let (model, optimizer) = attached();
            io::load_optimizer(optimizer, &model, &file).is_ok()
        }
    })
}

/// A model to train, whose parameters have the same names each time.
fn attached() -> (BlockSparseLinear, ModuleOptimizer) {
    static MODEL: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = MODEL.get_or_init(|| io::to_bytes(&small()).expect("a small model"));
    let model = io::from_bytes(small(), bytes.clone()).expect("the same model");
    let blast = Blast::new(AdamWConfig::new().build(), BlastConfig::new(100));
    blast.attach(model.train()).expect("a layer to prune")
}

fn run_seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("temporary folders");
    let (out, file) = (folder.path().join("out"), folder.path().join("state"));
    let mut run = RunFolder::open(&out, Value::Null, &[], 7, false).expect("a new run");
    run.save(|model, _| io::save(&small(), model).map_err(Into::into)).expect("a checkpoint");
    let read = |path: PathBuf| fs::read(path).expect("it was just written");
    let log = read(out.with_extension("run").join("log.json"));
    let model = io::to_bytes(&small()).expect("a small model");
    let (layer, mut optimizer) = attached();
    let input = Tensor::<2>::ones([2, 16], &Device::flex().autodiff());
    let loss = layer.forward(input).sum();
    let gradients = GradientsParams::from_grads(loss.backward(), &layer);
    let _ = optimizer.step(1e-3, layer, gradients);
    io::save_optimizer(&optimizer, &file).expect("a small file");
    let all = [log, model, read(file)].into_iter().zip(0..);
    all.map(|(bytes, kind)| [vec![kind], bytes].concat()).collect()
}

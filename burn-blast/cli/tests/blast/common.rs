//! What the tests share: a folder in which `blast` runs, and checkpoints made and read without its code.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

/// How a run of `blast` ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// Its output as JSON, whether or not something was found.
    pub fn json(&self) -> Value {
        let is_progress = |line: &str| line.ends_with(" left");
        assert!(self.err.lines().all(is_progress), "nothing else when all is well: {}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {}", self.out))
    }

    /// Its output has all these parts.
    pub fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.out.contains(part), "no \"{part}\" in {}", self.out);
        }
    }
}

/// A folder in which `blast` runs, so that names of files need no path.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Writes a file that is no checkpoint.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Runs `blast` with words separated by blanks.
    pub fn run(&self, words: &str) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blast"));
        let output =
            command.args(words.split_whitespace()).current_dir(self.0.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        Outcome { code, out: text(output.stdout), err: text(output.stderr) }
    }

    /// Starts `blast` by way of a shell, which is given `before`, with both outputs open to be read.
    pub fn start(&self, before: &str, words: &str) -> Child {
        let script = format!("{before} exec {} {words}", env!("CARGO_BIN_EXE_blast"));
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(self.0.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs `blast`, which must end well.
    pub fn fine(&self, words: &str) -> Outcome {
        let outcome = self.run(words);
        assert_eq!(outcome.code, 0, "{words}: {outcome:?}");
        outcome
    }

    /// Runs `blast`, which must find something and say all these parts.
    pub fn finds(&self, words: &str, parts: &[&str]) {
        let outcome = self.run(words);
        assert_eq!(outcome.code, 1, "{words}: {outcome:?}");
        outcome.says(parts);
    }

    /// Runs `blast`, which must refuse with a message that has all these parts, and leave no temporary file.
    pub fn refused(&self, words: &str, parts: &[&str]) {
        let outcome = self.run(words);
        assert_eq!(outcome.code, 2, "{words}: {outcome:?}");
        for part in parts {
            assert!(outcome.err.contains(part), "{words}: no \"{part}\" in {}", outcome.err);
        }
        if !words.starts_with("generate") {
            assert_eq!(outcome.out, "", "{words}");
        }
        self.no_rubbish();
    }

    /// No temporary file or folder is left.
    pub fn no_rubbish(&self) {
        for entry in fs::read_dir(self.0.path()).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(!name.to_string_lossy().ends_with(".part"), "{name:?} is left behind");
        }
    }

    /// Writes a safetensors file.
    pub fn write<N: Into<String>>(
        &self,
        file: &str,
        tensors: impl IntoIterator<Item = (N, Stored)>,
        metadata: &[(&str, &str)],
    ) {
        let tensors: Vec<(String, Stored)> =
            tensors.into_iter().map(|(name, stored)| (name.into(), stored)).collect();
        let metadata = metadata.iter().map(|(key, text)| (key.to_string(), text.to_string()));
        let metadata: HashMap<String, String> = metadata.collect();
        let metadata = (!metadata.is_empty()).then_some(metadata);
        let views = tensors.iter().map(|(name, stored)| (name, stored.view()));
        self.put(file, safetensors::serialize(views, metadata).unwrap());
    }

    /// All tensors of a file, or of the safetensors files of a folder.
    pub fn tensors(&self, name: &str) -> Tensors {
        let mut tensors = Tensors::new();
        for file in self.safetensors_files(name) {
            let bytes = fs::read(file).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                let (dtype, shape) = (view.dtype(), view.shape().to_vec());
                let stored = Stored { dtype, shape, bytes: view.data().to_vec() };
                assert!(tensors.insert(name, stored).is_none());
            }
        }
        tensors
    }

    /// The entry of burn-blast in the metadata of a file.
    pub fn entry(&self, file: &str) -> String {
        let bytes = fs::read(self.path(file)).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        metadata.metadata().as_ref().unwrap()["burn_blast"].clone()
    }

    pub fn safetensors_files(&self, name: &str) -> Vec<PathBuf> {
        let path = self.path(name);
        if path.is_file() {
            return vec![path];
        }
        let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|end| end == "safetensors")).collect()
    }

    /// All files of two folders are the same, byte for byte.
    pub fn same_files(&self, one: &str, two: &str) {
        for entry in fs::read_dir(self.path(one)).unwrap() {
            let name = entry.unwrap().file_name();
            let read = |folder: &str| fs::read(self.path(folder).join(&name)).unwrap();
            assert_eq!(read(one), read(two), "{name:?}");
        }
    }
}

/// A tensor as stored in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    pub fn f32(shape: &[usize], numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub fn i32(numbers: &[i32]) -> Self {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { dtype: Dtype::I32, shape: vec![numbers.len()], bytes }
    }

    /// Numbers between -1 and 1 that depend on the name and nothing else.
    fn made(name: &str, dtype: Dtype, shape: Vec<usize>) -> Self {
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let number = |at: u64| {
            // The finaliser of SplitMix64.
            let mut mixed = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        };
        let numbers = (0..shape.iter().product::<usize>() as u64).map(number);
        let bytes = match dtype {
            Dtype::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
            Dtype::F16 => numbers.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::BF16 => numbers.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
            other => panic!("no tests with {other}"),
        };
        Self { dtype, shape, bytes }
    }

    fn view(&self) -> TensorView<'_> {
        TensorView::new(self.dtype, self.shape.clone(), &self.bytes).unwrap()
    }

    /// Its elements as numbers.
    pub fn numbers(&self) -> Vec<f64> {
        let read = |bytes: &[u8]| match self.dtype {
            Dtype::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
            Dtype::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).into(),
            Dtype::BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).into(),
            Dtype::I32 => i32::from_le_bytes(bytes.try_into().unwrap()).into(),
            other => panic!("no tests with {other}"),
        };
        self.bytes.chunks_exact(self.dtype.bitsize() / 8).map(read).collect()
    }
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Stored>;

/// Blocks of a dense matrix as on disk: block row and column of the `[d_input, d_output]` weight, and the places of
/// its elements. The naive way, to compare with.
pub fn blocks(
    shape: &[usize],
    block: usize,
    out_in: bool,
) -> BTreeMap<(usize, usize), Vec<(usize, usize)>> {
    let mut blocks: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in 0..shape[0] {
        for col in 0..shape[1] {
            let (input, output) = if out_in { (col, row) } else { (row, col) };
            blocks
                .entry((input / block, output / block))
                .or_default()
                .push((row * shape[1] + col, input));
        }
    }
    blocks
}

/// The `keep` best blocks by norm, with a weight for each input feature.
pub fn best(
    stored: &Stored,
    block: usize,
    out_in: bool,
    keep: usize,
    features: Option<&[f64]>,
) -> Vec<(usize, usize)> {
    let numbers = stored.numbers();
    let mut scored: Vec<(f64, (usize, usize))> = Vec::new();
    for (at, places) in blocks(&stored.shape, block, out_in) {
        let square = |&(place, input): &(usize, usize)| {
            let value = numbers[place] * features.map_or(1.0, |features| features[input]);
            value * value
        };
        scored.push((places.iter().map(square).sum(), at));
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut kept: Vec<_> = scored.into_iter().take(keep).map(|(_, at)| at).collect();
    kept.sort();
    kept
}

/// Checks that `pruned` is `dense` with exactly these blocks, bit for bit, and zero elsewhere.
pub fn check_pruned(
    name: &str,
    dense: &Stored,
    pruned: &Stored,
    block: usize,
    out_in: bool,
    kept: &[(usize, usize)],
) {
    assert_eq!((pruned.dtype, &pruned.shape), (dense.dtype, &dense.shape), "{name}");
    let size = dense.dtype.bitsize() / 8;
    for (at, places) in blocks(&dense.shape, block, out_in) {
        for (place, _) in places {
            let range = place * size..(place + 1) * size;
            let expected = match kept.contains(&at) {
                true => dense.bytes[range.clone()].to_vec(),
                false => vec![0; size],
            };
            assert_eq!(pruned.bytes[range], expected, "{name}, block {at:?}");
        }
    }
}

/// Whose names and orientation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `nn.Linear`, `[d_output, d_input]`.
    Llama,
    /// `Conv1D`, `[d_input, d_output]`.
    Gpt2,
}

/// What to write.
#[derive(Debug, Clone)]
pub struct Model {
    pub family: Family,
    pub dtype: Dtype,
    pub layers: usize,
    pub d_model: usize,
    pub d_ff: usize,
    pub vocab: usize,
    /// Files; one file is called `model.safetensors` and has no index.
    pub shards: usize,
}

impl Model {
    /// A small sharded model of two layers.
    pub fn small(family: Family, dtype: Dtype) -> Self {
        Self { family, dtype, layers: 2, d_model: 64, d_ff: 160, vocab: 50, shards: 3 }
    }

    fn tensors(&self) -> Vec<(String, Stored)> {
        let (d, ff) = (self.d_model, self.d_ff);
        let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
        let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
        match self.family {
            Family::Llama => {
                add("model.embed_tokens.weight".into(), &[self.vocab, d]);
                add("model.norm.weight".into(), &[d]);
                for layer in 0..self.layers {
                    let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
                    for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                        add(name(&format!("self_attn.{part}")), &[d, d]);
                    }
                    add(name("mlp.gate_proj"), &[ff, d]);
                    add(name("mlp.up_proj"), &[ff, d]);
                    add(name("mlp.down_proj"), &[d, ff]);
                    add(name("input_layernorm"), &[d]);
                }
            }
            Family::Gpt2 => {
                add("wte.weight".into(), &[self.vocab, d]);
                for layer in 0..self.layers {
                    let name = |part: &str| format!("h.{layer}.{part}");
                    add(name("attn.c_attn.weight"), &[d, 3 * d]);
                    add(name("mlp.c_fc.weight"), &[d, ff]);
                    add(name("mlp.c_fc.bias"), &[ff]);
                    add(name("mlp.c_proj.weight"), &[ff, d]);
                }
            }
        }
        let stored = |(name, shape): (String, Vec<usize>)| {
            let stored = Stored::made(&name, self.dtype, shape);
            (name, stored)
        };
        shapes.into_iter().map(stored).collect()
    }

    /// A place with it in the folder `dense`.
    pub fn place(&self) -> Place {
        let place = Place::new();
        self.write(&place, "dense");
        place
    }

    /// A place with a small Llama in BF16 in the folder `dense`, in one file.
    pub fn one_file() -> Place {
        Self { shards: 1, ..Self::small(Family::Llama, Dtype::BF16) }.place()
    }

    /// Writes it as a folder in the layout of Hugging Face.
    pub fn write(&self, place: &Place, folder: &str) {
        fs::create_dir_all(place.path(folder)).unwrap();
        let kind = match self.family {
            Family::Llama => "llama",
            Family::Gpt2 => "gpt2",
        };
        place.put(&format!("{folder}/config.json"), format!("{{\"model_type\": \"{kind}\"}}\n"));
        place.put(&format!("{folder}/tokenizer.json"), "{\"version\": \"1.0\"}\n");
        let tensors = self.tensors();
        let each = tensors.len().div_ceil(self.shards);
        let (mut map, mut total) = (BTreeMap::new(), 0);
        for (at, shard) in tensors.chunks(each).enumerate() {
            let file = match self.shards {
                1 => "model.safetensors".to_string(),
                all => format!("model-{:05}-of-{all:05}.safetensors", at + 1),
            };
            total += shard.iter().map(|(_, stored)| stored.bytes.len()).sum::<usize>();
            map.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone())));
            place.write(&format!("{folder}/{file}"), shard.to_vec(), &[("format", "pt")]);
        }
        if self.shards > 1 {
            let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": map});
            let text = serde_json::to_string_pretty(&index).unwrap();
            place.put(&format!("{folder}/model.safetensors.index.json"), text + "\n");
        }
    }
}

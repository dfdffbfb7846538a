//! Checkpoints with the names and shapes of real models and made-up numbers, written without the code under test.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, View, serialize_to_file};

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
    fn tensors(&self) -> Vec<Made> {
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
        let made = |(name, shape)| Made { name, shape, dtype: self.dtype };
        shapes.into_iter().map(made).collect()
    }

    /// Writes it as a folder in the layout of Hugging Face.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let kind = match self.family {
            Family::Llama => "llama",
            Family::Gpt2 => "gpt2",
        };
        fs::write(folder.join("config.json"), format!("{{\"model_type\": \"{kind}\"}}\n")).unwrap();
        fs::write(folder.join("tokenizer.json"), "{\"version\": \"1.0\"}\n").unwrap();
        let tensors = self.tensors();
        let each = tensors.len().div_ceil(self.shards);
        let (mut map, mut total) = (BTreeMap::new(), 0);
        for (at, shard) in tensors.chunks(each).enumerate() {
            let file = match self.shards {
                1 => "model.safetensors".to_string(),
                all => format!("model-{:05}-of-{all:05}.safetensors", at + 1),
            };
            total += shard.iter().map(|tensor| tensor.data_len()).sum::<usize>();
            map.extend(shard.iter().map(|tensor| (tensor.name.clone(), file.clone())));
            let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
            let named = shard.iter().map(|tensor| (tensor.name.clone(), tensor));
            serialize_to_file(named, Some(metadata), &folder.join(file)).unwrap();
        }
        if self.shards > 1 {
            let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": map});
            let text = serde_json::to_string_pretty(&index).unwrap();
            fs::write(folder.join("model.safetensors.index.json"), text + "\n").unwrap();
        }
    }
}

/// A tensor that is made when it is written, so that large ones need no memory.
struct Made {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
}

impl Made {
    /// Numbers between -1 and 1 that depend on the name and nothing else.
    fn numbers(&self) -> impl Iterator<Item = f32> {
        let seed = self.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        (0..self.shape.iter().product::<usize>() as u64).map(move |at| {
            // The finaliser of SplitMix64.
            let mut mixed = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        })
    }
}

impl View for &Made {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let numbers = self.numbers();
        match self.dtype {
            Dtype::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
            Dtype::F16 => numbers.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::BF16 => numbers.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
            other => panic!("synthetic checkpoints have no {other}"),
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

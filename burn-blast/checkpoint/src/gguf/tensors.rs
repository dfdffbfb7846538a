//! Tensors of a GGUF file under the names of Hugging Face.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anamnesis::{F32Out, GgufTensorInfo, GgufType, ParsedGguf};
use safetensors::Dtype;

use super::settings::Model;
use crate::entry::Entry;
use crate::rewrite::FileContent;

/// Names in both formats, without layers.
const OUTER: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Names in both formats, in a layer.
const INNER: [(&str, &str); 12] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
];

/// Names in the layers of Gemma that differ.
const GEMMA: [(&str, &str); 2] =
    [("ffn_norm", "pre_feedforward_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];

/// Every tensor that a model of Hugging Face has.
pub(super) fn content<'a>(
    file: &'a ParsedGguf,
    model: &'a Model,
) -> Result<FileContent<'a>, String> {
    let infos = file.tensor_info();
    let widen = infos.iter().any(|tensor| tensor.dtype.is_quantized());
    let mut entries = Vec::new();
    for tensor in infos.iter().filter(|tensor| tensor.name != "rope_freqs.weight") {
        let name = &tensor.name;
        let theirs = their_name(name, model.architecture)
            .ok_or_else(|| format!("has a tensor \"{name}\", which its architecture does not"))?;
        // Rows come last.
        let mut shape = tensor.shape.clone();
        shape.reverse();
        let order = Order::of(name, model, &shape)?;
        let (dtype, decode) = decoder(tensor.dtype, widen)
            .ok_or_else(|| format!("has \"{name}\" in {}, which no weight is in", tensor.dtype))?;
        let is_gemma_norm = model.architecture == "gemma3" && name.ends_with("norm.weight");
        if is_gemma_norm && dtype != Dtype::F32 {
            return Err(format!("has the norm \"{name}\" in {}, not in F32", tensor.dtype));
        }
        let write = move |out: &mut dyn Write| {
            let mut bytes = decode(file, tensor).map_err(io::Error::other)?;
            if is_gemma_norm {
                minus_one(&mut bytes);
            }
            order.write(&bytes, out)
        };
        entries.push(Entry::new(theirs, dtype, shape, write));
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(FileContent { metadata, entries })
}

/// The numbers of a small tensor.
pub(super) fn numbers(file: &ParsedGguf, tensor: &GgufTensorInfo) -> Result<Vec<f32>, String> {
    let (_, decode) = decoder(tensor.dtype, true).ok_or_else(|| {
        format!("has \"{}\" in {}, which is no number", tensor.name, tensor.dtype)
    })?;
    let bytes = decode(file, tensor)?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// The name of a tensor in Hugging Face's checkpoints.
fn their_name(name: &str, architecture: &str) -> Option<String> {
    let (stem, leaf) =
        name.rsplit_once('.').filter(|(_, leaf)| ["weight", "bias"].contains(leaf))?;
    let find = |names: &[(&str, &'static str)], ours: &str| {
        names.iter().find(|(name, _)| *name == ours).map(|(_, theirs)| *theirs)
    };
    if let Some(theirs) = find(&OUTER, stem) {
        return Some(format!("{theirs}.{leaf}"));
    }
    let (layer, inner) = stem.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let of_gemma = find(&GEMMA, inner).filter(|_| architecture == "gemma3");
    let theirs = of_gemma.or_else(|| find(&INNER, inner))?;
    Some(format!("model.layers.{layer}.{theirs}.{leaf}"))
}

/// Decodes a tensor to little-endian bytes.
type Decode = fn(&ParsedGguf, &GgufTensorInfo) -> Result<Vec<u8>, String>;

/// The type that a tensor is written in, and how its bytes are made; none for whole numbers.
fn decoder(dtype: GgufType, widen: bool) -> Option<(Dtype, Decode)> {
    Some(match dtype {
        GgufType::F32 => (Dtype::F32, raw),
        GgufType::F16 if widen => (Dtype::F32, |file, tensor| {
            wide(&raw(file, tensor)?, |bits| half::f16::from_le_bytes(bits).to_f32())
        }),
        GgufType::BF16 if widen => (Dtype::F32, |file, tensor| {
            wide(&raw(file, tensor)?, |bits| half::bf16::from_le_bytes(bits).to_f32())
        }),
        GgufType::F16 => (Dtype::F16, raw),
        GgufType::BF16 => (Dtype::BF16, raw),
        quantised if quantised.is_quantized() => (Dtype::F32, |file, tensor| {
            file.dequantize_tensor_as::<F32Out>(tensor).map_err(|error| error.to_string())
        }),
        _ => return None,
    })
}

fn raw(file: &ParsedGguf, tensor: &GgufTensorInfo) -> Result<Vec<u8>, String> {
    let found = file.tensors().find(|found| found.name == tensor.name);
    found.map(|found| found.data.into_owned()).ok_or_else(|| "it is not in the file".to_owned())
}

fn wide(bytes: &[u8], number: impl Fn([u8; 2]) -> f32) -> Result<Vec<u8>, String> {
    Ok(bytes.as_chunks().0.iter().flat_map(|bits| number(*bits).to_le_bytes()).collect())
}

/// llama.cpp stores what Gemma multiplies by, Hugging Face one less.
fn minus_one(bytes: &mut [u8]) {
    for bytes in bytes.as_chunks_mut().0 {
        *bytes = (f32::from_le_bytes(*bytes) - 1.0).to_le_bytes();
    }
}

/// The order of the rows of a matrix, or of the elements of a bias.
enum Order {
    /// As in Hugging Face's checkpoints.
    Same,
    /// llama.cpp rotates neighbours in a head, where Hugging Face rotates its halves.
    Neighbours {
        /// Rows of a head.
        head: usize,
        rows: usize,
    },
}

impl Order {
    fn of(name: &str, model: &Model, shape: &[usize]) -> Result<Self, String> {
        let permuted = ["llama", "smollm3"].contains(&model.architecture);
        let heads = match name.rsplit('.').nth(1) {
            Some("attn_q") if permuted => model.heads,
            Some("attn_k") if permuted => model.kv_heads,
            _ => return Ok(Self::Same),
        };
        let rows = shape.first().copied().unwrap_or(0);
        match rows.is_multiple_of(2 * heads) && rows > 0 {
            true => Ok(Self::Neighbours { head: rows / heads, rows }),
            false => Err(format!("has \"{name}\" with {rows} rows for {heads} heads")),
        }
    }

    fn write(&self, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let Self::Neighbours { head, rows } = *self else { return out.write_all(bytes) };
        let row = bytes.len() / rows;
        (0..rows).try_for_each(|at| {
            let (start, inside) = (at / head * head, at % head);
            let (half, pair) = (inside / (head / 2), inside % (head / 2));
            let from = start + 2 * pair + half;
            out.write_all(&bytes[from * row..][..row])
        })
    }
}

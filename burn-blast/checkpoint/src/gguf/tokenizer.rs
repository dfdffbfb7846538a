//! `tokenizer.json` of a GGUF file, and the files beside it.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::metadata::Metadata;

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How the texts of words begin and are split before pairs are merged, by `tokenizer.ggml.pre`.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What stands for a space in the tokens of SentencePiece.
const SPACE: &str = "\u{2581}";

/// The vocabulary of a file.
pub(super) struct Tokens<'a> {
    texts: &'a [String],
    kinds: Vec<i64>,
    /// Whether tokens are those of SentencePiece, not of byte-level BPE.
    is_pieces: bool,
}

impl<'a> Tokens<'a> {
    pub(super) fn read(metadata: &Metadata<'a>) -> Result<Self, String> {
        let is_pieces = match metadata.text("tokenizer.ggml.model") {
            Some("gpt2") => false,
            Some("llama") => true,
            found => {
                let found = found.unwrap_or("nothing");
                return Err(format!(
                    "has the tokenizer \"{found}\", which is not implemented: gpt2 and llama are"
                ));
            }
        };
        let texts = metadata.texts("tokenizer.ggml.tokens").ok_or("has no tokens")?;
        let kinds = metadata.kinds("tokenizer.ggml.token_type").unwrap_or_default();
        Ok(Self { texts, kinds, is_pieces })
    }

    /// The content of `tokenizer.json`.
    pub(super) fn tokenizer(&self, metadata: &Metadata<'_>) -> Result<Value, String> {
        let parts = match self.is_pieces {
            true => self.pieces(metadata)?,
            false => self.byte_level(metadata)?,
        };
        let added = self.kinds.iter().zip(self.texts).enumerate().filter_map(|(id, (kind, text))| {
            let is_added = [CONTROL, USER_DEFINED].contains(kind);
            is_added.then(|| {
                json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind == CONTROL,
                })
            })
        });
        let mut json = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added.collect::<Vec<_>>(), "post_processor": self.ends(metadata)?,
        });
        let all = json.as_object_mut().expect("a map");
        all.extend(parts);
        Ok(json)
    }

    /// Byte-level BPE, as of GPT-2.
    fn byte_level(&self, metadata: &Metadata<'_>) -> Result<Map<String, Value>, String> {
        let kind = metadata.text("tokenizer.ggml.pre").unwrap_or("default");
        let bytes = |split: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split });
        let by = |regex: &str| {
            let split = json!({
                "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false,
            });
            json!({ "type": "Sequence", "pretokenizers": [split, bytes(false)] })
        };
        let mut normalizer = Value::Null;
        let (before, ignore_merges) = match kind {
            "default" | "gpt-2" => (bytes(true), false),
            "smollm" => {
                let digits = json!({ "type": "Digits", "individual_digits": true });
                (json!({ "type": "Sequence", "pretokenizers": [digits, bytes(true)] }), false)
            }
            "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => (by(LLAMA3), true),
            "qwen2" => {
                normalizer = json!({ "type": "NFC" });
                (by(QWEN2), false)
            }
            other => {
                return Err(format!(
                    "splits words as \"{other}\", which is not implemented: default, gpt-2, smollm, llama-bpe and qwen2 are"
                ));
            }
        };
        let merges = metadata.texts("tokenizer.ggml.merges").ok_or("has no merges")?;
        let pairs = merges.iter().map(|merge| merge.split_once(' ').map(|(a, b)| json!([a, b])));
        let pairs: Option<Vec<Value>> = pairs.collect();
        let pairs = pairs.ok_or("has a merge that is not of two tokens")?;
        Ok(parts([
            ("normalizer", normalizer),
            ("pre_tokenizer", before),
            ("decoder", bytes(true)),
            (
                "model",
                self.bpe(pairs, json!({ "byte_fallback": false, "ignore_merges": ignore_merges })),
            ),
        ]))
    }

    /// Pieces of SentencePiece. Their scores order the merges, as in transformers' conversion.
    fn pieces(&self, metadata: &Metadata<'_>) -> Result<Map<String, Value>, String> {
        let scores = metadata.numbers("tokenizer.ggml.scores").ok_or("has no scores of tokens")?;
        if scores.len() != self.texts.len() {
            return Err(format!("has {} tokens, but {} scores", self.texts.len(), scores.len()));
        }
        let scored: HashMap<&str, f32> =
            self.texts.iter().map(String::as_str).zip(scores.iter().copied()).collect();
        let mut merges: Vec<(f32, f32, f32, &str, &str)> = Vec::new();
        let mut seen = HashSet::new();
        for (text, score) in self.texts.iter().zip(scores).filter(|(text, _)| seen.insert(*text)) {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if let (Some(one), Some(two)) = (scored.get(left), scored.get(right)) {
                    merges.push((*score, *one, *two, left, right));
                }
            }
        }
        merges.sort_by(|a, b| {
            let key = |it: &(f32, f32, f32, &str, &str)| [it.0, it.1, it.2];
            key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal)
        });
        let pairs = merges.into_iter().map(|(.., left, right)| json!([left, right])).collect();
        let prefix = metadata.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
        let mut normalizers = vec![replace(" ", SPACE)];
        let mut decoders =
            vec![replace(SPACE, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
        if prefix {
            normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let unknown =
            metadata.whole("tokenizer.ggml.unknown_token_id").and_then(|id| self.text(id));
        let more = json!({ "byte_fallback": true, "fuse_unk": true, "unk_token": unknown });
        Ok(parts([
            ("normalizer", json!({ "type": "Sequence", "normalizers": normalizers })),
            ("pre_tokenizer", Value::Null),
            ("decoder", json!({ "type": "Sequence", "decoders": decoders })),
            ("model", self.bpe(pairs, more)),
        ]))
    }

    fn bpe(&self, merges: Vec<Value>, more: Value) -> Value {
        let vocabulary = self.texts.iter().enumerate().map(|(id, text)| (text.clone(), json!(id)));
        let mut model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary.collect::<Map<_, _>>(), "merges": merges,
        });
        let all = model.as_object_mut().expect("a map");
        all.extend(more.as_object().cloned().unwrap_or_default());
        model
    }

    /// Adds the tokens before and after a text.
    fn ends(&self, metadata: &Metadata<'_>) -> Result<Value, String> {
        let llama3 = ["llama-bpe", "llama3", "llama-v3"];
        let is_llama3 =
            metadata.text("tokenizer.ggml.pre").is_some_and(|kind| llama3.contains(&kind));
        // As llama.cpp, where a file says nothing.
        let first =
            metadata.flag("tokenizer.ggml.add_bos_token").unwrap_or(self.is_pieces || is_llama3);
        let last = metadata.flag("tokenizer.ggml.add_eos_token").unwrap_or(false);
        let mut special = Map::new();
        let mut token = |name: &str, is_added: bool| -> Result<Option<Value>, String> {
            if !is_added {
                return Ok(None);
            }
            let key = format!("tokenizer.ggml.{name}_token_id");
            let id = metadata.whole(&key).ok_or_else(|| format!("has no \"{key}\""))?;
            let text = self.text(id).ok_or_else(|| format!("has no token {id}"))?;
            special.insert(text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }));
            Ok(Some(json!({ "SpecialToken": { "id": text, "type_id": 0 } })))
        };
        let (first, last) = (token("bos", first)?, token("eos", last)?);
        if first.is_none() && last.is_none() {
            return Ok(Value::Null);
        }
        let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        let around = |inner: Vec<Value>| -> Vec<Value> {
            first.iter().cloned().chain(inner).chain(last.iter().cloned()).collect()
        };
        Ok(json!({
            "type": "TemplateProcessing", "single": around(vec![sequence("A")]),
            "pair": around(vec![sequence("A"), sequence("B")]), "special_tokens": special,
        }))
    }

    /// The content of `tokenizer_config.json`.
    pub(super) fn settings(&self, metadata: &Metadata<'_>) -> Value {
        let mut json = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
        for (ours, theirs) in [
            ("bos", "bos_token"),
            ("eos", "eos_token"),
            ("padding", "pad_token"),
            ("unknown", "unk_token"),
        ] {
            let id = metadata.whole(&format!("tokenizer.ggml.{ours}_token_id"));
            if let Some(text) = id.and_then(|id| self.text(id)) {
                json[theirs] = json!(text);
            }
        }
        if let Some(template) = metadata.text("tokenizer.chat_template") {
            json["chat_template"] = json!(template);
        }
        json
    }

    /// The content of `generation_config.json`: the tokens at which a text ends.
    pub(super) fn generation(&self, metadata: &Metadata<'_>) -> Value {
        let id = |name: &str| metadata.whole(&format!("tokenizer.ggml.{name}_token_id"));
        let mut ends: Vec<u64> = ["eos", "eot", "eom"].into_iter().filter_map(id).collect();
        ends.dedup();
        json!({ "bos_token_id": id("bos"), "eos_token_id": ends })
    }

    fn text(&self, id: u64) -> Option<&'a str> {
        self.texts.get(usize::try_from(id).ok()?).map(String::as_str)
    }
}

fn parts<const N: usize>(parts: [(&str, Value); N]) -> Map<String, Value> {
    parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect()
}

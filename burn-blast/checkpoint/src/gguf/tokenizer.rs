//! `tokenizer.json` of a GGUF file, and the files beside it.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value, json};

use super::metadata::Metadata;

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How the texts of words begin and are split before pairs are merged, by `tokenizer.ggml.pre`.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokens of Llama 3.
const LLAMA3_TOKENS: usize = 128_256;

/// Longest piece that is split into pairs; SentencePiece's own have 16 characters.
const LONGEST_PIECE: usize = 256;

/// Tokens at which a text ends, whatever the keys of a file say: llama.cpp knows them by their texts too.
const ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<eos>",
    "</s>",
];

/// What stands for a space in the tokens of SentencePiece.
const SPACE: &str = "\u{2581}";

/// The vocabulary of a file.
pub(super) struct Tokens<'a> {
    texts: &'a [String],
    kinds: Vec<i64>,
    /// Whether it is a SentencePiece vocabulary; otherwise it is byte-level BPE.
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
            let is_added = [UNKNOWN, CONTROL, USER_DEFINED].contains(kind);
            is_added.then(|| {
                json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind != USER_DEFINED,
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

    /// How texts are split into words, for old files by their architecture.
    fn splits<'m>(&self, metadata: &Metadata<'m>) -> Result<&'m str, String> {
        if let Some(kind) = metadata.text("tokenizer.ggml.pre") {
            return Ok(kind);
        }
        match (metadata.architecture, self.texts.len()) {
            ("qwen2" | "qwen3", _) => Ok("qwen2"),
            ("llama", LLAMA3_TOKENS) => Ok("llama-bpe"),
            _ => Err(
                "does not say how texts are split into words, as old files do: take a newer one"
                    .into(),
            ),
        }
    }

    /// Byte-level BPE, as of GPT-2.
    fn byte_level(&self, metadata: &Metadata<'_>) -> Result<Map<String, Value>, String> {
        let kind = self.splits(metadata)?;
        let bytes = |split: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split });
        let by = |regex: &str| {
            let split = json!({
                "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false,
            });
            json!({ "type": "Sequence", "pretokenizers": [split, bytes(false)] })
        };
        let mut normalizer = Value::Null;
        let (before, ignore_merges) = match kind {
            "gpt-2" => (bytes(true), false),
            "smollm" => {
                let digits = json!({ "type": "Digits", "individual_digits": true });
                (json!({ "type": "Sequence", "pretokenizers": [digits, bytes(true)] }), false)
            }
            "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => (by(LLAMA3), true),
            "tekken" => (by(TEKKEN), true),
            "qwen2" | "deepseek-r1-qwen" | "megrez" => {
                normalizer = json!({ "type": "NFC" });
                (by(QWEN2), false)
            }
            other => {
                return Err(format!(
                    "splits words as \"{other}\", which is not implemented: gpt-2, smollm, llama-bpe, tekken and qwen2 are"
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

    /// Pieces of SentencePiece. Merges are ordered by the score of the piece they make, then by the lengths of their two parts.
    /// transformers converts them in the same way.
    fn pieces(&self, metadata: &Metadata<'_>) -> Result<Map<String, Value>, String> {
        let scores = metadata.numbers("tokenizer.ggml.scores").ok_or("has no scores of tokens")?;
        if scores.len() != self.texts.len() {
            return Err(format!("has {} tokens, but {} scores", self.texts.len(), scores.len()));
        }
        let known: HashSet<&str> = self.texts.iter().map(String::as_str).collect();
        let mut merges: Vec<(f32, &str, &str)> = Vec::new();
        let mut seen = HashSet::new();
        for (text, score) in self.texts.iter().zip(scores).filter(|(text, _)| seen.insert(*text)) {
            if text.len() > LONGEST_PIECE {
                continue;
            }
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if known.contains(left) && known.contains(right) {
                    merges.push((*score, left, right));
                }
            }
        }
        merges.sort_by(|a, b| {
            let lengths = |it: &(f32, &str, &str)| [it.1.chars().count(), it.2.chars().count()];
            b.0.total_cmp(&a.0).then_with(|| lengths(b).cmp(&lengths(a)))
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
        let with_first = ["llama-bpe", "llama3", "llama-v3", "tekken"];
        let is_first = !self.is_pieces && with_first.contains(&self.splits(metadata)?);
        // As llama.cpp does where a file says nothing.
        let first =
            metadata.flag("tokenizer.ggml.add_bos_token").unwrap_or(self.is_pieces || is_first);
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
        let named = self.texts.iter().enumerate().zip(&self.kinds);
        let named = named.filter(|((_, text), kind)| {
            // A text that may be written is no end.
            [CONTROL, USER_DEFINED].contains(*kind) && ENDS.contains(&text.as_str())
        });
        let named = named.map(|((id, _), _)| id as u64);
        let ends: BTreeSet<u64> =
            ["eos", "eot", "eom"].into_iter().filter_map(id).chain(named).collect();
        json!({ "bos_token_id": id("bos"), "eos_token_id": ends })
    }

    fn text(&self, id: u64) -> Option<&'a str> {
        self.texts.get(usize::try_from(id).ok()?).map(String::as_str)
    }
}

fn parts<const N: usize>(parts: [(&str, Value); N]) -> Map<String, Value> {
    parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use anamnesis::{GgufMetadataArray as Array, GgufMetadataValue as Entry};

    use super::*;

    /// A file of these tokens and kinds, with more entries.
    fn file(tokens: &[(&str, i32)], more: &[(&str, Entry)]) -> HashMap<String, Entry> {
        let texts = tokens.iter().map(|(text, _)| (*text).to_owned()).collect();
        let kinds = tokens.iter().map(|(_, kind)| *kind).collect();
        let all = [
            ("general.architecture", Entry::String("qwen2".into())),
            ("tokenizer.ggml.model", Entry::String("gpt2".into())),
            ("tokenizer.ggml.tokens", Entry::Array(Box::new(Array::String(texts)))),
            ("tokenizer.ggml.token_type", Entry::Array(Box::new(Array::I32(kinds)))),
            ("tokenizer.ggml.merges", Entry::Array(Box::new(Array::String(vec!["a b".into()])))),
        ];
        let all = all.into_iter().chain(more.iter().cloned());
        all.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    #[test]
    fn a_text_ends_at_what_the_keys_and_the_texts_of_special_tokens_say() {
        let tokens = [("a", 1), ("<|im_end|>", 3), ("<end>", 3), ("</s>", 1)];
        let file = file(&tokens, &[("tokenizer.ggml.eos_token_id", Entry::U32(2))]);
        let metadata = Metadata::new(&file);
        let generation = Tokens::read(&metadata).unwrap().generation(&metadata);
        assert_eq!(generation["eos_token_id"], json!([1, 2]));
    }

    #[test]
    fn special_tokens_are_added_ones() {
        let tokens = [("<unk>", 2), ("a", 1), ("<tool>", 4), ("<s>", 3)];
        let file = file(&tokens, &[]);
        let metadata = Metadata::new(&file);
        let json = Tokens::read(&metadata).unwrap().tokenizer(&metadata).unwrap();
        let added = json["added_tokens"].as_array().unwrap().iter();
        let added: Vec<_> =
            added.map(|token| (token["id"].clone(), token["special"].clone())).collect();
        assert_eq!(
            added,
            [(json!(0), json!(true)), (json!(2), json!(false)), (json!(3), json!(true))]
        );
    }

    #[test]
    fn how_words_are_split_is_named_or_known_of_the_architecture() {
        let splits = |more: &[(&str, Entry)]| {
            let file = file(&[("a", 1)], more);
            let metadata = Metadata::new(&file);
            let json = Tokens::read(&metadata).and_then(|tokens| tokens.tokenizer(&metadata))?;
            Ok::<_, String>(json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].clone())
        };
        let named = |name: &str| splits(&[("tokenizer.ggml.pre", Entry::String(name.into()))]);
        assert_eq!(splits(&[]).unwrap(), json!(QWEN2));
        assert_eq!(named("deepseek-r1-qwen").unwrap(), json!(QWEN2));
        let first = ("tokenizer.ggml.bos_token_id", Entry::U32(0));
        let tekken = splits(&[("tokenizer.ggml.pre", Entry::String("tekken".into())), first]);
        assert_eq!(tekken.unwrap(), json!(TEKKEN));
        assert!(named("default").unwrap_err().contains("splits words as \"default\""));
        let llama = [("general.architecture", Entry::String("llama".into()))];
        assert!(splits(&llama).unwrap_err().contains("take a newer one"));
    }
}

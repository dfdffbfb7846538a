//! Text to tokens and back, also token by token.

use std::path::Path;

use crate::Error;

/// Tokens of which any text can be made if each byte is one.
const BYTES: usize = 256;

/// Files of tokenizers in other formats.
const OTHER_FILES: [&str; 9] = [
    "tokenizer.model",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// Stands for bytes that are no text, or not yet.
const INCOMPLETE: char = char::REPLACEMENT_CHARACTER;

/// How text becomes tokens.
#[derive(Clone, Debug)]
pub enum Tokenizer {
    /// By the `tokenizer.json` of a model.
    #[cfg(feature = "tokenizers")]
    File(Box<tokenizers::Tokenizer>),
    /// One token per byte.
    Bytes,
}

impl Tokenizer {
    /// The tokenizer of a model's folder. Without any tokenizer, tokens are bytes if the vocabulary is that of bytes.
    ///
    /// What a file says about cutting, filling and random splitting is switched off: every part of a text counts, and the
    /// same text is always the same tokens.
    ///
    /// # Errors
    /// If `tokenizer.json` is damaged, or is missing and tokens are not bytes.
    pub fn open(folder: &Path, vocabulary: usize) -> Result<Self, Error> {
        let file = folder.join("tokenizer.json");
        // A link that leads nowhere is a file that cannot be read.
        if file.symlink_metadata().is_ok() {
            return Self::from_file(&file);
        }
        let folder_name = folder.display();
        if let Some(other) = OTHER_FILES.into_iter().find(|name| folder.join(name).exists()) {
            return Err(Error::Tokenizer(format!(
                "{folder_name} has {other} but no tokenizer.json: make it with Python, by \
                 `from transformers import AutoTokenizer as T; T.from_pretrained(\"{folder_name}\").save_pretrained(\"{folder_name}\")`"
            )));
        }
        if vocabulary != BYTES {
            return Err(Error::Tokenizer(format!(
                "there is no {}, and a model of {vocabulary} tokens is not one over bytes: put the tokenizer of the model \
                 into its folder",
                file.display()
            )));
        }
        Ok(Self::Bytes)
    }

    #[cfg(feature = "tokenizers")]
    fn from_file(path: &Path) -> Result<Self, Error> {
        use burn_blast_checkpoint::LFS_POINTER;

        let refuse =
            |error: tokenizers::Error| Error::Tokenizer(format!("{}: {error}", path.display()));
        let bytes = std::fs::read(path).map_err(Error::file(path))?;
        if bytes.starts_with(LFS_POINTER.as_bytes()) {
            return Err(refuse("a pointer of git-lfs: run `git lfs pull` in its folder".into()));
        }
        // From bytes, `tokenizers` panics on some files that are not JSON.
        let json: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| refuse(error.into()))?;
        if let Some(fault) = template_fault(&json["post_processor"]) {
            return Err(refuse(fault.into()));
        }
        let mut tokenizer: tokenizers::Tokenizer =
            serde_json::from_value(json).map_err(|error| refuse(error.into()))?;
        tokenizer.with_truncation(None).map_err(refuse)?.with_padding(None);
        if let tokenizers::models::ModelWrapper::BPE(model) = tokenizer.get_model()
            && model.dropout.is_some()
        {
            let mut model = model.clone();
            model.dropout = None;
            tokenizer.with_model(model);
        }
        Ok(Self::File(Box::new(tokenizer)))
    }

    #[cfg(not(feature = "tokenizers"))]
    fn from_file(_: &Path) -> Result<Self, Error> {
        let reason = "this build does not read tokenizer.json: add the feature `tokenizers`";
        Err(Error::Tokenizer(reason.to_string()))
    }

    /// The tokens of a text, with the special tokens that a model expects around it.
    ///
    /// # Errors
    /// If the tokenizer cannot handle the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_with(text, true)
    }

    /// The tokens of a text that has its special tokens in it, as a chat template writes them.
    ///
    /// # Errors
    /// If the tokenizer cannot handle the text.
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_with(text, false)
    }

    fn encode_with(
        &self,
        text: &str,
        #[cfg_attr(not(feature = "tokenizers"), expect(unused))] special: bool,
    ) -> Result<Vec<u32>, Error> {
        match self {
            #[cfg(feature = "tokenizers")]
            Self::File(tokenizer) => {
                let encoding = tokenizer.encode(text, special).map_err(|error| refuse(&error))?;
                Ok(encoding.get_ids().to_vec())
            }
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
        }
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    /// If the tokenizer cannot handle the tokens.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        match self {
            #[cfg(feature = "tokenizers")]
            Self::File(tokenizer) => tokenizer.decode(tokens, true).map_err(|error| refuse(&error)),
            Self::Bytes => {
                let bytes: Vec<u8> =
                    tokens.iter().filter_map(|token| u8::try_from(*token).ok()).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    /// Text that comes token by token.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            tokens: Vec::new(),
            text: String::new(),
            context: 0,
            shown: 0,
        }
    }
}

/// What is wrong with the template that puts special tokens around a text, if `tokenizers` would panic at the first text.
#[cfg(feature = "tokenizers")]
fn template_fault(processor: &serde_json::Value) -> Option<String> {
    let defined = &processor["special_tokens"];
    let fault = |piece: &serde_json::Value| {
        let id = |kind: &str| piece.get(kind)?["id"].as_str().map(str::to_owned);
        match (id("SpecialToken"), id("Sequence")) {
            (Some(token), _) if defined.get(&token).is_none() => {
                Some(format!("its template has no special token \"{token}\""))
            }
            (_, Some(text)) if text == "B" => Some("its template wants two texts".to_owned()),
            _ => None,
        }
    };
    let own = processor["single"].as_array().into_iter().flatten().find_map(fault);
    let parts = || processor["processors"].as_array().into_iter().flatten();
    own.or_else(|| parts().find_map(template_fault))
}

#[cfg(feature = "tokenizers")]
fn refuse(error: &tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}

/// Turns tokens into text as they come, and holds back characters that are not complete.
///
/// A token's text depends on the tokens before it, so the last piece shown is decoded along with what is new, the way
/// text-generation-inference does it. Where a later token changes text that was shown, as a stray byte does with the
/// bytes before it, the stream goes on where the two texts part. `tokenizers` has a stream too, but not for bytes, and
/// it loses what follows such a change.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// The text of the first `shown` tokens.
    text: String,
    /// Start of the last piece shown.
    context: usize,
    /// End of it.
    shown: usize,
}

impl TextStream<'_> {
    /// Takes a token and returns the text that it completes, which may be none.
    ///
    /// # Errors
    /// If the tokenizer cannot handle the token.
    pub fn push(&mut self, token: u32) -> Result<String, Error> {
        self.tokens.push(token);
        let last = self.tokenizer.decode(&self.tokens[self.context..self.shown])?;
        let text = self.tokenizer.decode(&self.tokens[self.context..])?;
        let new = match text.strip_prefix(&last) {
            Some(new) if new.is_empty() || new.ends_with(INCOMPLETE) => return Ok(String::new()),
            Some(new) => new.to_owned(),
            None if text.ends_with(INCOMPLETE) => return Ok(String::new()),
            None => return self.all(),
        };
        self.text += &new;
        (self.context, self.shown) = (self.shown, self.tokens.len());
        Ok(new)
    }

    /// What is still held back, incomplete as it is. With it, the text is that of all tokens at once, unless text that was
    /// shown has changed.
    ///
    /// # Errors
    /// If the tokenizer cannot handle the tokens.
    pub fn finish(mut self) -> Result<String, Error> {
        self.all()
    }

    /// The text of all tokens from where it parts from what was shown.
    fn all(&mut self) -> Result<String, Error> {
        let text = self.tokenizer.decode(&self.tokens)?;
        let same = self.text.chars().zip(text.chars()).take_while(|(shown, now)| shown == now);
        let same: usize = same.map(|(shown, _)| shown.len_utf8()).sum();
        let new = text[same..].to_owned();
        self.text = text;
        (self.context, self.shown) = (self.shown, self.tokens.len());
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn a_character_is_shown_when_its_last_byte_is_there() {
        let text = "aé🦙b";
        let mut stream = Tokenizer::Bytes.stream();
        let pieces: Vec<String> =
            text.bytes().map(|byte| stream.push(u32::from(byte)).unwrap()).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "", "🦙", "b"]);
        assert_eq!(stream.finish().unwrap(), "");
    }

    #[test]
    fn what_never_completes_comes_at_the_end() {
        let mut stream = Tokenizer::Bytes.stream();
        assert_eq!(stream.push(0xf0).unwrap(), "");
        assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    }

    /// The folder of a tokenizer that knows `text`'s letters and every byte.
    #[cfg(feature = "tokenizers")]
    fn byte_fallback(more: serde_json::Value) -> (tempfile::TempDir, Tokenizer) {
        let bytes = (0..BYTES as u32).map(|byte| (format!("<0x{byte:02X}>"), byte));
        let letters = ('a'..='z').zip(BYTES as u32..).map(|(letter, id)| (letter.to_string(), id));
        let vocabulary: std::collections::BTreeMap<String, u32> = bytes.chain(letters).collect();
        let mut json = serde_json::json!({
            "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": true, "dropout": 0.5},
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        });
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        let tokenizer = Tokenizer::open(folder.path(), 300).unwrap();
        (folder, tokenizer)
    }

    #[test]
    #[cfg(feature = "tokenizers")]
    fn a_stray_byte_loses_nothing_that_follows() {
        let (folder, tokenizer) = byte_fallback(serde_json::json!({}));
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n";
        std::fs::write(folder.path().join("tokenizer.json"), pointer).unwrap();
        let error = Tokenizer::open(folder.path(), 300).unwrap_err().to_string();
        assert!(error.contains("git lfs pull"), "{error}");
        let letter = |letter: u8| BYTES as u32 + u32::from(letter - b'a');
        let tokens: Vec<u32> = [letter(b'x'), 0xe2, 0x82, 0xac, 0xf0]
            .into_iter()
            .chain((b'a'..=b'f').map(letter))
            .collect();
        let mut stream = tokenizer.stream();
        let pieces: Vec<String> = tokens.iter().map(|token| stream.push(*token).unwrap()).collect();
        assert_eq!(&pieces[..4], ["x", "", "", "€"]);
        let shown = pieces.concat() + &stream.finish().unwrap();
        assert!(shown.starts_with("x€") && shown.ends_with("abcdef"), "{shown}");
        let whole = tokenizer.decode(&tokens).unwrap();
        assert!(shown.ends_with(whole.strip_prefix('x').unwrap()), "{shown} {whole}");
    }

    #[test]
    fn a_stream_of_any_bytes_is_the_whole_text() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let pool = ["a", "é", "€", "🦙", " ", "\n"].map(str::as_bytes).concat();
        for _ in 0..500 {
            let length = random.random_range(0..12);
            let tokens: Vec<u32> =
                (0..length).map(|_| u32::from(pool[random.random_range(0..pool.len())])).collect();
            let mut stream = Tokenizer::Bytes.stream();
            let pieces =
                tokens.iter().map(|token| stream.push(*token).unwrap()).collect::<String>();
            let shown = pieces + &stream.finish().unwrap();
            assert_eq!(shown, Tokenizer::Bytes.decode(&tokens).unwrap(), "{tokens:?}");
        }
    }

    #[test]
    #[cfg(feature = "tokenizers")]
    fn what_a_file_says_about_cutting_filling_and_chance_is_switched_off() {
        let (_folder, tokenizer) = byte_fallback(serde_json::json!({
            "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "padding": {
                "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "<0x00>",
            },
        }));
        let tokens = tokenizer.encode(&"ab".repeat(9)).unwrap();
        assert_eq!(tokens, [256, 257].repeat(9));
    }

    #[test]
    #[cfg(feature = "tokenizers")]
    fn a_file_that_would_make_the_library_panic_is_refused() {
        let (folder, _) = byte_fallback(serde_json::json!({}));
        let file = folder.path().join("tokenizer.json");
        let good: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let template = |defined: serde_json::Value| {
            serde_json::json!({
                "type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": defined,
            })
        };
        let open = |processor: serde_json::Value| {
            let mut json = good.clone();
            json["post_processor"] = processor;
            std::fs::write(&file, json.to_string()).unwrap();
            Tokenizer::open(folder.path(), 300)
        };
        let defined = serde_json::json!({"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}});
        assert_eq!(open(template(defined)).unwrap().encode("a").unwrap(), [7, 256]);
        let undefined = template(serde_json::json!({}));
        let sequence = serde_json::json!({"type": "Sequence", "processors": [undefined.clone()]});
        for processor in [undefined, sequence] {
            let error = open(processor).unwrap_err().to_string();
            assert!(error.contains("no special token \"<s>\""), "{error}");
        }
        std::fs::write(&file, "{\"decoder\": {\"type\": \"\\ud800\"}}").unwrap();
        assert!(Tokenizer::open(folder.path(), 300).is_err());
    }

    #[test]
    fn tokens_are_bytes_only_if_nothing_speaks_against_it() {
        let folder = tempfile::tempdir().unwrap();
        let open = |vocabulary| Tokenizer::open(folder.path(), vocabulary);
        assert!(matches!(open(256), Ok(Tokenizer::Bytes)));
        for vocabulary in [100, 257, 32000] {
            let error = open(vocabulary).unwrap_err().to_string();
            let part = format!("a model of {vocabulary} tokens is not one over bytes");
            assert!(error.contains(&part), "{error}");
        }
        for name in OTHER_FILES {
            let file = folder.path().join(name);
            std::fs::write(&file, "").unwrap();
            let error = open(256).unwrap_err().to_string();
            assert!(error.contains(&format!("has {name} but no tokenizer.json")), "{error}");
            std::fs::remove_file(file).unwrap();
        }
    }
}

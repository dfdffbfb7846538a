//! Text to tokens and back, also token by token.

use std::path::Path;

use crate::Error;

/// Tokens of which any text can be made if each byte is one.
const BYTES: usize = 256;

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
    /// Reads a `tokenizer.json`; if there is none, tokens are bytes.
    ///
    /// # Errors
    /// If the file is damaged, or is missing and `vocabulary` cannot hold all bytes.
    pub fn open(path: &Path, vocabulary: usize) -> Result<Self, Error> {
        if path.exists() {
            return Self::from_file(path);
        }
        if vocabulary < BYTES {
            return Err(Error::Tokenizer(format!(
                "there is no tokenizer.json, and {vocabulary} tokens are too few for bytes: put the tokenizer of the \
                 model into its folder"
            )));
        }
        Ok(Self::Bytes)
    }

    #[cfg(feature = "tokenizers")]
    fn from_file(path: &Path) -> Result<Self, Error> {
        let tokenizer = tokenizers::Tokenizer::from_file(path).map_err(|error| refuse(&error))?;
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
        match self {
            #[cfg(feature = "tokenizers")]
            Self::File(tokenizer) => {
                let encoding = tokenizer.encode(text, true).map_err(|error| refuse(&error))?;
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
        TextStream { tokenizer: self, tokens: Vec::new(), context: 0, shown: 0 }
    }
}

#[cfg(feature = "tokenizers")]
fn refuse(error: &tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}

/// Turns tokens into text as they come, and holds back characters that are not complete.
///
/// A token's text depends on the tokens before it, so the last piece shown is decoded along with what is new, the way
/// text-generation-inference does it. `tokenizers` has such a stream too, but not for bytes.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
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
        let text = self.rest()?;
        if text.ends_with(INCOMPLETE) || text.is_empty() {
            return Ok(String::new());
        }
        (self.context, self.shown) = (self.shown, self.tokens.len());
        Ok(text)
    }

    /// What is still held back, incomplete as it is.
    ///
    /// # Errors
    /// If the tokenizer cannot handle the tokens.
    pub fn finish(self) -> Result<String, Error> {
        self.rest()
    }

    fn rest(&self) -> Result<String, Error> {
        let shown = self.tokenizer.decode(&self.tokens[self.context..self.shown])?;
        let all = self.tokenizer.decode(&self.tokens[self.context..])?;
        Ok(all.strip_prefix(&shown).unwrap_or_default().to_string())
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn bytes_need_a_vocabulary_for_them() {
        let error = Tokenizer::open(Path::new("no/such/tokenizer.json"), 100).unwrap_err();
        assert!(error.to_string().contains("100 tokens are too few for bytes"), "{error}");
    }
}

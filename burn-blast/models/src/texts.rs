//! Texts from files and folders.

use std::fs;
use std::path::{Path, PathBuf};

use burn_blast_checkpoint::json;

use crate::{Error, Tokenizer};

/// A text under a name that is the same on every machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Path below the folder that was read, and the line if it is one of several in a file; empty for a file that was
    /// named itself.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// The texts at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// The file or folder.
    pub path: PathBuf,
    /// By name.
    pub documents: Vec<Document>,
    /// Files of a folder that hold no text, by name.
    pub left_out: Vec<PathBuf>,
}

/// What the end of a file's name says of its content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One text.
    Plain,
    /// A JSON object a line, each with a `"text"`.
    Lines,
    /// One JSON value.
    Json,
}

impl Kind {
    /// By the extension, in upper or lower case.
    fn of(path: &Path) -> Self {
        let end = path.extension().map(|end| end.to_string_lossy().to_lowercase());
        match end.as_deref() {
            Some("jsonl" | "ndjson") => Self::Lines,
            Some("json") => Self::Json,
            _ => Self::Plain,
        }
    }
}

impl Texts {
    /// Reads a file of text or of JSON lines, or every such file below a folder. Text is UTF-8, or UTF-16 with a
    /// byte-order mark. Hidden files, links and files without text in a folder are left out.
    ///
    /// # Errors
    /// If a file cannot be read, the file named has no text, or no file of a folder has any.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let mut texts =
            Self { path: path.to_path_buf(), documents: Vec::new(), left_out: Vec::new() };
        if !fs::metadata(path).map_err(Error::file(path))?.is_dir() {
            texts.documents =
                documents(path, "")?.map_err(|reason| Error::unusable(path, reason))?;
            return Ok(texts);
        }
        let mut files: Vec<(String, PathBuf)> =
            files_under(path)?.into_iter().map(|file| (relative_name(&file, path), file)).collect();
        files.sort();
        for (name, file) in files {
            match documents(&file, &name)? {
                Ok(documents) => texts.documents.extend(documents),
                Err(_) if Kind::of(&file) != Kind::Lines => texts.left_out.push(file),
                Err(reason) => return Err(Error::unusable(file, reason)),
            }
        }
        match texts.documents.is_empty() {
            true => Err(Error::unusable(path, "the folder has no text files".to_owned())),
            false => Ok(texts),
        }
    }

    /// The tokens of all texts, one text after the other.
    ///
    /// # Errors
    /// If the tokenizer cannot handle a text.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
        let mut tokens = Vec::new();
        for document in &self.documents {
            tokens.extend(tokenizer.encode(&document.text)?);
        }
        Ok(tokens)
    }

    /// Bytes of all texts in UTF-8.
    pub fn bytes(&self) -> usize {
        self.documents.iter().map(|document| document.text.len()).sum()
    }
}

/// The texts of a file, or why it has none.
fn documents(file: &Path, name: &str) -> Result<Result<Vec<Document>, String>, Error> {
    let bytes = fs::read(file).map_err(Error::file(file))?;
    let kind = Kind::of(file);
    if kind == Kind::Json {
        let lines = "a JSON file is no text: give JSON lines, an object with a \"text\" in each line of a .jsonl file";
        return Ok(Err(lines.to_owned()));
    }
    Ok(decode(bytes).and_then(|text| match kind {
        Kind::Lines => lines(&text, name),
        Kind::Plain | Kind::Json => Ok(vec![Document { name: name.to_owned(), text }]),
    }))
}

/// The texts of JSON lines.
fn lines(file: &str, name: &str) -> Result<Vec<Document>, String> {
    let filled = file.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    filled
        .map(|(at, line)| {
            let json = json::parse(line).unwrap_or_default();
            let text = json::as_str(&json["text"]);
            let text = text
                .ok_or_else(|| format!("line {} is not a JSON object with a \"text\"", at + 1))?;
            Ok(Document { name: format!("{name}:{}", at + 1), text: text.to_owned() })
        })
        .collect()
}

/// Bytes as text, without a byte-order mark.
fn decode(bytes: Vec<u8>) -> Result<String, String> {
    let text = match bytes.as_slice() {
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest.to_vec()),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [b'P', b'K', 3, 4, ..] => {
            Err("the file is compressed: unpack it".to_owned())
        }
        [b'P', b'A', b'R', b'1', ..] => {
            Err("the file is Parquet: convert it to JSON lines".to_owned())
        }
        _ => utf8(bytes),
    }?;
    match text.find('\0') {
        Some(at) => Err(format!("byte {at} is zero: the file is no text")),
        None => Ok(text),
    }
}

fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!(
            "byte {at} is not UTF-8: convert the text, for example by `iconv -f latin1 -t utf-8`, if it is one"
        )
    })
}

fn utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Result<String, String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| unit(*pair));
    let text: Option<String> = char::decode_utf16(units).collect::<Result<_, _>>().ok();
    text.filter(|_| rest.is_empty()).ok_or_else(|| {
        "the file starts like UTF-16, but is not valid UTF-16: convert it to UTF-8".to_owned()
    })
}

/// All files below a folder, leaving out hidden ones and links.
///
/// # Errors
/// If a folder cannot be read.
pub fn files_under(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::file(&folder))? {
            let entry = entry.map_err(Error::file(&folder))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(Error::file(entry.path()))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// Path below `folder` with `/` on every system.
pub fn relative_name(file: &Path, folder: &Path) -> String {
    let below = file.strip_prefix(folder).unwrap_or(file);
    let parts: Vec<_> = below.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16_bytes(text: &str, mark: [u8; 2], unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        mark.into_iter().chain(text.encode_utf16().flat_map(unit)).collect()
    }

    #[test]
    fn a_text_is_the_same_in_every_encoding_and_with_any_byte_order_mark() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("text");
        let text = "Grüße, 🦙\n";
        for bytes in [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            utf16_bytes(text, [0xff, 0xfe], u16::to_le_bytes),
            utf16_bytes(text, [0xfe, 0xff], u16::to_be_bytes),
        ] {
            fs::write(&file, bytes).unwrap();
            let read = Texts::read(&file).unwrap();
            assert_eq!(read.documents, [Document { name: String::new(), text: text.to_owned() }]);
            assert_eq!(read.bytes(), text.len());
        }
    }

    #[test]
    fn json_lines_are_known_by_their_name_in_any_case() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "a.JSONL", "a.Jsonl", "a.ndjson"] {
            let file = folder.path().join(name);
            fs::write(&file, "\u{feff}{\"text\": \"ab\"}\r\n\r\n{\"id\": 1, \"text\": \"c\"}")
                .unwrap();
            let texts: Vec<_> =
                Texts::read(&file).unwrap().documents.into_iter().map(|d| d.text).collect();
            assert_eq!(texts, ["ab", "c"], "{name}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes, part) in [
            ("a.json", b"[]".as_slice(), "give JSON lines"),
            ("a.JSON", b"[]", "give JSON lines"),
            ("latin", b"caf\xe9", "byte 3 is not UTF-8"),
            ("cut", b"\xff\xfea", "is not valid UTF-16"),
            ("half", b"\xff\xfe\x00\xd8", "is not valid UTF-16"),
            ("utf-32", b"\xff\xfe\x00\x00a\x00\x00\x00", "byte 0 is zero"),
            ("tar", b"a\0b", "byte 1 is zero"),
            ("a.gz", b"\x1f\x8b\x08", "unpack it"),
            ("a.zst", b"\x28\xb5\x2f\xfd", "unpack it"),
            ("a.parquet", b"PAR1", "convert it to JSON lines"),
            ("a.jsonl", b"{\"text\": \"a\"}\n[1]\n", "line 2 is not a JSON object"),
            ("b.jsonl", b"{\"text\": 1}", "line 1 is not a JSON object"),
            ("c.jsonl", b"{\"text\": NaN}", "line 1 is not a JSON object"),
        ] {
            let file = folder.path().join(name);
            fs::write(&file, bytes).unwrap();
            let error = Texts::read(&file).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(name), "{name}: {error}");
        }
        let error = Texts::read(folder.path().join("no-such-file")).unwrap_err().to_string();
        assert!(error.contains("no-such-file"), "{error}");
    }

    #[test]
    fn a_folder_is_its_text_files_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        };
        put("b.txt", b"b");
        put("a/z.md", b"z");
        put("c.JSONL", b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
        put(".hidden/x.txt", b"x");
        put("picture.png", b"\x89PNG\0");
        put("package.json", b"{}");
        let read = Texts::read(folder.path()).unwrap();
        let texts: Vec<_> =
            read.documents.iter().map(|d| (d.name.as_str(), d.text.as_str())).collect();
        assert_eq!(
            texts,
            [("a/z.md", "z"), ("b.txt", "b"), ("c.JSONL:1", "one"), ("c.JSONL:2", "two")]
        );
        assert_eq!(read.left_out.len(), 2);
        put("d.jsonl", b"no JSON");
        let error = Texts::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("d.jsonl") && error.contains("line 1"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        let error = Texts::read(empty.path()).unwrap_err().to_string();
        assert!(error.contains("no text files"), "{error}");
    }
}

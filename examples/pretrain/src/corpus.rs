//! The text the model learns: by default the Rust sources of this project's own dependencies.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use burn_blast_models::{Corpus, Texts, files_under, relative_name};
use serde::Deserialize;

use crate::say::warn;

/// Size the default corpus is cut to. 20 times what the default run reads, so no part is seen often.
const DEFAULT_BYTES: usize = 8 << 20;

/// Largest file taken from a dependency: bigger ones are nearly always generated tables.
const LARGEST_SOURCE: u64 = 128 << 10;

/// One document in this many is for validation.
const VALIDATION_SHARE: usize = 10;

/// Fewest sequences a corpus must hold for training.
const FEWEST_SEQUENCES: usize = 16;

/// Bytes to train on, and bytes to validate on from other files.
#[derive(Debug)]
pub struct Text {
    /// One token per byte.
    pub corpus: Corpus,
    /// Where the text came from, for the report.
    pub source: String,
}

/// One file of the corpus under a name that is the same on every machine.
#[derive(Debug)]
struct Document {
    name: String,
    bytes: Vec<u8>,
}

impl Text {
    /// Reads `path`, or the dependencies' sources without one.
    ///
    /// # Errors
    /// If nothing can be read, or if it is too short for sequences of `context` bytes.
    pub fn load(path: Option<&Path>, context: usize) -> Result<Self> {
        let (documents, source) = match path {
            Some(path) => (read_path(path)?, path.display().to_string()),
            None => {
                let documents = read_dependencies().context(
                    "the default corpus, the Rust sources of this project's dependencies, cannot be read: \
                     name a text file or folder with --corpus",
                )?;
                (documents, "Rust sources of the project's dependencies".to_owned())
            }
        };
        let corpus = split(documents);
        let fewest = FEWEST_SEQUENCES * (context + 1);
        ensure!(
            corpus.train.len() >= fewest && corpus.valid.len() > context,
            "the corpus ({source}) is too small: {} bytes to train on and {} to validate on, where --context {context} \
             needs {fewest} and {}; give a larger --corpus or a shorter --context",
            corpus.train.len(),
            corpus.valid.len(),
            context + 1
        );
        Ok(Self { corpus, source })
    }
}

/// Every tenth document by name hash validates; too few documents are cut by bytes instead.
fn split(documents: Vec<Document>) -> Corpus {
    let cut = documents.len() < VALIDATION_SHARE;
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    for document in documents {
        let name = hash(document.name.as_bytes());
        let validates = !cut && name.is_multiple_of(VALIDATION_SHARE as u64);
        let part = if validates { &mut valid } else { &mut train };
        part.extend(document.bytes.into_iter().map(u32::from));
    }
    if cut {
        valid = train.split_off(train.len() - train.len() / VALIDATION_SHARE);
    }
    Corpus { train, valid }
}

/// The texts at `path`.
fn read_path(path: &Path) -> Result<Vec<Document>> {
    let texts =
        Texts::read(path).with_context(|| format!("cannot read the corpus {}", path.display()))?;
    if let Some(first) = texts.left_out.first() {
        let count = texts.left_out.len();
        warn(format!("Files of no text that are left out: {count}, such as {}", first.display()));
    }
    let document = |text: burn_blast_models::Document| Document {
        name: text.name,
        bytes: text.text.into_bytes(),
    };
    Ok(texts.documents.into_iter().map(document).collect())
}

/// What is read of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// One package of the dependency tree.
#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Missing for this workspace's own packages.
    source: Option<String>,
    manifest_path: PathBuf,
}

/// Sources of all dependencies, a fixed pseudo-random choice of [`DEFAULT_BYTES`], sorted by name.
fn read_dependencies() -> Result<Vec<Document>> {
    let mut files = Vec::new();
    let packages = match metadata() {
        Ok(metadata) => metadata.packages,
        Err(error) => {
            let here = unpacked(include_str!("../../../Cargo.lock"));
            if here.is_empty() {
                return Err(error);
            }
            warn(format!(
                "cargo cannot list every dependency, so the text is made of the {} whose sources are here: it differs \
                 from the text on a machine with all of them.",
                here.len()
            ));
            here
        }
    };
    for package in packages.into_iter().filter(|package| package.source.is_some()) {
        let folder = package.manifest_path.with_file_name("src");
        let prefix = format!("{}-{}", package.name, package.version);
        // A package without a `src` folder has nothing to add.
        for file in files_under(&folder).unwrap_or_default() {
            if file.extension() == Some(OsStr::new("rs")) {
                files.push((format!("{prefix}/{}", relative_name(&file, &folder)), file));
            }
        }
    }
    choose(files, DEFAULT_BYTES)
}

/// Takes files in the order of their names' hashes until `limit` bytes are there. Equal contents count once.
fn choose(mut files: Vec<(String, PathBuf)>, limit: usize) -> Result<Vec<Document>> {
    files.sort_by_cached_key(|(name, _)| (hash(name.as_bytes()), name.clone()));
    let (mut documents, mut seen, mut total) = (Vec::new(), HashSet::new(), 0);
    for (name, path) in files {
        if total >= limit {
            break;
        }
        let size =
            fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        if size > LARGEST_SOURCE {
            continue;
        }
        let mut bytes =
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if seen.insert(hash(&bytes)) {
            bytes.truncate(limit - total);
            total += bytes.len();
            documents.push(Document { name, bytes });
        }
    }
    documents.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(documents)
}

/// The dependency tree for this machine: offline first, and with the network only where packages are not there yet.
fn metadata() -> Result<Metadata> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let version = output(Command::new(&cargo).arg("-vV"))?;
    let version = String::from_utf8_lossy(&version);
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("cargo does not say which machine it builds for")?;
    let ask = |offline: bool| {
        let mut command = Command::new(&cargo);
        command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host]);
        command.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
        if offline {
            command.arg("--offline");
        }
        output(&mut command)
    };
    let json = match ask(true) {
        Ok(json) => json,
        Err(offline_error) => {
            warn("Some dependencies' sources are not here yet; cargo is asked to fetch them.");
            ask(false).map_err(|_| offline_error)?
        }
    };
    serde_json::from_slice(&json)
        .context("cargo metadata answered with something that is not its JSON")
}

/// Where cargo unpacks what it takes from registries, whether or not it did.
fn sources() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")))?;
    Some(home.join("registry").join("src"))
}

/// Packages of a lock file whose sources cargo has unpacked on this machine.
fn unpacked(lock: &str) -> Vec<Package> {
    let Some(sources) = sources() else { return Vec::new() };
    let registries = fs::read_dir(sources).into_iter().flatten();
    let registries: Vec<PathBuf> = registries.flatten().map(|entry| entry.path()).collect();
    let field = |entry: &str, key: &str| {
        let value = entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
        Some(value.trim_matches('"').to_owned())
    };
    let package = |entry: &str| {
        let (name, version) = (field(entry, "name")?, field(entry, "version")?);
        let source = Some(field(entry, "source")?);
        let folder = format!("{name}-{version}");
        let folder =
            registries.iter().map(|registry| registry.join(&folder)).find(|f| f.is_dir())?;
        Some(Package { name, version, source, manifest_path: folder.join("Cargo.toml") })
    };
    lock.split("[[package]]").filter_map(package).collect()
}

/// Standard output of a command that must succeed.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let result =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !result.status.success() {
        let text = String::from_utf8_lossy(&result.stderr);
        bail!("{name} failed: {}", text.trim());
    }
    Ok(result.stdout)
}

/// A hash that does not change between Rust versions, unlike the standard library's.
fn hash(bytes: &[u8]) -> u64 {
    burn_blast_kernels::pattern::fnv1a(bytes.iter().copied())
}

#[cfg(test)]
mod tests {
    use burn_blast_models::Tokenizer;

    use super::*;

    #[test]
    fn sources_are_found_without_asking_cargo() {
        let found = unpacked(include_str!("../../../Cargo.lock"));
        let burn = found.iter().find(|package| package.name == "burn");
        let Some(burn) = burn else {
            // Built from the registry, as any checkout is unless its sources are vendored.
            assert!(sources().is_none_or(|folder| !folder.exists()), "burn is not found");
            return;
        };
        assert_eq!(burn.version, "0.22.1");
        assert!(burn.manifest_path.exists());
        assert!(unpacked("").is_empty());
    }

    fn folder(files: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        for file in 0..files {
            let path = dir.path().join(format!("inner/{file}.txt"));
            fs::write(path, format!("document number {file}\n").repeat(20)).unwrap();
        }
        dir
    }

    #[test]
    fn the_same_folder_gives_the_same_split_by_file() {
        let dir = folder(60);
        let load = || Text::load(Some(dir.path()), 16).unwrap().corpus;
        let (one, two) = (load(), load());
        assert_eq!((&one.train, &one.valid), (&two.train, &two.valid));
        assert_eq!(one.fingerprint(), two.fingerprint());
        let text = |tokens: &[u32]| Tokenizer::Bytes.decode(tokens).unwrap();
        let (train, valid) = (text(&one.train), text(&one.valid));
        assert!(valid.lines().all(|line| !train.contains(&format!("{line}\n"))));
    }

    #[test]
    fn a_single_file_is_cut_into_nine_tenths_and_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("text");
        fs::write(&file, vec![b'a'; 1000]).unwrap();
        let corpus = Text::load(Some(&file), 16).unwrap().corpus;
        assert_eq!((corpus.train.len(), corpus.valid.len()), (900, 100));
    }

    #[test]
    fn a_corpus_that_is_short_or_missing_is_refused() {
        let dir = folder(0);
        let refuse = |name: &str, part: &str| {
            let error = Text::load(Some(&dir.path().join(name)), 128).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        fs::write(dir.path().join("text"), "short").unwrap();
        refuse("text", "--context 128 needs");
        refuse("no-such-folder", "no-such-folder");
    }

    #[test]
    fn choosing_stops_at_the_limit_and_drops_copies() {
        let dir = folder(30);
        fs::copy(dir.path().join("inner/1.txt"), dir.path().join("inner/copy.txt")).unwrap();
        let files = |_| -> Vec<(String, PathBuf)> {
            let paths = files_under(dir.path()).unwrap().into_iter();
            paths.map(|path| (relative_name(&path, dir.path()), path)).collect()
        };
        assert_eq!(choose(files(()), 1 << 20).unwrap().len(), 30);
        let cut = choose(files(()), 1000).unwrap();
        assert_eq!(cut.iter().map(|document| document.bytes.len()).sum::<usize>(), 1000);
    }
}

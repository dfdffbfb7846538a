//! One safetensors file, mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::CheckpointError;

/// A safetensors file: its header, and its tensors where they are mapped.
#[derive(Debug)]
pub struct Shard {
    /// Where the file is.
    pub path: PathBuf,
    /// The entries of `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    map: Mmap,
    places: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// One tensor of a file.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    shard: &'a Shard,
    place: &'a Place,
}

impl Shard {
    /// Maps a file and checks its header against its length.
    ///
    /// # Errors
    /// If it cannot be read, is truncated, or is not a safetensors file.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::read(path))?;
        // SAFETY: the bytes stay valid as long as the file is not truncated. Programs that replace files by renaming,
        // as this crate does, never truncate them in place.
        let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::read(path))?;
        let (header, read) =
            SafeTensors::read_metadata(&map).map_err(|error| refuse(path, map.len(), error))?;
        let start = size_of::<u64>() + header;
        let places = read.tensors().into_iter().map(|(name, info)| {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            (name, Place { dtype: info.dtype, shape: info.shape.clone(), range })
        });
        let places = places.collect();
        let metadata = read.metadata().iter().flatten();
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { path: path.to_owned(), metadata, map, places })
    }

    /// The last part of its path.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Names and tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, TensorView<'_>)> {
        let tensor = |place| TensorView { shard: self, place };
        self.places.iter().map(move |(name, place)| (name.as_str(), tensor(place)))
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.places.get(name).map(|place| TensorView { shard: self, place })
    }
}

impl<'a> TensorView<'a> {
    /// Type of its elements.
    pub fn dtype(self) -> Dtype {
        self.place.dtype
    }

    /// Bytes of an element.
    pub fn element_size(self) -> usize {
        self.dtype().bitsize() / 8
    }

    /// Its shape.
    pub fn shape(self) -> &'a [usize] {
        &self.place.shape
    }

    /// Its content, little-endian, row-major, at any alignment.
    pub fn bytes(self) -> &'a [u8] {
        &self.shard.map[self.place.range.clone()]
    }

    /// Its content as elements of `N` bytes.
    ///
    /// # Panics
    /// If an element has another size.
    pub fn elements<const N: usize>(self) -> &'a [[u8; N]] {
        as_elements(self.bytes())
    }

    /// Type and shape, for messages.
    pub fn describe(self) -> String {
        format!("{} of {:?}", self.dtype(), self.shape())
    }

    /// Says that the content is not needed for now, so that the pages of a large file do not accumulate in this
    /// process. It can be read again.
    pub fn release(self) {
        #[cfg(unix)]
        {
            let Range { start, end } = self.place.range;
            // SAFETY: the map is of a file and never written, so a dropped page is read from the file again.
            // The result is ignored: a system that refuses only keeps more pages.
            let _ = unsafe {
                self.shard.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    start,
                    end - start,
                )
            };
        }
    }
}

fn refuse(path: &Path, found: usize, error: SafeTensorError) -> CheckpointError {
    let reason = match error {
        // The first eight bytes are the length of the header. In a file of another format they exceed any file.
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::MetadataIncompleteBuffer
        | SafeTensorError::InvalidHeaderLength => format!(
            "has {found} bytes, which is not what its header says: it is truncated or damaged, fetch it again"
        ),
        error => format!("is not a safetensors file: {error}"),
    };
    CheckpointError::Damaged { path: path.to_owned(), reason }
}

/// Elements of `N` bytes at any alignment.
///
/// # Panics
/// If the length is not a multiple of `N`.
pub(crate) fn as_elements<const N: usize>(bytes: &[u8]) -> &[[u8; N]] {
    let (elements, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty(), "a tensor has whole elements");
    elements
}

//! One safetensors file, mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::CheckpointError;

/// First bytes of a file whose content git-lfs has not fetched.
pub const LFS_POINTER: &str = "version https://git-lfs";

/// A safetensors file: its header, and its tensors where they are mapped.
#[derive(Debug)]
pub struct Shard {
    /// Where the file is.
    pub path: PathBuf,
    /// Its name in its checkpoint: the last part of its path, or in a folder, the path from there on.
    pub name: String,
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
        let file = File::open(path).map_err(CheckpointError::open(path))?;
        // SAFETY: the bytes stay valid as long as the file is not truncated. Programs that replace files by renaming,
        // as this crate does, never truncate them in place.
        let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::read(path))?;
        let (header, read) =
            SafeTensors::read_metadata(&map).map_err(|error| refuse(path, &map, error))?;
        let start = size_of::<u64>() + header;
        let places = read.tensors().into_iter().map(|(name, info)| {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            (name, Place { dtype: info.dtype, shape: info.shape.clone(), range })
        });
        let places = places.collect();
        let metadata = read.metadata().iter().flatten();
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path: path.to_owned(), name, metadata, map, places })
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

    /// Number of the first element that is infinite or not a number, in a type that has such.
    pub fn non_finite(self) -> Option<usize> {
        // All bits of the exponent are set.
        match self.dtype() {
            Dtype::F64 => {
                first(self.elements(), |e| is_special(u64::from_le_bytes(e), 0x7ff << 52))
            }
            Dtype::F32 => {
                first(self.elements(), |e| is_special(u32::from_le_bytes(e).into(), 0xff << 23))
            }
            Dtype::F16 => {
                first(self.elements(), |e| is_special(u16::from_le_bytes(e).into(), 0x1f << 10))
            }
            Dtype::BF16 => {
                first(self.elements(), |e| is_special(u16::from_le_bytes(e).into(), 0xff << 7))
            }
            _ => None,
        }
    }

    /// Refuses such elements.
    ///
    /// # Errors
    /// If there is one; the tensor is called `name` then.
    pub fn check_finite(self, name: &str) -> Result<(), CheckpointError> {
        match self.non_finite() {
            Some(at) => Err(CheckpointError::NotFinite { name: name.to_owned(), at }),
            None => Ok(()),
        }
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

fn is_special(bits: u64, exponent: u64) -> bool {
    bits & exponent == exponent
}

/// Number of the first element that `is` holds for. Element by element, the search would take several times as long.
fn first<const N: usize>(elements: &[[u8; N]], is: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const MANY: usize = 1024;
    let any = |many: &[[u8; N]]| many.iter().fold(false, |any, element| any | is(*element));
    let start = MANY * elements.chunks(MANY).position(any)?;
    Some(start + elements[start..].iter().position(|element| is(*element))?)
}

fn refuse(path: &Path, map: &[u8], error: SafeTensorError) -> CheckpointError {
    let found = map.len();
    let reason = match error {
        _ if map.starts_with(LFS_POINTER.as_bytes()) => {
            "is a pointer of git-lfs, not the weights: run `git lfs pull` in its folder".to_owned()
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use super::*;
    use crate::{Entry, FileContent, write_safetensors};

    /// Whether each of three tensors of 3000 elements is finite: none special, the last one infinite, one not a number.
    fn check<const N: usize>(dtype: Dtype, one: [u8; N], infinite: [u8; N], nan: [u8; N]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        for (at, special, expected) in
            [(0, one, None), (2999, infinite, Some(2999)), (1030, nan, Some(1030))]
        {
            let write = move |out: &mut dyn Write| {
                (0..3000).try_for_each(|element| {
                    out.write_all(if element == at { &special } else { &one })
                })
            };
            let entries = vec![Entry::new("x", dtype, vec![3000], write)];
            let content = FileContent { metadata: BTreeMap::new(), entries };
            write_safetensors(File::create(&path).unwrap(), &content, &mut |_| {}).unwrap();
            let shard = Shard::open(&path).unwrap();
            assert_eq!(shard.tensor("x").unwrap().non_finite(), expected, "{dtype}");
        }
    }

    #[test]
    fn infinite_numbers_and_what_is_none_are_found_in_every_type() {
        let (largest, infinite, nan) = (f64::MAX, f64::NEG_INFINITY, f64::NAN);
        check(Dtype::F64, largest.to_le_bytes(), infinite.to_le_bytes(), nan.to_le_bytes());
        let (largest, infinite, nan) = (f32::MAX, f32::INFINITY, -f32::NAN);
        check(Dtype::F32, largest.to_le_bytes(), infinite.to_le_bytes(), nan.to_le_bytes());
        let bits = |bits: u16| bits.to_le_bytes();
        check(Dtype::F16, bits(0x7bff), bits(0xfc00), bits(0x7c01));
        check(Dtype::BF16, bits(0xff7f), bits(0x7f80), bits(0xffc0));
    }
}

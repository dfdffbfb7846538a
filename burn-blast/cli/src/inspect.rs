//! `blast inspect`: what a checkpoint's weights keep.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn_blast_checkpoint::atomic::AtomicFile;
use burn_blast_checkpoint::{
    Checkpoint, CheckpointError, DenseWeight, PackedWeight, check_output, name_parts,
};
use burn_blast_kernels::draw::pattern_svg;
use burn_blast_kernels::{BlockPattern, BlockSize};
use serde::Serialize;

use crate::args::InspectArgs;
use crate::error::Error;
use crate::progress::Progress;
use crate::report::{Layer, Total, table};
use crate::select::{OrientationArg, orientation};

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    #[serde(serialize_with = "crate::paths::one")]
    pub path: PathBuf,
    pub files: usize,
    pub tensors: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Block-sparse weights, and dense ones with zero blocks.
    pub layers: Vec<Layer>,
    /// Sums over them.
    pub total: Total,
    /// Dense weights in which no zero block was found; none if they were not looked at.
    pub without_zero_blocks: Option<usize>,
}

/// Looks at a checkpoint.
pub fn inspect(args: &InspectArgs, progress: &Progress) -> Result<Report, Error> {
    let block = args.block.map(BlockSize::new).transpose()?;
    let checkpoint = Checkpoint::open(&args.path)?;
    let mut found = Vec::new();
    for packed in PackedWeight::all(&checkpoint)? {
        let (dtype, orientation) = (packed.values.dtype(), packed.orientation);
        let layer = Layer::new(&packed.name, &packed.pattern, dtype, orientation, true);
        found.push((layer, packed.pattern));
    }
    let mut without = None;
    if let Some(block) = block {
        let (layers, full) = zero_blocks(&checkpoint, block, args.orientation, progress)?;
        found.extend(layers);
        without = Some(full);
    }
    found.sort_by(|(a, _), (b, _)| name_parts(&a.name).cmp(&name_parts(&b.name)));
    if let Some(folder) = &args.svg {
        draw(folder, &found, args.force)?;
    }
    let layers: Vec<Layer> = found.into_iter().map(|(layer, _)| layer).collect();
    Ok(Report {
        path: args.path.clone(),
        files: checkpoint.shards.len(),
        tensors: checkpoint.names().len(),
        bytes: checkpoint.bytes(),
        total: Total::of(&layers),
        layers,
        without_zero_blocks: without,
    })
}

/// Dense weights with zero blocks, and the number of dense weights without any.
fn zero_blocks(
    checkpoint: &Checkpoint,
    block: BlockSize,
    stored: OrientationArg,
    progress: &Progress,
) -> Result<(Vec<(Layer, BlockPattern)>, usize), Error> {
    let mut weights = Vec::new();
    for name in checkpoint.names() {
        let orientation = orientation(checkpoint, name, stored)?;
        let tensor = checkpoint.tensor(name).expect("its name comes from the checkpoint");
        // A matrix without elements has no blocks.
        if !tensor.bytes().is_empty() {
            weights.extend(DenseWeight::of(name, tensor, orientation)?);
        }
    }
    let bytes = |weight: &DenseWeight<'_>| weight.tensor.bytes().len() as u64;
    progress.begin("looking for zero blocks", weights.iter().map(bytes).sum());
    let (mut found, mut full) = (Vec::new(), 0);
    for weight in weights {
        let mask = weight.nonzero_blocks(block);
        progress.advance(bytes(&weight));
        if mask.count() == mask.len() {
            full += 1;
            continue;
        }
        let pattern = BlockPattern::from_mask(&mask);
        let (dtype, orientation) = (weight.tensor.dtype(), weight.layout.orientation);
        found.push((Layer::new(&weight.name, &pattern, dtype, orientation, false), pattern));
    }
    Ok((found, full))
}

/// One picture per weight.
fn draw(folder: &Path, found: &[(Layer, BlockPattern)], force: bool) -> Result<(), Error> {
    let plain = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => letter,
        _ => '_',
    };
    let files = found.iter().map(|(layer, _)| {
        let name: String = layer.name.chars().map(plain).collect();
        folder.join(format!("{name}.svg"))
    });
    let files: Vec<PathBuf> = files.collect();
    fs::create_dir_all(folder).map_err(CheckpointError::write(folder))?;
    files.iter().try_for_each(|path| check_output(None, false, path, force))?;
    for ((layer, pattern), path) in found.iter().zip(files) {
        let title = format!("{}: {} of {} blocks", layer.name, layer.kept, layer.blocks);
        let svg = pattern_svg(&title, pattern)?;
        let mut file = AtomicFile::new(&path, force).map_err(CheckpointError::write(&path))?;
        let written = file.write_all(svg.as_bytes()).and_then(|()| file.finish());
        written.map_err(CheckpointError::write(&path))?;
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.layers.is_empty() {
            writeln!(f, "{}", table(&self.layers))?;
        }
        write!(
            f,
            "{}: {} tensors in {} files, {}",
            self.path.display(),
            self.tensors,
            self.files,
            indicatif::BinaryBytes(self.bytes)
        )?;
        match (self.without_zero_blocks, self.layers.is_empty()) {
            (Some(full), _) => write!(f, "; {full} dense weights have no zero block"),
            (None, true) => {
                write!(
                    f,
                    "; no block-sparse weight (--block 64 looks for zero blocks in dense ones)"
                )
            }
            (None, false) => Ok(()),
        }
    }
}

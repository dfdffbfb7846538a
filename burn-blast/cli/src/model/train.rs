//! `blast dense`, `one-shot`, `fine-tune` and `merge`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;

use burn::tensor::Device;
use burn_blast::module::LoraLinearConfig;
use burn_blast::prune::{BlastConfig, Budget, Score};
use burn_blast_checkpoint::{Checkpoint, PackedWeight};
use burn_blast_models::fine_tune::{
    INTERRUPTED, Job, Objective, Progress as RunProgress, Signals, TrainConfig,
};
use burn_blast_models::one_shot::{Destination, Method, OneShot, sample};
use burn_blast_models::{Corpus, Form, Model, ModelFolder, Precision};
use indicatif::{BinaryBytes, HumanDuration};
use serde_json::Value;

use super::texts;
use crate::FINE;
use crate::args::{
    DenseArgs, DeviceArgs, FineTuneArgs, MergeArgs, OneShotArgs, OutputArgs, TrainArgs,
};
use crate::error::Error;
use crate::progress::Progress;
use crate::report::{percent, shortfall};

/// Options that change no result. The corpus is known by its tokens, models by what is in them, the output by its folder.
const FREE_ON_RESUME: [&str; 7] =
    ["save_every", "eval_every", "evaluated", "corpus", "output", "model", "teacher"];

/// Trains a small Llama over bytes from scratch.
pub fn dense(
    args: &DenseArgs,
    signals: &Signals,
    progress: &Progress,
) -> Result<(String, u8), Error> {
    args.out.check(None)?;
    let checkpoint = ModelFolder::new(args.sizes().to_json())?;
    let device = args.train.device.open()?;
    let model = checkpoint.config().init_normal(&device, args.train.seed)?;
    let model = model.with_precision(args.train.device.precision())?;
    let (config, settings) = (args.train.config(), settings(args));
    let run = Run { train: &args.train, config, settings, out: &args.out, signals };
    run.start(&checkpoint, model, Objective::default(), None, Form::Dense, progress)
}

/// Trains a model on while its MLP blocks are removed, or trains adapters beside the kept ones.
pub fn fine_tune(
    args: &FineTuneArgs,
    signals: &Signals,
    progress: &Progress,
) -> Result<(String, u8), Error> {
    args.blocks.blocks(None).check()?;
    args.out.check(Some(&args.model))?;
    args.teacher.iter().try_for_each(|teacher| args.out.check(Some(teacher)))?;
    let checkpoint = ModelFolder::open(&args.model)?;
    let device = &args.train.device;
    let mut model = checkpoint.load(&device.open()?, device.precision())?;
    model.check_unadapted()?;
    let mut objective = Objective {
        next_token: args.next_token,
        divergence: args.divergence,
        temperature: args.teacher_temperature,
        hidden_states: args.hidden_states,
        mlps: args.mlps,
        teacher: None,
    };
    if let Some(teacher) = &args.teacher {
        let context = args.train.text.sequences.context;
        objective = objective.with_teacher(&ModelFolder::open(teacher)?, &model, context)?;
    }
    let mut settings = settings(args);
    for (name, folder) in [("model", Some(&args.model)), ("teacher", args.teacher.as_ref())] {
        if let Some(folder) = folder {
            let content = format!("{:016x}", ModelFolder::open(folder)?.fingerprint()?);
            settings[format!("content of {name}")] = Value::from(content);
        }
    }
    let config = args.train.config().with_only_mlps(args.only_mlps);
    let run = Run { train: &args.train, config, settings, out: &args.out, signals };
    if let Some(rank) = args.lora {
        let lora = LoraLinearConfig::new(rank);
        let lora = args.lora_alpha.map_or(lora.clone(), |alpha| lora.with_alpha(alpha));
        let model = model.adapt(&lora, args.train.seed)?;
        return run.start(&checkpoint, model, objective, None, Form::Packed, progress);
    }
    if args.keep_pattern {
        if model.linears_mut().iter().all(|(_, linear)| linear.block_size().is_none()) {
            let needs = "a MODEL with block-sparse layers, as `one-shot` makes";
            return Err(Error::WithoutEffect { option: "--keep-pattern", needs });
        }
        return run.start(&checkpoint, model, objective, None, Form::Packed, progress);
    }
    let blocks = args.blocks.blocks(model.mlp_blocks(args.blocks.dense_last));
    model.pack(&blocks)?;
    if let Some(least) = args.global
        && !(0.0..=1.0 - blocks.sparsity).contains(&least)
    {
        let expected = "between 0 and the share of blocks that is kept, 1 - sparsity";
        return Err(Error::Range { option: "--global", found: least, expected });
    }
    let budget = args
        .global
        .map_or(Budget::Uniform, |least| Budget::Global { min_density: least, max_density: 1.0 });
    let blast = BlastConfig::new(args.train.steps)
        .with_score(args.score.unwrap_or(Score::Frobenius))
        .with_score_decay(args.score_decay.unwrap_or(0.0))
        .with_budget(budget)
        .with_sparsity(blocks.sparsity)
        .with_interval(args.interval)
        .with_end_fraction(args.end_fraction)
        .with_growth(args.growth)
        .with_growth_fraction(args.growth_fraction)
        .with_dense(model.outside(&blocks))
        .with_seed(args.train.seed);
    let blast = model.couple(blast, args.structure);
    run.start(&checkpoint, model, objective, Some(&blast), Form::Packed, progress)
}

fn settings(args: &impl serde::Serialize) -> Value {
    serde_json::to_value(args).expect("options are names and numbers")
}

/// A training run as the options ask for it.
struct Run<'a> {
    train: &'a TrainArgs,
    config: TrainConfig,
    settings: Value,
    out: &'a OutputArgs,
    signals: &'a Signals,
}

impl Run<'_> {
    fn start(
        self,
        checkpoint: &ModelFolder,
        model: Model,
        objective: Objective,
        blast: Option<&BlastConfig>,
        form: Form,
        progress: &Progress,
    ) -> Result<(String, u8), Error> {
        let config = self.config;
        let texts = texts(&self.train.text.corpus, Some(&self.out.output), progress)?;
        let corpus = Corpus::of(checkpoint, &texts, config.sequences.context)?;
        let job = Job {
            config: &config,
            blast,
            settings: self.settings,
            free: &FREE_ON_RESUME,
            out: &self.out.output,
            replace: self.out.force,
            form,
            precision: written(checkpoint, &self.train.device, &model)?,
            resume: self.train.resume,
        };
        let stopped = self.signals.save_first();
        progress.count("training", config.steps);
        let mut last = 0;
        let done = job.run(checkpoint, model, &corpus, objective, &mut |run| {
            last = run.step;
            report(run, progress);
            match stopped.load(Ordering::SeqCst) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        Ok(match done {
            true => {
                let asked = blast.map(|blast| blast.sparsity);
                (is_written(checkpoint, &self.out.output, asked, progress)?, FINE)
            }
            false => (format!("stopped after step {last}: --resume resumes it"), INTERRUPTED),
        })
    }
}

fn report(run: &RunProgress, progress: &Progress) {
    progress.set(run.step);
    // The loss is not known before the first steps have been summed up.
    let parts = [
        run.loss.map(|loss| format!("loss {loss:.4}")),
        run.sparsity.map(|share| format!("{:.1} % sparse", 100.0 * share)),
        run.held_out.map(|held_out| format!("held out {held_out:.4}")),
    ];
    let line = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    match run.held_out {
        Some(_) => progress.line(&format!("step {}: {line}", run.step)),
        None if line.is_empty() => {}
        None => progress.message(line),
    }
}

/// Sparsifies a model without training.
pub fn one_shot(args: &OneShotArgs, progress: &Progress) -> Result<String, Error> {
    let blocks = args.blocks.blocks(None);
    blocks.check()?;
    let mut one_shot = OneShot::new(blocks);
    let default = if args.stream { Method::WandaCorrected } else { one_shot.method };
    one_shot.method = args.method.unwrap_or(default);
    one_shot.damping = args.damping.unwrap_or(one_shot.damping);
    let refuse = |option, needs| Err(Error::Unused { option, needs });
    if args.corpus.is_some() && one_shot.method == Method::Magnitude {
        return refuse("--corpus", "--method wanda, wanda-corrected or taylor");
    }
    if args.damping.is_some() && one_shot.method != Method::WandaCorrected {
        return refuse("--damping", "--method wanda-corrected");
    }
    args.out.check(Some(&args.model))?;
    let checkpoint = ModelFolder::open(&args.model)?;
    let device = args.device.open()?;
    let sample = match &args.corpus {
        Some(path) => {
            let texts = texts(path, Some(&args.out.output), progress)?;
            let corpus = Corpus::of(&checkpoint, &texts, args.context)?;
            sample(&corpus, args.sequences, args.context, one_shot.batch(), &device)?
        }
        None => Vec::new(),
    };
    let mut told = |done, all| match done {
        0 => progress.count("sparsifying", all),
        _ => progress.set(done),
    };
    let mut whole = None;
    let silent = match args.stream {
        true => {
            let to = Destination {
                folder: &args.out.output,
                replace: args.out.force,
                device: device.clone(),
                precision: args.device.precision(),
                written: args.device.dtype.unwrap_or_default(),
            };
            one_shot.stream(&checkpoint, &sample, &to, &mut told)?
        }
        false => {
            let model = whole.insert(checkpoint.load(&device, args.device.precision())?);
            one_shot.run(model, &sample, &mut told)?
        }
    };
    if !silent.is_empty() {
        let names = silent.join(", ");
        progress
            .line(&format!("not corrected, since its inputs are all zero in the sample: {names}"));
    }
    let asked = Some(one_shot.blocks.sparsity);
    match whole {
        Some(model) => {
            let precision = written(&checkpoint, &args.device, &model)?;
            save(&checkpoint, &model.with_precision(precision)?, &args.out, asked, progress)
        }
        None => is_written(&checkpoint, &args.out.output, asked, progress),
    }
}

/// Data type of the files to write: `--dtype` if it is given, otherwise the data type of the input files.
pub(super) fn written(
    checkpoint: &ModelFolder,
    device: &DeviceArgs,
    model: &Model,
) -> Result<Precision, Error> {
    if device.dtype.is_some() || checkpoint.path().is_none() {
        return Ok(Precision::File);
    }
    let stored = checkpoint.precision()?;
    // A device without the type writes what it computed in.
    Ok(if stored.is_on(&model.device()) { stored } else { Precision::File })
}

/// Writes a model, and says so.
fn save(
    checkpoint: &ModelFolder,
    model: &Model,
    out: &OutputArgs,
    asked: Option<f64>,
    progress: &Progress,
) -> Result<String, Error> {
    checkpoint.save_with(model, &out.output, Form::Packed, out.force, |_| Ok(()))?;
    is_written(checkpoint, &out.output, asked, progress)
}

/// What was written, beside what it was made from. `asked`: the share of blocks that was to be removed.
fn is_written(
    checkpoint: &ModelFolder,
    output: &Path,
    asked: Option<f64>,
    progress: &Progress,
) -> Result<String, Error> {
    let written = Checkpoint::open(output)?;
    let (mut kept, mut blocks) = (0, Vec::new());
    for name in PackedWeight::names(&written) {
        // A file that was just written has no damage.
        let Ok(packed) = PackedWeight::read(&written, &name) else { continue };
        kept += packed.pattern.nnz();
        blocks.push(packed.pattern.block_count());
    }
    let mut line = format!("{} is written", output.display());
    let all: usize = blocks.iter().sum();
    if all > 0 {
        let removed = 1.0 - kept as f64 / all as f64;
        line += &format!(
            ", {} of the blocks of its block-sparse weights removed{}",
            percent(removed),
            asked.map(|asked| shortfall(removed, asked, blocks)).unwrap_or_default()
        );
    }
    line += &format!("; {} of tensors", BinaryBytes(written.bytes()));
    if let Some(before) = checkpoint.bytes()? {
        line += &format!(", the input has {}", BinaryBytes(before));
    }
    Ok(format!("{line}; {}", HumanDuration(progress.elapsed())))
}

/// Merges the adapters of a model.
pub fn merge(args: &MergeArgs, progress: &Progress) -> Result<String, Error> {
    args.out.check(Some(&args.model))?;
    let checkpoint = ModelFolder::open(&args.model)?;
    let mut model = checkpoint.load(&Device::flex(), Precision::File)?;
    let lost = 100.0 * model.merge(args.within)?;
    let written = save(&checkpoint, &model, &args.out, None, progress)?;
    Ok(match args.within {
        true => format!(
            "{lost:.1} % of the change, by its squares, is outside the blocks and lost\n{written}"
        ),
        false => written,
    })
}

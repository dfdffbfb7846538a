//! Every setting of the experiment, and what follows from them.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use burn_blast::BlockSize;
use burn_blast::prune::{BlastConfig, Budget, Growth, Schedule, Score, Structure};
use burn_blast_models::fine_tune::TrainConfig;
use burn_blast_models::{BackendKind, Blocks, Role, Sequences};
use clap::{Command, FromArgMatches};
use serde::{Deserialize, Serialize};

use crate::store::Phase;

/// Tokens are bytes.
pub const VOCABULARY: usize = 256;

/// Share of the steps in which the learning rate rises.
const WARM_UP: f64 = 0.05;

/// Steps between two entries of the loss curve.
const LOG_EVERY: usize = 5;

/// Evaluations during a run, the last one at its end.
const EVALUATIONS: usize = 5;

/// Validation batches of one evaluation.
const VALIDATION_BATCHES: usize = 16;

/// Every setting of the experiment. Its defaults are the defaults of the flags.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to compute; each one needs the cargo feature of the same name
    #[arg(long, value_enum, default_value_t = BackendKind::Flex)]
    pub backend: BackendKind,

    /// Text to train on, a file or a folder [default: Rust sources of the dependencies]
    #[arg(long, value_name = "FILE|DIR")]
    pub corpus: Option<PathBuf>,

    /// Share of the MLP weight blocks that is removed
    #[arg(long, default_value_t = 0.9)]
    pub sparsity: f64,

    /// Rows and columns of a weight block: 8, 16, 32, 64 or 128
    #[arg(long, default_value_t = 32)]
    pub block: usize,

    /// Optimizer steps of each of the three runs
    #[arg(long, default_value_t = 300)]
    pub steps: usize,

    /// Sequences in a batch; `blast` takes 8 by default
    #[arg(long, default_value_t = 6)]
    pub batch: usize,

    /// Bytes in a sequence
    #[arg(long, default_value_t = 128)]
    pub context: usize,

    /// Width of the model
    #[arg(long, default_value_t = 256)]
    pub d_model: usize,

    /// Width inside the gated MLPs
    #[arg(long, default_value_t = 768)]
    pub d_ff: usize,

    /// Transformer layers
    #[arg(long, default_value_t = 4)]
    pub layers: usize,

    /// Attention heads
    #[arg(long, default_value_t = 4)]
    pub heads: usize,

    /// Highest learning rate
    #[arg(long, default_value_t = 1e-3)]
    pub lr: f64,

    /// Highest learning rate of the narrow dense model [default: as --lr]
    #[arg(long)]
    pub narrow_lr: Option<f64>,

    /// Highest learning rate of the sparse model [default: as --lr]
    #[arg(long)]
    pub sparse_lr: Option<f64>,

    /// The learning rate of a block-sparse weight is divided by its density to this power [default: 1, or 0 with
    /// --start-sparse]
    #[arg(long)]
    pub lr_exponent: Option<f64>,

    /// Seed of the weights, the batches and the generated text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// What kept blocks are ranked by
    #[arg(long, value_enum, default_value_t = Score::Frobenius)]
    pub score: Score,

    /// What a step keeps of the running mean of --score saliency or taylor; 0 ranks by a single step
    #[arg(long, default_value_t = 0.0)]
    pub score_decay: f64,

    /// Rank the blocks of all layers together; each keeps at least a quarter of its share
    #[arg(long)]
    pub global_budget: bool,

    /// How removed blocks come back while the pattern changes [default: gradient, or none with --start-sparse]
    #[arg(long, value_enum)]
    pub growth: Option<Growth>,

    /// Share of the kept blocks that is exchanged at the first change of the pattern; it falls to 0
    #[arg(long, default_value_t = 0.3)]
    pub growth_fraction: f64,

    /// Steps in which a block that came back is not removed
    #[arg(long, default_value_t = 0)]
    pub grace: usize,

    /// Which blocks of an MLP are selected together
    #[arg(long, value_enum, default_value_t = Structure::Blocks)]
    pub structure: Structure,

    /// Largest share of feature groups that stay, with --structure coupled
    #[arg(long, default_value_t = 1.0)]
    pub group_density: f64,

    /// Linear layers that lose blocks [default: mlp, or attention,mlp with --start-sparse]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROLE,ROLE")]
    pub sparse: Option<Vec<Role>>,

    /// Start with random blocks, as many as stay, of attention and MLPs; with --growth they change while training
    #[arg(long)]
    pub start_sparse: bool,

    /// Optimizer steps between two changes of the block pattern; `blast` takes 25 by default
    #[arg(long, default_value_t = 20)]
    pub interval: usize,

    /// Share of the steps after which the pattern is final
    #[arg(long, default_value_t = 0.7)]
    pub end_fraction: f64,

    /// Last layers whose MLP stays dense; `blast` leaves none by default
    #[arg(long, default_value_t = 1)]
    pub dense_last: usize,

    /// Round the factors of products to bf16; faster on processors of AMD from Zen 4 on and of Intel with AMX, without effect
    /// elsewhere
    #[arg(long)]
    pub bf16_products: bool,

    /// Optimizer steps between two checkpoints
    #[arg(long, default_value_t = 100)]
    pub save_every: usize,
}

impl Default for Config {
    fn default() -> Self {
        let command = <Self as clap::Args>::augment_args(Command::new("defaults"));
        let matches = command.get_matches_from(["defaults"]);
        Self::from_arg_matches(&matches).expect("every setting without a default is optional")
    }
}

impl Config {
    /// Refuses settings that cannot be trained with.
    ///
    /// # Errors
    /// A sentence naming the setting and a value that works.
    pub fn validate(&self) -> Result<()> {
        for (flag, value, least) in [
            ("--d-model", self.d_model, 1),
            ("--d-ff", self.d_ff, 1),
            ("--layers", self.layers, 1),
            ("--heads", self.heads, 1),
            ("--context", self.context, 2),
        ] {
            ensure!(value >= least, "{flag} is {value}: give at least {least}");
        }
        ensure!(
            self.d_model.is_multiple_of(2 * self.heads),
            "--d-model {} cannot be shared by --heads {}: give a multiple of {}, twice the number of heads, \
             because each head rotates its values in pairs",
            self.d_model,
            self.heads,
            2 * self.heads
        );
        ensure!(
            self.dense_last < self.layers,
            "--dense-last {} leaves none of the {} layers to prune: give at most {}",
            self.dense_last,
            self.layers,
            self.layers - 1
        );
        ensure!(
            self.interval <= self.steps,
            "--interval {} is longer than the {} --steps: no block would be removed",
            self.interval,
            self.steps
        );
        ensure!(
            self.group_density == 1.0 || self.structure == Structure::Coupled,
            "--group-density {} needs --structure coupled",
            self.group_density
        );
        let roles = self.roles();
        ensure!(!roles.is_empty(), "--sparse names no layers: give mlp, attention or head");
        ensure!(
            self.structure == Structure::Blocks || roles.contains(&Role::Mlp),
            "--structure {} joins layers of MLPs, of which --sparse names none: add mlp",
            serde_json::to_value(self.structure)?.as_str().unwrap_or_default()
        );
        BlockSize::new(self.block)?;
        let blocks = |role: &Role| {
            let [rows, cols] = self.shape(*role).map(|size| size.div_ceil(self.block));
            rows * cols
        };
        ensure!(
            roles.iter().all(|role| blocks(role) > 1),
            "--block {} leaves a weight of one block, of which nothing can be removed: give a smaller one",
            self.block
        );
        for phase in [Phase::Dense, Phase::Narrow, Phase::Sparse] {
            self.train(phase).check()?;
        }
        Ok(self.blast().validate()?)
    }

    /// Whether these settings give the same results as `other` on the same text.
    pub fn has_results_of(&self, other: &Self) -> bool {
        let same = Self {
            backend: other.backend,
            save_every: other.save_every,
            corpus: other.corpus.clone(),
            sparse: other.sparse.clone(),
            ..self.clone()
        };
        same == *other && self.roles() == other.roles()
    }

    /// The training of a run.
    pub fn train(&self, phase: Phase) -> TrainConfig {
        let lr = match phase {
            Phase::Narrow => self.narrow_lr,
            Phase::Sparse => self.sparse_lr,
            Phase::Dense | Phase::Report | Phase::Finished => None,
        };
        TrainConfig::new(self.steps)
            .with_sequences(Sequences { context: self.context, batch: self.batch })
            .with_lr(lr.unwrap_or(self.lr))
            .with_warm_up((self.steps as f64 * WARM_UP).max(1.0))
            .with_log_every(LOG_EVERY)
            .with_eval_every((self.steps / EVALUATIONS).max(1))
            .with_evaluated(VALIDATION_BATCHES * self.batch)
            .with_save_every(self.save_every)
            .with_seed(self.seed)
    }

    /// The blocks that the sparse run removes in the end.
    pub fn blocks(&self) -> Blocks {
        Blocks::new(self.block)
            .with_sparsity(self.sparsity)
            .with_dense_last(self.dense_last)
            .with_roles(self.roles())
    }

    /// The linear layers that lose blocks, each once.
    pub fn roles(&self) -> Vec<Role> {
        let default = match self.start_sparse {
            true => vec![Role::Attention, Role::Mlp],
            false => vec![Role::Mlp],
        };
        let asked = self.sparse.as_ref().unwrap_or(&default);
        let all = [Role::Attention, Role::Mlp, Role::Head];
        all.into_iter().filter(|role| asked.contains(role)).collect()
    }

    /// The settings of a dense model of as many parameters as the sparse model ends with: with narrower MLPs, or if
    /// other layers are sparse too, narrower throughout.
    pub fn narrow(&self) -> Self {
        let kept = (1.0 - self.sparsity) * self.sparse_layers() as f64 + self.dense_last as f64;
        let d_ff = (self.d_ff as f64 * kept / self.layers as f64).round() as usize;
        let roles = self.roles();
        if roles == [Role::Mlp] {
            return Self { d_ff: d_ff.max(1), ..self.clone() };
        }
        let sparse: usize = roles.iter().map(|role| self.role_parameters(*role)).sum();
        let wanted = self.parameters() - (self.sparsity * sparse as f64) as usize;
        // Heads have an even number of features.
        let narrow = (1..=self.d_model / (2 * self.heads)).map(|half_head| {
            let d_model = 2 * self.heads * half_head;
            Self { d_model, d_ff: self.d_ff * d_model / self.d_model, ..self.clone() }
        });
        let nearest = narrow.min_by_key(|config| config.parameters().abs_diff(wanted));
        let nearest = nearest.unwrap_or_else(|| self.clone());
        // Widths come in steps; the MLPs make up for what that leaves.
        let without = Self { d_ff: 0, ..nearest.clone() }.parameters();
        let feature = 3 * self.layers * nearest.d_model;
        let d_ff = (wanted.saturating_sub(without) as f64 / feature as f64).round() as usize;
        Self { d_ff: d_ff.max(1), ..nearest }
    }

    /// Parameters of the dense model.
    fn parameters(&self) -> usize {
        let norms = (2 * self.layers + 1) * self.d_model;
        let linear = self.d_model * (4 * self.d_model + 3 * self.d_ff);
        2 * VOCABULARY * self.d_model + self.layers * linear + norms
    }

    /// Shape of the smallest weight of a role.
    fn shape(&self, role: Role) -> [usize; 2] {
        let outputs = match role {
            Role::Attention => self.d_model,
            Role::Mlp => self.d_ff,
            Role::Head => VOCABULARY,
        };
        [self.d_model, outputs]
    }

    /// Linear weights of a role in the layers that lose blocks.
    fn role_parameters(&self, role: Role) -> usize {
        match role {
            Role::Attention => self.sparse_layers() * 4 * self.d_model * self.d_model,
            Role::Mlp => self.sparse_layers() * 3 * self.d_model * self.d_ff,
            Role::Head => VOCABULARY * self.d_model,
        }
    }

    /// The pruning of the sparse run, but for the layers that its model couples.
    pub fn blast(&self) -> BlastConfig {
        let (schedule, growth, lr_exponent) = match self.start_sparse {
            true => (Schedule::Constant, Growth::None, 0.0),
            false => (Schedule::Cubic, Growth::Gradient, 1.0),
        };
        let density = 1.0 - self.sparsity;
        let budget = match self.global_budget {
            true => Budget::Global { min_density: density / 4.0, max_density: 1.0 },
            false => Budget::Uniform,
        };
        BlastConfig::new(self.steps)
            .with_sparsity(self.sparsity)
            .with_interval(self.interval)
            .with_end_fraction(self.end_fraction)
            .with_growth(self.growth.unwrap_or(growth))
            .with_growth_fraction(self.growth_fraction)
            .with_lr_exponent(self.lr_exponent.unwrap_or(lr_exponent))
            .with_score(self.score)
            .with_score_decay(self.score_decay)
            .with_grace(self.grace)
            .with_budget(budget)
            .with_schedule(schedule)
            .with_structure(self.structure)
            .with_group_density(self.group_density)
            .with_seed(self.seed)
    }

    /// Layers that lose blocks.
    pub fn sparse_layers(&self) -> usize {
        self.layers - self.dense_last
    }

    /// Bytes one optimizer step trains on, which is also the number of rows the MLPs multiply.
    pub fn tokens_per_step(&self) -> usize {
        self.batch * self.context
    }
}

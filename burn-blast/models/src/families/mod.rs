//! Architectures: a folder each, and a line in each of the lists of this file.
//!
//! A folder holds the configuration (`config.rs`: sizes, names, orientation of weights) and the architecture (`mod.rs`).
//! The families that are Llamas with differences are functions in `decoder/design.rs`. Everything else in this crate works with [`ModelConfig`] and [`Model`].

mod decoder;
mod gpt2;
mod rope;

pub use decoder::{Decoder, DecoderConfig, Design, GateActivation, LayerDesign};
pub use gpt2::{Gpt2, Gpt2Config};

pub(crate) use decoder::RmsNorm;

use burn::module::Module;
use burn::tensor::activation::gelu_approximate;
use burn::tensor::{DType, Int, Tensor};
use burn_blast::module::AnyLinear;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::attention::Pass;
use crate::builder::Builder;
use crate::{Error, LayerSizes};

/// Architecture and sizes of a model.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there is one configuration")]
pub enum ModelConfig {
    /// Llama, Mistral, Qwen 2 and 3, Gemma 3 or SmolLM 3.
    Decoder(DecoderConfig),
    /// `"model_type": "gpt2"`.
    Gpt2(Gpt2Config),
}

/// A language model.
///
/// As a Burn module its parameters are named as in the checkpoint, except that the weight and bias of a norm are
/// `gamma` and `beta`, and that Burn adds the names of enum variants: `Decoder`, `Gpt2`, `Dense`, `Sparse`, `Adapted`.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one model")]
pub enum Model {
    /// A Llama or one of its relatives.
    Decoder(Decoder),
    /// A GPT-2.
    Gpt2(Gpt2),
}

/// Evaluates an expression for the family of a [`ModelConfig`] or a [`Model`].
macro_rules! each {
    ($any:expr, $family:ident => $value:expr) => {
        match $any {
            Self::Decoder($family) => $value,
            Self::Gpt2($family) => $value,
        }
    };
}

impl ModelConfig {
    /// Reads the content of a `config.json`.
    ///
    /// # Errors
    /// If the architecture or a setting is not implemented, or sizes are missing or contradict each other.
    pub fn parse(json: &Value) -> Result<Self, Error> {
        if !json.get("quantization_config").is_none_or(Value::is_null) {
            return Err(Error::Unsupported {
                setting: "quantization_config",
                found: "a quantised checkpoint".to_string(),
                supported: "use the checkpoint in bf16, f16 or f32".to_string(),
            });
        }
        let json = &with_whole_numbers(json);
        let found = &json["model_type"];
        let family = found.as_str().unwrap_or_default();
        if family == "gpt2" {
            return Ok(Self::Gpt2(Gpt2Config::parse(json)?));
        }
        match decoder::parse(family, json) {
            Some(config) => Ok(Self::Decoder(config?)),
            None => Err(unsupported("model_type", found, reason(family))),
        }
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        each!(self, config => config.vocab_size)
    }

    /// Positions the model was made for.
    pub fn context(&self) -> usize {
        match self {
            Self::Decoder(config) => config.rope.context(config.max_position_embeddings),
            Self::Gpt2(config) => config.n_positions,
        }
    }

    /// Features between the layers.
    pub fn width(&self) -> usize {
        match self {
            Self::Decoder(config) => config.hidden_size,
            Self::Gpt2(config) => config.n_embd,
        }
    }

    /// Whether the output layer is the embedding.
    pub fn is_tied(&self) -> bool {
        each!(self, config => config.tie_word_embeddings)
    }

    /// The same with an output layer of its own.
    pub(crate) fn untied(mut self) -> Self {
        each!(&mut self, config => config.tie_word_embeddings = false);
        self
    }

    pub(crate) fn family(&self) -> &dyn FamilyConfig {
        each!(self, config => config)
    }
}

impl Model {
    pub(crate) fn family(&self) -> &dyn Family {
        each!(self, model => model)
    }

    pub(crate) fn family_mut(&mut self) -> &mut dyn Family {
        each!(self, model => model)
    }

    /// Name of the family, the first part of every parameter's path in the module.
    pub(crate) fn variant(&self) -> &'static str {
        match self {
            Self::Decoder(_) => "Decoder",
            Self::Gpt2(_) => "Gpt2",
        }
    }
}

/// Why a family is not supported, and what is.
fn reason(family: &str) -> &'static str {
    match family {
        "gemma3" => {
            "a model with images; only its text model is, \"gemma3_text\", as in the sizes 270M and 1B"
        }
        "gemma" | "gemma2" => "of Gemma, only \"gemma3_text\" is",
        "qwen2_moe" | "qwen3_moe" | "mixtral" => "mixtures of experts are not; dense models are",
        _ => {
            "only \"llama\", \"mistral\", \"qwen2\", \"qwen3\", \"gemma3_text\", \"smollm3\" and \"gpt2\" are"
        }
    }
}

/// What the rest of the crate asks of the configuration of a family.
pub(crate) trait FamilyConfig {
    /// A model of these sizes, its layers made from first to last.
    fn build(&self, builder: &mut Builder) -> Result<Model, Error>;

    /// Writes other sizes of the layers into the content of a `config.json`. All have the same heads.
    fn write_sizes(&self, sizes: &[LayerSizes], json: &mut Value) -> Result<(), Error>;

    /// Name of the embedding, whose data type is the model's.
    fn embedding_name(&self) -> &'static str;

    /// Whether a file has the dense weight at a path of the module as `[d_output, d_input]`.
    fn is_out_in(&self, path: &str) -> bool;

    /// The path in the module of a name in a file, without the [`WRAPPERS`].
    fn path_in_module(&self, name: &str) -> String;

    /// What the weight of a layer may be called in a file.
    fn weight_names(&self, layer: &str) -> Vec<String> {
        vec![format!("{layer}.weight")]
    }
}

/// What the rest of the crate asks of a model of a family.
pub(crate) trait Family {
    /// The features that the first layer takes.
    fn embed(&self, tokens: Tensor<2, Int>, pass: &Pass) -> Tensor<3>;

    /// The features before a layer, with what its attention adds.
    fn attend(&self, index: usize, x: Tensor<3>, pass: &mut Pass) -> Tensor<3>;

    /// The features after attention, with what the MLP of the layer adds.
    fn feed(&self, index: usize, x: Tensor<3>, pass: &mut Pass) -> Tensor<3>;

    /// The inputs of an MLP and of its last linear layer, from the features after attention.
    #[cfg(feature = "calibrate")]
    fn mlp_inputs(&self, index: usize, x: Tensor<3>) -> [Tensor<3>; 2];

    /// Number of layers.
    fn layers(&self) -> usize;

    /// The last norm. Its result goes to the output layer.
    fn norm(&self, x: Tensor<3>) -> Tensor<3>;

    /// The features that the output layer takes.
    fn hidden(&self, tokens: Tensor<2, Int>, mut pass: Pass) -> Tensor<3> {
        let mut x = self.embed(tokens, &pass);
        for index in 0..self.layers() {
            x = self.attend(index, x, &mut pass);
            x = self.feed(index, x, &mut pass);
            pass.record_output(&x);
        }
        pass.finish();
        self.norm(x)
    }

    /// The MLP of a layer.
    fn mlp(&self, layer: usize, input: Tensor<3>, pass: &mut Pass) -> Tensor<3>;

    /// Paths, in a layer, of the linear layers whose outputs are the hidden features of the MLP, and of the one that
    /// reads them.
    fn mlp_layers(&self) -> (&'static [&'static str], &'static str);

    /// Sizes of each layer.
    fn sizes(&self) -> Vec<LayerSizes>;

    /// Removes dead hidden features and heads.
    fn compact(&mut self);

    /// The output layer, unless it is the embedding.
    fn head(&self) -> Option<&AnyLinear>;

    /// Gives the model an output layer of its own, or makes it the embedding again.
    fn set_head(&mut self, head: Option<AnyLinear>);

    /// Weight of the embedding, `[vocabulary, width]`.
    fn embedding(&self) -> Tensor<2>;

    /// Every linear layer with its name in the checkpoint.
    fn linears_mut(&mut self) -> Vec<(String, &mut AnyLinear)>;
}

/// The approximate GELU in single precision: the cube of a hidden feature leaves the range of f16.
fn wide_gelu(x: Tensor<3>) -> Tensor<3> {
    let dtype = x.dtype();
    gelu_approximate(x.cast(DType::F32)).cast(dtype)
}

/// What `torch.compile`, `DataParallel` and PEFT put before the names of a model.
const WRAPPERS: [&str; 3] = ["_orig_mod.", "module.", "base_model.model."];

/// A name in a file without them.
pub(crate) fn unwrapped(mut name: &str) -> &str {
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        name = rest;
    }
    name
}

/// The settings of a file, and the defaults of its family for those it leaves out.
fn with_defaults(mut defaults: Value, json: &Value) -> Value {
    for (name, value) in json.as_object().into_iter().flatten() {
        defaults[name] = value.clone();
    }
    defaults
}

/// A whole number, which may be written with a point.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    let fits = |it: &f64| it.fract() == 0.0 && (0.0..1e15).contains(it);
    value.as_u64().or_else(|| value.as_f64().filter(fits).map(|it| it as u64))
}

/// The settings of a file, with whole numbers that are written with a point as whole numbers.
fn with_whole_numbers(json: &Value) -> Value {
    let mut json = json.clone();
    for value in json.as_object_mut().into_iter().flat_map(|settings| settings.values_mut()) {
        if let Some(number) = whole(value) {
            *value = Value::from(number);
        }
    }
    json
}

fn read<T: DeserializeOwned>(json: &Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(json).map_err(|error| {
        let (name, reason) = (error.path().to_string(), error.inner().to_string());
        // A number that is not finite is read as a string that begins so.
        let name = if name == "." { String::new() } else { format!("{name}: ") };
        Error::unusable("config.json", format!("{name}{}", reason.replace("\\0", "")))
    })
}

fn unsupported(setting: &'static str, found: &Value, supported: impl Into<String>) -> Error {
    Error::Unsupported { setting, found: found.to_string(), supported: supported.into() }
}

/// Refuses every value of a setting but these; a file may leave it out.
fn only(json: &Value, setting: &'static str, supported: &[Value]) -> Result<(), Error> {
    match json.get(setting) {
        Some(found) if !supported.contains(found) => {
            let names: Vec<String> = supported.iter().map(Value::to_string).collect();
            Err(unsupported(setting, found, format!("only {} is", names.join(" or "))))
        }
        _ => Ok(()),
    }
}

/// The settings of a configuration, all of them numbers or flags.
fn settings(config: &impl Serialize) -> Value {
    serde_json::to_value(config).expect("numbers and flags only")
}

/// Refuses a configuration with a number that is not above 0.
fn positive(config: &impl Serialize) -> Result<(), Error> {
    let settings = settings(config);
    let fits = |value: &Value| value.is_boolean() || value.as_f64().is_some_and(|it| it > 0.0);
    match settings.as_object().into_iter().flatten().find(|(_, value)| !fits(value)) {
        Some((name, value)) => Err(Error::Contradiction(format!("{name} is {value}"))),
        None => Ok(()),
    }
}

/// Takes the hidden features of each layer out of a setting that is a list of them, as in Gemma 3n, and leaves the largest.
/// Nothing is taken if it is a number.
fn take_widths(json: &mut Value, setting: &str, layers: usize) -> Result<Vec<usize>, Error> {
    let Some(list) = json[setting].as_array() else { return Ok(Vec::new()) };
    let found = list.len();
    let widths: Option<Vec<usize>> =
        list.iter().map(|one| whole(one).map(|it| it as usize)).collect();
    let refuse = |reason: String| Err(Error::Contradiction(format!("{setting} {reason}")));
    match widths {
        Some(widths) if found == layers && !widths.contains(&0) => {
            json[setting] = Value::from(widths.iter().copied().max().unwrap_or(0));
            Ok(widths)
        }
        Some(widths) if !widths.contains(&0) => {
            refuse(format!("is a list of {found}, but there are {layers} layers"))
        }
        _ => refuse("is a list of something else than numbers above 0".to_owned()),
    }
}

/// The hidden features of layers as a setting: a number if all have the same, otherwise a list.
fn widths(sizes: &[LayerSizes]) -> Value {
    let widths: Vec<usize> = sizes.iter().map(|one| one.hidden).collect();
    match widths.iter().all(|one| *one == widths[0]) {
        true => Value::from(widths[0]),
        false => Value::from(widths),
    }
}

fn divides(part: (&str, usize), whole: (&str, usize)) -> Result<(), Error> {
    if whole.1.is_multiple_of(part.1) {
        return Ok(());
    }
    let reason = format!("{} = {} does not divide {} = {}", part.0, part.1, whole.0, whole.1);
    Err(Error::Contradiction(reason))
}

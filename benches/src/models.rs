//! Models that the sizes come from.

/// The feed-forward block of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// Every model of this size.
    pub name: &'static str,
    /// Width of the model.
    pub d_model: usize,
    /// Width of the hidden layer.
    pub d_ff: usize,
    /// Whether it is gated (SwiGLU).
    pub gated: bool,
}

/// By the size of the weight.
pub const MODELS: [Model; 6] = [
    Model { name: "gpt2-small/bert-base/vit-b", d_model: 768, d_ff: 3072, gated: false },
    Model { name: "vit-h", d_model: 1280, d_ff: 5120, gated: false },
    Model { name: "gpt2-xl", d_model: 1600, d_ff: 6400, gated: false },
    Model { name: "llama-3.2-1b", d_model: 2048, d_ff: 8192, gated: true },
    Model { name: "llama-3.1-8b", d_model: 4096, d_ff: 14336, gated: true },
    Model { name: "llama-3.1-405b", d_model: 16384, d_ff: 53248, gated: true },
];

impl Model {
    /// Whether `text` is part of its name.
    pub fn is(&self, text: &str) -> bool {
        self.name.contains(&text.to_lowercase())
    }
}

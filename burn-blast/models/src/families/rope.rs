//! The rotary settings of a configuration, in either spelling.

use serde_json::{Value, json};

use super::unsupported;
use crate::Error;
use crate::rope::{RopeScaling, Rotary};

/// Of transformers, for files that leave it out.
pub(super) const THETA: f64 = 10_000.0;
pub(super) const DEFAULT_CONTEXT: usize = 2048;

/// A setting that a file has, and not as `null`.
pub(super) fn setting(json: &Value, name: &str) -> Option<Value> {
    json.get(name).filter(|one| !one.is_null()).cloned()
}

/// The older spelling, if it says anything. It wins over the newer one, as in transformers.
pub(super) fn older(json: &Value) -> Option<Value> {
    setting(json, "rope_scaling")
        .filter(|given| given.as_object().is_none_or(|all| !all.is_empty()))
}

/// What a configuration says of its rotations.
pub(super) fn read(json: &Value, theta: f64) -> Result<Rotary, Error> {
    let given = older(json).or_else(|| setting(json, "rope_parameters"));
    of(&given.unwrap_or_default(), json, theta)
}

/// What `given` and, for what it leaves out, the configuration around it say.
pub(super) fn of(given: &Value, json: &Value, theta: f64) -> Result<Rotary, Error> {
    let either = |name: &str| setting(given, name).or_else(|| setting(json, name));
    if let Some(share) = either("partial_rotary_factor").filter(|one| one.as_f64() != Some(1.0)) {
        let supported = "only 1, which rotates whole heads, is";
        return Err(unsupported("partial_rotary_factor", &share, supported));
    }
    let theta = either("rope_theta").unwrap_or_else(|| json!(theta));
    let theta = positive(Some(theta), || "rope_theta is not a positive number".to_owned())?;
    Ok(Rotary { theta, scaling: scaling(given, json)? })
}

fn scaling(given: &Value, json: &Value) -> Result<RopeScaling, Error> {
    // Some files have both names.
    let kind = setting(given, "rope_type").or_else(|| setting(given, "type"));
    let kind = kind.unwrap_or_else(|| json!("default"));
    let need = |value: Option<Value>, name: &str| {
        positive(value, || format!("rope_type {kind} needs a positive {name}"))
    };
    let number = |name: &str| need(setting(given, name), name);
    let optional = |name: &str| setting(given, name).map(|_| number(name)).transpose();
    let positions = || {
        let given = setting(json, POSITIONS).unwrap_or_else(|| json!(DEFAULT_CONTEXT));
        need(Some(given), POSITIONS)
    };
    // If it is left out, transformers takes the positions of the model.
    let original = || match setting(json, ORIGINAL).or_else(|| setting(given, ORIGINAL)) {
        Some(value) => need(Some(value), ORIGINAL),
        None => positions(),
    };
    Ok(match kind.as_str() {
        Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: number("factor")? },
        // transformers reads `max_position_embeddings` here and no other length.
        Some("dynamic") => {
            let original_context = positions()? as usize;
            RopeScaling::Dynamic { factor: number("factor")?, original_context }
        }
        Some("llama3") => {
            let (low_freq_factor, high_freq_factor) =
                (number("low_freq_factor")?, number("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                let reason = "high_freq_factor must be above low_freq_factor".to_string();
                return Err(Error::Contradiction(reason));
            }
            RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_context: original()? as usize,
            }
        }
        Some("yarn") => {
            let factor = match optional("factor")? {
                Some(factor) => factor,
                None => positions()? / original()?,
            };
            let of_attention = |factor: f64, scale: f64| match factor <= 1.0 {
                true => 1.0,
                false => 0.1 * scale * factor.ln() + 1.0,
            };
            let attention = match (
                optional("attention_factor")?,
                optional("mscale")?,
                optional("mscale_all_dim")?,
            ) {
                (Some(given), ..) => given,
                (None, Some(above), Some(below)) => {
                    of_attention(factor, above) / of_attention(factor, below)
                }
                _ => of_attention(factor, 1.0),
            };
            RopeScaling::Yarn {
                factor,
                attention,
                beta_fast: optional("beta_fast")?.unwrap_or(32.0),
                beta_slow: optional("beta_slow")?.unwrap_or(1.0),
                truncate: given.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                original_context: original()? as usize,
            }
        }
        // `su` is its first name.
        Some("longrope" | "su") => {
            let original = original()?;
            let factor = match optional("factor")? {
                Some(factor) => factor,
                None => positions()? / original,
            };
            let inferred = match factor <= 1.0 {
                true => 1.0,
                false => (1.0 + factor.ln() / original.ln()).sqrt(),
            };
            let divisors = |name: &str| -> Result<Vec<f64>, Error> {
                let values = setting(given, name).unwrap_or_default();
                let all = values.as_array().into_iter().flatten();
                all.map(|value| need(Some(value.clone()), name)).collect()
            };
            RopeScaling::LongRope {
                short: divisors("short_factor")?,
                long: divisors("long_factor")?,
                attention: optional("attention_factor")?.unwrap_or(inferred),
                original_context: original as usize,
            }
        }
        _ => {
            let supported = "only \"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\" and \"longrope\" are";
            return Err(unsupported("rope_type", &kind, supported));
        }
    })
}

const POSITIONS: &str = "max_position_embeddings";
const ORIGINAL: &str = "original_max_position_embeddings";

fn positive(value: Option<Value>, reason: impl FnOnce() -> String) -> Result<f64, Error> {
    let value = value.and_then(|value| value.as_f64()).filter(|value| *value > 0.0);
    value.ok_or_else(|| Error::Contradiction(reason()))
}

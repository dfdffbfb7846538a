//! The keys and values of a GGUF file.

use std::collections::HashMap;

use anamnesis::{GgufMetadataArray as Array, GgufMetadataValue as Value};

/// What a file says besides its tensors.
pub(super) struct Metadata<'a> {
    values: &'a HashMap<String, Value>,
    /// Name of the architecture, the first part of the keys of its settings.
    pub(super) architecture: &'a str,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(values: &'a HashMap<String, Value>) -> Self {
        let architecture = values.get("general.architecture").and_then(Value::as_string);
        Self { values, architecture: architecture.unwrap_or_default() }
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.values.get(key)?.as_string()
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.values.get(key)?.as_bool()
    }

    /// A whole number that is not negative, of any type.
    pub(super) fn whole(&self, key: &str) -> Option<u64> {
        match *self.values.get(key)? {
            Value::U8(number) => Some(number.into()),
            Value::U16(number) => Some(number.into()),
            Value::U32(number) => Some(number.into()),
            Value::U64(number) => Some(number),
            Value::I8(number) => number.try_into().ok(),
            Value::I16(number) => number.try_into().ok(),
            Value::I32(number) => number.try_into().ok(),
            Value::I64(number) => number.try_into().ok(),
            _ => None,
        }
    }

    /// A number, with the digits that its type has.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        match *self.values.get(key)? {
            // 1e-5 in single precision is 1e-5, not the double that comes closest to it.
            Value::F32(number) => number.to_string().parse().ok(),
            Value::F64(number) => Some(number),
            _ => self.whole(key).map(|number| number as f64),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Option<&'a [String]> {
        self.values.get(key)?.as_array()?.as_string_slice()
    }

    pub(super) fn numbers(&self, key: &str) -> Option<&'a [f32]> {
        self.values.get(key)?.as_array()?.as_f32_slice()
    }

    /// Whole numbers, as kinds of tokens are.
    pub(super) fn kinds(&self, key: &str) -> Option<Vec<i64>> {
        match self.values.get(key)?.as_array()? {
            Array::I32(all) => Some(all.iter().map(|kind| i64::from(*kind)).collect()),
            Array::U32(all) => Some(all.iter().map(|kind| i64::from(*kind)).collect()),
            _ => None,
        }
    }

    /// Whether there is something under a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The key of a setting of the architecture.
    pub(super) fn of_architecture(&self, setting: &str) -> String {
        format!("{}.{setting}", self.architecture)
    }

    /// Refuses a setting of the architecture that is there with another number.
    pub(super) fn neutral(&self, setting: &str, number: f64) -> Result<(), String> {
        let key = self.of_architecture(setting);
        match self.number(&key) {
            Some(found) if found != number => {
                Err(format!("has {found} under \"{key}\", which is not implemented: {number} is"))
            }
            _ => Ok(()),
        }
    }

    /// A size of the architecture.
    pub(super) fn size(&self, setting: &str) -> Result<usize, String> {
        let key = self.of_architecture(setting);
        let size = self.whole(&key).and_then(|size| usize::try_from(size).ok());
        size.filter(|size| *size > 0)
            .ok_or_else(|| format!("has no positive number under \"{key}\""))
    }
}

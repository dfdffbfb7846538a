//! JSON as Python writes it: with `Infinity`, `-Infinity` and `NaN`, which the standard does not have.

use serde_json::Value;

/// What Python writes for numbers that are not finite.
const NAMES: [&str; 3] = ["Infinity", "-Infinity", "NaN"];

/// Reads JSON. Numbers that are not finite become strings that no file has, so that a setting that must be a number
/// refuses them, and [`text`] writes them again.
///
/// # Errors
/// If it is not JSON otherwise.
pub fn parse(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| match quoted(text) {
        Some(quoted) => serde_json::from_str(&quoted),
        None => Err(error),
    })
}

/// The text of what [`parse`] has read, in lines.
pub fn text(json: &Value) -> String {
    NAMES.iter().fold(format!("{json:#}"), |text, name| text.replace(&string(name), name))
}

/// A string of the file: no number that became one.
pub fn as_str(value: &Value) -> Option<&str> {
    let number = |text: &&str| text.strip_prefix('\0').is_some_and(|name| NAMES.contains(&name));
    value.as_str().filter(|text| !number(text))
}

/// The string that takes the place of a number, in quotes.
fn string(name: &str) -> String {
    format!("\"\\u0000{name}\"")
}

/// The text with these numbers as strings; none if there is none of them.
fn quoted(text: &str) -> Option<String> {
    let (mut out, mut rest) = (String::new(), text);
    let (mut in_string, mut found) = (false, false);
    while let Some(letter) = rest.chars().next() {
        let number = NAMES.iter().find(|name| !in_string && rest.starts_with(**name));
        let length = match (number, letter) {
            (Some(name), _) => {
                (found, rest) = (true, &rest[name.len()..]);
                out += &string(name);
                continue;
            }
            // The letter after it ends no string.
            (None, '\\') if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, letter) => {
                in_string ^= letter == '"';
                letter.len_utf8()
            }
        };
        out += &rest[..length];
        rest = &rest[length..];
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_read_and_written_again() {
        let written = r#"{"limit": [0.0, Infinity], "low": -Infinity, "say": "NaN \" Infinity \\", "none": NaN}"#;
        let json = parse(written).unwrap();
        assert_eq!(json["say"], "NaN \" Infinity \\");
        assert!(json["low"].as_f64().is_none() && !json["low"].is_null());
        assert_eq!((as_str(&json["say"]).is_some(), as_str(&json["none"])), (true, None));
        let again = text(&json);
        assert!(
            again.contains("\"low\": -Infinity,") && again.contains("\"none\": NaN"),
            "{again}"
        );
        assert_eq!(parse(&again).unwrap(), json);
        assert_eq!(parse("[1.5]").unwrap(), serde_json::json!([1.5]));
        for wrong in ["{", "Infinit", "[Infinity", "\"\\", "[NaN\"ä\\"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

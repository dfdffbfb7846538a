//! Chat templates: how a model wants turns of a conversation written.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::LazyLock;
use std::time::SystemTime;

use burn_blast_checkpoint::json;
use chrono::{DateTime, Utc};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use regex::Regex;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value};

use crate::{Error, ModelFolder};

/// What someone says in a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`, as a rule.
    pub role: String,
    /// The text.
    pub content: String,
}

impl ChatMessage {
    /// What `role` says.
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_owned(), content: content.to_owned() }
    }
}

static GENERATION: LazyLock<Regex> = LazyLock::new(|| block("generation"));
static END_GENERATION: LazyLock<Regex> = LazyLock::new(|| block("endgeneration"));

/// A block of this name, with the signs that trim spaces around it.
fn block(name: &str) -> Regex {
    Regex::new(&format!(r"\{{%([-+]?)\s*{name}\s*([-+]?)%\}}")).expect("a regex")
}

/// The chat template of a model, Jinja as transformers renders it.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    /// `bos_token`, `eos_token` and their like, which templates may use.
    tokens: Map<String, Value>,
}

impl ChatTemplate {
    /// A template, and the special tokens that it may name.
    pub fn new(source: &str, tokens: Map<String, Value>) -> Self {
        Self { source: source.to_owned(), tokens }
    }

    /// The template of a folder: `chat_template.jinja`, or what `tokenizer_config.json` has, its default if there are several.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn open(folder: &Path) -> Result<Option<Self>, Error> {
        let read = |name: &str| match std::fs::read_to_string(folder.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file(folder.join(name))(error)),
        };
        let name = "tokenizer_config.json";
        let settings = match read(name)? {
            Some(text) => json::parse(&text).map_err(|e| Error::unusable(folder.join(name), e))?,
            None => Value::Null,
        };
        let source = match read("chat_template.jinja")? {
            Some(source) => Some(source),
            None => match &settings["chat_template"] {
                Value::String(source) => Some(source.clone()),
                Value::Array(all) => {
                    let default = all.iter().find(|one| one["name"] == "default");
                    default.and_then(|one| one["template"].as_str()).map(str::to_owned)
                }
                _ => None,
            },
        };
        let settings = settings.as_object().cloned().unwrap_or_default();
        let tokens = settings.into_iter().filter(|(name, _)| name.ends_with("_token"));
        // A token is a text, or an object with one.
        let text = |value: Value| value.get("content").cloned().unwrap_or(value);
        let tokens = tokens.map(|(name, value)| (name, text(value)));
        let tokens = tokens.filter(|(_, value)| value.is_string()).collect();
        Ok(source.map(|source| Self { source, tokens }))
    }

    /// The conversation as the model reads it, up to where it answers. Special tokens are part of the text.
    ///
    /// # Errors
    /// If the template is not valid, or refuses the messages.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, Error> {
        let mut environment = Environment::new();
        // As in transformers.
        let blocks = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(blocks.expect("the default with other spaces"));
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python_json);
        environment.add_function("raise_exception", |reason: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
        });
        environment.add_function("strftime_now", |format: String| {
            let (now, mut text) = (DateTime::<Utc>::from(SystemTime::now()), String::new());
            write!(text, "{}", now.format(&format)).map(|()| text).map_err(|_| {
                let reason = format!("\"{format}\" is no format of a time");
                minijinja::Error::new(ErrorKind::InvalidOperation, reason)
            })
        });
        let tokens = minijinja::Value::from(Serde(&self.tokens));
        let messages = minijinja::Value::from(Serde(messages));
        // Templates ask for what they are not given too.
        let none = ();
        let all = context! {
            messages, tools => none, documents => none, add_generation_prompt => true, ..tokens
        };
        // What the model says is marked by a block that transformers alone has.
        let source = GENERATION.replace_all(&self.source, "{%$1 if true $2%}");
        let source = END_GENERATION.replace_all(&source, "{%$1 endif $2%}");
        let rendered = environment.render_str(&source, all);
        rendered.map_err(|error| Error::Chat(format!("{error:#}")))
    }
}

/// `tojson` of transformers: as Python writes JSON, without the escapes for HTML.
fn python_json(value: minijinja::Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // What else transformers takes; letters stay as they are in any case.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = vec![b' '; indent];
            let format = PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut Serializer::with_formatter(&mut out, format))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    let written = written.map_err(|error| error.to_string());
    let text = written.and_then(|()| String::from_utf8(out).map_err(|error| error.to_string()));
    text.map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error))
}

/// A space after each comma and colon.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_array_value(out, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

impl ModelFolder {
    /// The folder's chat template.
    ///
    /// # Errors
    /// If it has none, or a file cannot be read.
    pub fn chat_template(&self) -> Result<ChatTemplate, Error> {
        let template = self.path().map_or(Ok(None), ChatTemplate::open)?;
        template.ok_or_else(|| {
            let reason = "the model has no chat template: it may not be made for conversations, so give a plain prompt";
            Error::Chat(reason.to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str) -> Result<String, Error> {
        let tokens = json!({ "bos_token": "<s>", "eos_token": "</s>" });
        let template = ChatTemplate::new(source, tokens.as_object().unwrap().clone());
        template.render(&[
            ChatMessage::new("system", " Be \"brief\" & <kind>. "),
            ChatMessage::new("user", "Hé\n"),
        ])
    }

    /// What is expected was rendered by `apply_chat_template` of transformers 5.24.
    #[test]
    fn templates_render_as_in_transformers() {
        for (source, expected) in [
            (
                "{{ bos_token }}{% for message in messages %}\n  {%- if loop.first %}!{% endif %}\n{{ message['role'] }}: {{ message.content | trim }}{{ eos_token }}\n{% endfor %}\n{% if add_generation_prompt %}\nassistant:{% endif %}",
                "<s>!system: Be \"brief\" & <kind>.</s>\nuser: Hé</s>\nassistant:",
            ),
            (
                "{%- set ns = namespace(count=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% set ns.count = ns.count + 1 %}{{ m.content.strip().upper() }}{% endfor %}{{ ns.count }}",
                "HÉ1",
            ),
            (
                "{{ messages | tojson }}",
                "[{\"role\": \"system\", \"content\": \" Be \\\"brief\\\" & <kind>. \"}, {\"role\": \"user\", \"content\": \"Hé\\n\"}]",
            ),
            (
                "{% for m in messages %}{%- generation -%} {{ m.role }} {%- endgeneration %}{% endfor %}",
                "systemuser",
            ),
            ("{{ messages[0].content.split(' ')[1:] | length }}{{ tools is defined }}", "5True"),
            (
                "{% macro say(m) %}[{{ m['role'][0] }}{{ m.get('name', '-') }}]{% endmacro %}{% for m in messages[::-1] %}{{ say(m) }}{% endfor %}",
                "[u-][s-]",
            ),
        ] {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
        assert_eq!(render("{{ strftime_now('%Y') | length }}").unwrap(), "4");
    }

    #[test]
    fn what_a_template_refuses_is_told() {
        let no_time = render("{{ strftime_now('%Q') }}").unwrap_err().to_string();
        assert!(no_time.contains("\"%Q\" is no format of a time"), "{no_time}");
        let refused = render("{{ raise_exception('No system role.') }}").unwrap_err().to_string();
        assert!(refused.contains("No system role."), "{refused}");
        assert!(render("{% for %}").unwrap_err().to_string().starts_with("chat template: "));
    }

    #[test]
    fn a_template_comes_from_either_file_and_there_may_be_none() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let open = || ChatTemplate::open(folder.path()).unwrap();
        assert!(open().is_none());
        let several = json!({
            "eos_token": { "content": "<end>" }, "add_bos_token": true,
            "chat_template": [{ "name": "tools", "template": "t" }, { "name": "default", "template": "d{{ eos_token }}" }],
        });
        write("tokenizer_config.json", &several.to_string());
        assert_eq!(open().unwrap().render(&[]).unwrap(), "d<end>");
        write("chat_template.jinja", "file{{ eos_token }}");
        assert_eq!(open().unwrap().render(&[]).unwrap(), "file<end>");
    }
}

//! Chat templates: messages in, prompt out, by the Jinja template that the model brings.
//!
//! Templates are the model's code. They are rendered in the runner of that model only, so one that never ends costs
//! that runner; the server merely checks their grammar.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub(crate) role: String,
    /// What was said.
    pub(crate) content: String,
}

/// The texts that stand for begin and end in this model's vocabulary.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks {
    /// Begin of sequence.
    pub(crate) bos: String,
    /// End of sequence.
    pub(crate) eos: String,
}

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    /// It is written for Ollama's own engine.
    #[error(
        "template: this is a Go template; this runtime reads Jinja chat templates, such as the one in the GGUF file"
    )]
    Go,
    /// It breaks the grammar of Jinja, or fails while it is rendered.
    #[error("template: {0}")]
    Jinja(#[from] Error),
}

/// True if the text is written for Go's template engine.
pub(crate) fn is_go(text: &str) -> bool {
    let inside = |part: &str| {
        let part = part.trim_start_matches('-').trim_start();
        ["range ", "end ", "end}", "end-", "define ", "template "].iter().any(|word| part.starts_with(word))
            || part
                .split("}}")
                .next()
                .is_some_and(|code| code.split_whitespace().any(|word| word.starts_with(['.', '$'])))
    };
    text.split("{{").skip(1).any(inside)
}

/// Checks a template without rendering it.
pub(crate) fn check(text: &str) -> Result<(), TemplateError> {
    if is_go(text) {
        return Err(TemplateError::Go);
    }
    environment()?.template_from_str(text)?;
    Ok(())
}

/// Renders a conversation, up to the place where the assistant speaks.
pub(crate) fn render(text: &str, messages: &[Message], marks: &Marks) -> Result<String, TemplateError> {
    let environment = environment()?;
    let template = environment.template_from_str(text)?;
    let message = |message: &Message| context! { role => message.role.as_str(), content => message.content.as_str() };
    Ok(template.render(context! {
        messages => messages.iter().map(message).collect::<Vec<_>>(),
        bos_token => marks.bos.as_str(),
        eos_token => marks.eos.as_str(),
        add_generation_prompt => true,
    })?)
}

/// What is sent to a model that has no template: its texts, one after the other.
pub(crate) fn plain(messages: &[Message]) -> String {
    messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n\n")
}

/// Jinja as chat templates expect it: lines that hold only a block leave no trace, strings have Python's methods.
fn environment<'a>() -> Result<Environment<'a>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, text))
    });
    environment.add_function("strftime_now", |format: String| {
        jiff::fmt::strtime::format(format, &jiff::Zoned::now())
            .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
    });
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> Vec<Message> {
        let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        vec![message("system", "Be brief."), message("user", " Hi ")]
    }

    #[test]
    fn chat_templates_are_rendered() {
        let check = |template: &str, expected: &str| {
            let marks = Marks { bos: "<s>".to_owned(), eos: "</s>".to_owned() };
            assert_eq!(render(template, &talk(), &marks).expect("renders"), expected);
        };
        check(
            "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
            "<s>[system]Be brief.[user] Hi ",
        );
        check("{%- for m in messages %}\n{{ m['content'].strip() | upper }}{% endfor %}", "BE BRIEF.HI");
        check("{% if add_generation_prompt %}go{% endif %}", "go");
        check("{% if messages[0].role == 'system' and messages[1:] | length == 1 %}yes{% endif %}", "yes");
    }

    #[test]
    fn a_template_may_refuse_a_conversation() {
        let error = render("{{ raise_exception('roles must alternate') }}", &talk(), &Marks::default());
        assert!(error.expect_err("refused").to_string().contains("roles must alternate"));
    }

    #[test]
    fn go_templates_are_told_from_jinja() {
        let check = |text: &str, go: bool| assert_eq!(is_go(text), go, "{text}");
        check("{{ .Prompt }}", true);
        check("{{- if .System }}{{ .System }}{{ end }}", true);
        check("{{ range $i, $m := .Messages }}{{ end }}", true);
        check("{% for m in messages %}{{ m.content }}{% endfor %}", false);
        check("{{ messages[0]['content'] }}", false);
        check("no code at all", false);
    }

    #[test]
    fn broken_templates_are_refused_by_the_check() {
        assert!(check("{% for m in messages %}").is_err());
        assert!(matches!(check("{{ .Prompt }}"), Err(TemplateError::Go)));
        assert!(check("{{ messages }}").is_ok());
    }
}

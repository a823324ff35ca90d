//! What is wrong with a file, and how a person is told.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// More than this are counted, not printed: a file that is no TOML at all has thousands.
const PRINTED: usize = 50;

/// All that is wrong with a file, in the order of the file. There is at least one error.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigErrors {
    file: String,
    text: String,
    findings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    /// Bytes of the text; None: the file as a whole.
    pub place: Option<Range<usize>>,
    pub message: String,
    pub help: String,
    pub kind: Kind,
    /// Another place that it collides with.
    pub other: Option<(Range<usize>, &'static str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The text is no TOML.
    Syntax,
    /// What is written is wrong by itself.
    Wrong,
    /// It is wrong because something else is missing; beside a syntax error it may only follow from that.
    Absent,
}

impl ConfigErrors {
    pub(super) fn new(file: &str, text: &str, findings: Vec<Finding>) -> ConfigErrors {
        let mut errors = ConfigErrors { file: file.into(), text: text.into(), findings };
        errors.leave_out_what_follows_from_syntax();
        errors.findings.sort_by_key(|finding| finding.place.as_ref().map_or(0, |place| place.start));
        errors
    }

    /// The file could not be read; `message` says why.
    pub(super) fn unreadable(message: String) -> ConfigErrors {
        let finding = Finding { place: None, message, help: String::new(), kind: Kind::Wrong, other: None };
        ConfigErrors { file: String::new(), text: String::new(), findings: vec![finding] }
    }

    /// At least one.
    pub fn count(&self) -> usize {
        self.findings.len()
    }

    /// All errors, an empty line between, with terminal colours if `styled`.
    pub fn render(&self, styled: bool) -> String {
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        let mut rendered: Vec<String> =
            self.findings.iter().take(PRINTED).map(|finding| self.render_one(finding, &renderer)).collect();
        if self.findings.len() > PRINTED {
            rendered.push(format!("... and {} more errors", self.findings.len() - PRINTED));
        }
        rendered.join("\n\n")
    }

    fn render_one(&self, finding: &Finding, renderer: &Renderer) -> String {
        let title = Level::ERROR.primary_title(finding.message.as_str());
        let mut report = match &finding.place {
            Some(place) => {
                let mut snippet = Snippet::source(self.text.as_str())
                    .path(self.file.as_str())
                    .annotation(AnnotationKind::Primary.span(self.on_one_line(place)));
                if let Some((other, label)) = &finding.other {
                    snippet = snippet.annotation(AnnotationKind::Context.span(self.on_one_line(other)).label(*label));
                }
                title.element(snippet)
            }
            None => annotate_snippets::Group::with_title(title),
        };
        if !finding.help.is_empty() {
            report = report.element(Level::HELP.message(finding.help.as_str()));
        }
        renderer.render(&[report])
    }

    /// The part of a place that lies on its first line, at least one character of it where there is one: a caret that
    /// runs over many lines shows nothing.
    fn on_one_line(&self, place: &Range<usize>) -> Range<usize> {
        let mut start = place.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let rest = &self.text[start..];
        let line = rest.find(['\n', '\r']).unwrap_or(rest.len());
        let first = rest.chars().next().filter(|_| line > 0).map_or(0, char::len_utf8);
        let mut length = place.end.saturating_sub(start).min(line).max(first);
        while !rest.is_char_boundary(length) {
            length += 1;
        }
        start..start + length
    }

    /// A line that is no TOML leaves a hole in the tree. What is wrong about the hole would be told twice.
    fn leave_out_what_follows_from_syntax(&mut self) {
        let line = |place: &Range<usize>| {
            self.text.as_bytes()[..place.start.min(self.text.len())].iter().filter(|b| **b == b'\n').count()
        };
        let is_syntax = |finding: &&Finding| finding.kind == Kind::Syntax;
        let broken: Vec<usize> =
            self.findings.iter().filter(is_syntax).filter_map(|finding| finding.place.as_ref().map(line)).collect();
        if !self.findings.iter().any(|finding| finding.kind == Kind::Syntax) {
            return;
        }
        let mut told = HashSet::new();
        let keep: Vec<bool> = self
            .findings
            .iter()
            .map(|finding| match (finding.kind, &finding.place) {
                (Kind::Absent, _) => false,
                (Kind::Wrong, Some(place)) => !broken.contains(&line(place)),
                (Kind::Wrong, None) => true,
                // The parser trips over the rest of a broken line again: its first word on it is the one that helps.
                (Kind::Syntax, Some(place)) => told.insert(line(place)),
                (Kind::Syntax, None) => true,
            })
            .collect();
        let mut keep = keep.into_iter();
        self.findings.retain(|_| keep.next().unwrap_or(true));
    }
}

/// As [`ConfigErrors::render`], without colours.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for ConfigErrors {}

//! What is wrong with a zone, and how a person is told: as [`crate::config::ConfigErrors`] does it.

use crate::dns::zone::build::{Fault, Place};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// More than this are counted, not printed.
const PRINTED: usize = 50;

/// A file that was read.
pub(super) struct File {
    pub path: PathBuf,
    pub text: Vec<u8>,
}

/// All that is wrong with a zone, in the order of its files. There is at least one error.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneErrors {
    findings: Vec<Finding>,
    /// All of them, those that are not printed too.
    count: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Finding {
    message: String,
    help: String,
    at: Option<Spot>,
    other: Option<(Spot, &'static str)>,
}

/// One line of a file, and what is meant of it. Zones are large: only the lines that are shown are kept.
#[derive(Clone, Debug, PartialEq)]
struct Spot {
    path: String,
    /// From 1.
    line: usize,
    text: String,
    /// Bytes of the line.
    span: Range<usize>,
}

impl Spot {
    fn new(files: &[File], place: Place) -> Spot {
        let file = &files[usize::from(place.file)];
        let at = (place.at as usize).min(file.text.len());
        let start = file.text[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let line = file.text[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
        let long =
            file.text[start..].iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(file.text.len() - start);
        let whole = &file.text[start..start + long];
        // What is no UTF-8 is shown by another character, which may be longer: the parts are changed one by one.
        let part = |range: Range<usize>| String::from_utf8_lossy(&whole[range]).into_owned();
        let from = (at - start).min(whole.len());
        let to = (from + (place.length as usize).max(1)).min(whole.len());
        let (before, marked, after) = (part(0..from), part(from..to), part(to..whole.len()));
        let span = before.len()..before.len() + marked.len();
        let path = file.path.display().to_string();
        Spot { path, line, text: format!("{before}{marked}{after}"), span }
    }

    fn snippet(
        &self,
        kind: AnnotationKind,
        label: Option<&'static str>,
    ) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
        let annotation = kind.span(self.span.clone());
        let annotation = match label {
            Some(label) => annotation.label(label),
            None => annotation,
        };
        Snippet::source(self.text.as_str()).path(self.path.as_str()).line_start(self.line).annotation(annotation)
    }
}

impl ZoneErrors {
    pub(super) fn new(files: &[File], mut faults: Vec<Fault>) -> ZoneErrors {
        faults.sort_by_key(|fault| fault.place.map(|place| (place.file, place.at)));
        let count = faults.len();
        let path = files.first().map(|file| file.path.display().to_string()).unwrap_or_default();
        let finding = |fault: Fault| Finding {
            message: if fault.place.is_some() { fault.message } else { format!("{path}: {}", fault.message) },
            help: fault.help,
            at: fault.place.map(|place| Spot::new(files, place)),
            other: fault.other.map(|(place, label)| (Spot::new(files, place), label)),
        };
        ZoneErrors { findings: faults.into_iter().take(PRINTED).map(finding).collect(), count }
    }

    /// The file could not be read; `why` says why.
    pub(super) fn unreadable(file: &Path, why: &str) -> ZoneErrors {
        let message = format!("cannot read the zone file {}: {why}", file.display());
        ZoneErrors { findings: vec![Finding { message, help: String::new(), at: None, other: None }], count: 1 }
    }

    /// At least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// All errors, an empty line between, with terminal colours if `styled`.
    pub fn render(&self, styled: bool) -> String {
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        let mut rendered: Vec<String> = self.findings.iter().map(|finding| finding.render(&renderer)).collect();
        if self.count > self.findings.len() {
            rendered.push(format!("... and {} more errors", self.count - self.findings.len()));
        }
        rendered.join("\n\n")
    }
}

impl Finding {
    fn render(&self, renderer: &Renderer) -> String {
        let title = Level::ERROR.primary_title(self.message.as_str());
        let mut report = match &self.at {
            Some(at) => title.element(at.snippet(AnnotationKind::Primary, None)),
            None => Group::with_title(title),
        };
        if let Some((other, label)) = &self.other {
            report = report.element(other.snippet(AnnotationKind::Context, Some(label)));
        }
        if !self.help.is_empty() {
            report = report.element(Level::HELP.message(self.help.as_str()));
        }
        renderer.render(&[report])
    }
}

/// As [`ZoneErrors::render`], without colours.
impl fmt::Display for ZoneErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for ZoneErrors {}

//! A zone file cut into entries and words (RFC 1035 5.1): lines, but for parentheses and quotes.

/// A word, as bytes of the file; the quotes around it do not belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub start: usize,
    pub end: usize,
    pub quoted: bool,
    /// It stands in parentheses.
    pub inside: bool,
}

impl Token {
    /// As written.
    pub fn of<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        &text[self.start..self.end]
    }

    pub fn text(&self, text: &[u8]) -> String {
        String::from_utf8_lossy(self.of(text)).into_owned()
    }
}

/// One record or directive; there is at least one word.
pub(super) struct Entry<'e> {
    /// It begins with space: it has no owner of its own.
    pub indented: bool,
    pub tokens: &'e [Token],
    /// Behind its last word, and the parenthesis behind that.
    pub end: usize,
}

pub(super) struct Entries<'t> {
    text: &'t [u8],
    at: usize,
    tokens: Vec<Token>,
}

impl<'t> Entries<'t> {
    pub fn new(text: &'t [u8]) -> Entries<'t> {
        let at = if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Entries { text, at, tokens: Vec::new() }
    }

    /// The next entry, or where there is none and why. None: the end of the file.
    pub fn next(&mut self) -> Option<Result<Entry<'_>, (Token, &'static str)>> {
        self.tokens.clear();
        let text = self.text;
        let mut indented = matches!(text.get(self.at), Some(b' ' | b'\t'));
        let mut open: Option<usize> = None;
        let mut end = self.at;
        let wrong = |start, end, what| Some(Err((Token { start, end, quoted: false, inside: false }, what)));
        loop {
            match text.get(self.at).copied() {
                None => match open {
                    Some(at) => return wrong(at, at + 1, "this parenthesis is never closed"),
                    None if self.tokens.is_empty() => return None,
                    None => break,
                },
                Some(b'\n') => {
                    self.at += 1;
                    if open.is_none() {
                        if !self.tokens.is_empty() {
                            break;
                        }
                        indented = matches!(text.get(self.at), Some(b' ' | b'\t'));
                    }
                }
                Some(b' ' | b'\t' | b'\r') => self.at += 1,
                Some(b';') => self.line_end(),
                Some(b'(') => {
                    if open.is_some() {
                        let at = self.at;
                        self.line_end();
                        return wrong(at, at + 1, "parentheses do not stand in each other");
                    }
                    open = Some(self.at);
                    self.at += 1;
                }
                Some(b')') => {
                    if open.take().is_none() {
                        let at = self.at;
                        self.line_end();
                        return wrong(at, at + 1, "nothing was opened that this parenthesis could close");
                    }
                    self.at += 1;
                    end = self.at;
                }
                Some(b'"') => {
                    let start = self.at + 1;
                    self.at = start;
                    while !matches!(text.get(self.at), None | Some(b'"' | b'\n')) {
                        self.at += if text[self.at] == b'\\' { 2 } else { 1 };
                    }
                    if text.get(self.at) != Some(&b'"') {
                        self.at = self.at.min(text.len());
                        return wrong(start - 1, start, "this quote is not closed on its line");
                    }
                    self.tokens.push(Token { start, end: self.at, quoted: true, inside: open.is_some() });
                    self.at += 1;
                    end = self.at;
                }
                Some(_) => {
                    let start = self.at;
                    while !matches!(
                        text.get(self.at),
                        None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' | b'"')
                    ) {
                        // What is escaped is part of the word, but for the line's end.
                        let escaped = text[self.at] == b'\\' && !matches!(text.get(self.at + 1), None | Some(b'\n'));
                        self.at += if escaped { 2 } else { 1 };
                    }
                    self.tokens.push(Token { start, end: self.at, quoted: false, inside: open.is_some() });
                    end = self.at;
                }
            }
        }
        Some(Ok(Entry { indented, tokens: &self.tokens, end }))
    }

    fn line_end(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
}

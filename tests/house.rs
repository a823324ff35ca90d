//! The house's laws, run on the source: who may import whom, where `unsafe` may stand, how long a file may grow.
//! Each law tells every place that breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file, test code at its end not counted.
const CODE_LINES: usize = 600;
/// Lines of a file of tests.
const TEST_LINES: usize = 800;
/// rustfmt sees to 120, but does not wrap comments.
const WIDTH: usize = 140;

/// One source file.
struct Source {
    /// From the repository's root.
    path: String,
    text: String,
    /// Comments and the contents of literals are blank, line by line as long as `text`.
    code: String,
    /// As `code`, and test code is blank too. Empty for a file of tests.
    product: String,
}

impl Source {
    /// The file's top-level module: `src/flow/table.rs` is in `flow`.
    fn room(&self) -> &str {
        let path = self.path.strip_prefix("src/").unwrap();
        path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    fn is_test(&self) -> bool {
        self.product.is_empty()
    }

    /// Numbered from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        let lines = self.text.lines().zip(self.code.lines()).enumerate();
        lines.map(|(at, (text, code))| (at + 1, text, code))
    }

    fn at(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files under a directory.
fn files(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(directory)];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources(directory: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut tests = BTreeSet::new();
    for path in files(directory) {
        let text = fs::read_to_string(&path).unwrap();
        let code = without_words(&text);
        let (product, modules) = without_tests(&text, &code);
        let beside = path.parent().unwrap();
        let below = match path.file_name().unwrap().to_str().unwrap() {
            "lib.rs" | "main.rs" | "mod.rs" => beside.to_owned(),
            _ => path.with_extension(""),
        };
        tests.extend(modules.into_iter().map(|module| match module.strip_suffix(".rs") {
            Some(path) => beside.join(path),
            None => below.join(module),
        }));
        let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        sources.push(Source { path, text, code, product });
    }
    for source in &mut sources {
        let module = root().join(&source.path).with_extension("");
        if directory != "src" || module.ancestors().any(|module| tests.contains(module)) {
            source.product.clear();
        }
    }
    sources
}

/// All Rust in the repository.
fn everything() -> Vec<Source> {
    ["src", "tests", "netns-tests", "perf", "examples"].into_iter().flat_map(sources).collect()
}

/// Blanks comments and what stands in string and character literals.
fn without_words(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let bytes = text.as_bytes();
    let mut blank = |from: usize, to: usize| out[from..to].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
    let find = |from: usize, what: &str| text[from..].find(what).map_or(text.len(), |at| from + at);
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let raw = rest.strip_prefix(b"r").filter(|_| at == 0 || !is_word(bytes[at - 1]) || bytes[at - 1] == b'b');
        let hashes = raw.map_or(0, |raw| raw.iter().take_while(|b| **b == b'#').count());
        let end = if rest.starts_with(b"//") {
            find(at, "\n")
        } else if rest.starts_with(b"/*") {
            find(at, "*/")
        } else if raw.is_some_and(|raw| raw.get(hashes) == Some(&b'"')) {
            find(at + hashes + 2, &format!("\"{}", "#".repeat(hashes)))
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        } else if rest[0] == b'\'' && rest.get(1) == Some(&b'\\') {
            find(at + 3, "'") + 1
        } else if rest[0] == b'\'' {
            // A character, or else a lifetime.
            let character = text[at + 1..].chars().next().map_or(0, char::len_utf8);
            if bytes.get(at + 1 + character) == Some(&b'\'') { at + character + 2 } else { at }
        } else {
            at
        };
        blank(at, end.min(bytes.len()));
        at = end.max(at + 1);
    }
    String::from_utf8(out).unwrap()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Blanks what is compiled for tests only; gives the names (or the `#[path]`) of modules in other files that are.
fn without_tests(text: &str, code: &str) -> (String, Vec<String>) {
    let mut out = code.as_bytes().to_vec();
    let mut modules = Vec::new();
    for (at, attribute) in code.match_indices("#[cfg(") {
        let line = code[at..].lines().next().unwrap();
        if !words(line).any(|word| word == "test") || line.contains("not(test") {
            continue;
        }
        let item = at + code[at..].find(']').unwrap_or(attribute.len()) + 1;
        let open = item + code[item..].find(['{', ';']).unwrap();
        let mut end = open;
        if code.as_bytes()[open] == b';' {
            let path = code[item..open].contains("#[path").then(|| text[item..open].split('"').nth(1)).flatten();
            let name = words(&code[item..open]).skip_while(|word| *word != "mod").nth(1);
            modules.extend(path.or(name).map(str::to_owned));
        } else {
            let mut depth = 0;
            for (i, byte) in code.bytes().enumerate().skip(open) {
                depth += i32::from(byte == b'{') - i32::from(byte == b'}');
                if depth == 0 {
                    end = i;
                    break;
                }
            }
        }
        out[at..=end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
    }
    (String::from_utf8(out).unwrap(), modules)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The rooms that a file names: behind `crate::` (`farside::` in `main.rs`), or behind as many `super::` as lead out.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let code = &source.product;
    let mut found = Vec::new();
    let (root, depth) = match source.path.as_str() {
        "src/main.rs" => ("farside::", usize::MAX),
        path => ("crate::", path.matches('/').count()),
    };
    let mut roots: Vec<(usize, usize)> = code.match_indices(root).map(|(at, root)| (at, at + root.len())).collect();
    let supers = "super::".repeat(depth.min(8));
    roots.extend(code.match_indices(&supers).map(|(at, supers)| (at, at + supers.len())));
    for (at, end) in roots {
        if at > 0 && (is_word(code.as_bytes()[at - 1]) || code.as_bytes()[at - 1] == b':') {
            continue;
        }
        let line = line_of(code, at);
        let Some(group) = code[end..].strip_prefix('{') else {
            found.extend(words(&code[end..]).next().map(|room| (line, room.to_owned())));
            continue;
        };
        // The first word of each part of `{a::b, c::{d, e}}`.
        let (mut depth, mut fresh) = (1, true);
        for (i, c) in group.char_indices() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            match c {
                _ if depth == 0 => break,
                ',' if depth == 1 => fresh = true,
                _ if fresh && (c.is_alphanumeric() || c == '_') => {
                    found.extend(words(&group[i..]).next().map(|room| (line, room.to_owned())));
                    fresh = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// The rooms by the map at the head of `src/lib.rs`: floor, and the room of the same floor that it stands on.
fn floors() -> BTreeMap<String, (u32, Option<String>)> {
    let map = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | "));
    rows.filter_map(|row| {
        let mut cells = row.split(" | ");
        let floor = cells.next()?.parse().ok()?;
        let mut rooms = words(cells.next()?).filter(|word| *word != "on").map(str::to_owned);
        Some((rooms.next()?, (floor, rooms.next())))
    })
    .collect()
}

fn told(broken: Vec<String>) {
    assert!(broken.is_empty(), "{} places:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn every_room_is_on_the_map() {
    let floors = floors();
    let rooms: BTreeSet<String> = sources("src")
        .iter()
        .filter(|source| !source.is_test() && source.path != "src/lib.rs")
        .map(|source| source.room().to_owned())
        .collect();
    assert_eq!(rooms, floors.keys().cloned().collect());
}

#[test]
fn imports_go_down() {
    let floors = floors();
    let mut broken = Vec::new();
    let mut seen = 0;
    for source in sources("src").iter().filter(|source| !source.is_test() && source.path != "src/lib.rs") {
        let room = source.room();
        let (floor, beside) = &floors[room];
        for (line, other) in imports(source) {
            seen += 1;
            match floors.get(&other) {
                _ if other == room => {}
                Some((below, _)) if below < floor || beside.as_ref() == Some(&other) => {}
                Some((above, _)) => {
                    broken.push(source.at(line, format!("{room} (floor {floor}) names {other} (floor {above})")));
                }
                None => broken.push(source.at(line, format!("{other} is no room on the map"))),
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were found: this test does not read the code right");
    told(broken);
}

#[test]
fn unsafe_has_one_room_and_says_who_upholds_it() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for source in sources("src") {
        let lines: Vec<(usize, &str, &str)> = source.lines().collect();
        for (index, (line, text, code)) in lines.iter().enumerate() {
            if !words(code).any(|word| word == "unsafe") {
                continue;
            }
            seen += 1;
            if source.room() != "sys" {
                broken.push(source.at(*line, "unsafe belongs to src/sys"));
            }
            // The comment stands above the statement, which may have begun some lines earlier.
            let above = lines[..index].iter().rev().map(|(_, text, _)| text.trim());
            let comment: Vec<&str> = above
                .skip_while(|text| !text.starts_with("//") && !text.is_empty() && !text.ends_with([';', '{', '}']))
                .take_while(|text| text.starts_with("//"))
                .collect();
            if !comment.iter().any(|text| text.contains("SAFETY:") || text.contains("# Safety")) {
                broken.push(source.at(*line, format!("no SAFETY line above `{}`", text.trim())));
            }
        }
    }
    assert!(seen > 10, "only {seen} were found: this test does not read the code right");
    told(broken);
}

#[test]
fn files_stay_small() {
    let mut broken = Vec::new();
    for source in everything() {
        // Test code is blank in `product`, but for its line breaks; it stands at the end.
        let (lines, most) = if source.is_test() {
            (source.text.lines().count(), TEST_LINES)
        } else {
            (source.product.trim_end().lines().count(), CODE_LINES)
        };
        if lines > most {
            broken.push(format!("{}: {lines} lines; {most} are the most", source.path));
        }
    }
    told(broken);
}

#[test]
fn lines_stay_narrow() {
    let mut broken = Vec::new();
    for source in everything() {
        // Tests quote shell commands and messages as they are.
        let product = source.lines().filter(|_| !source.is_test());
        for (line, text, _) in product {
            let table = text.starts_with("//! |");
            if text.chars().count() > WIDTH && !table {
                broken.push(source.at(line, format!("{} columns; {WIDTH} are the most", text.chars().count())));
            }
        }
    }
    told(broken);
}

#[test]
fn nothing_is_left_undone() {
    let mut broken = Vec::new();
    for source in everything() {
        for (line, text, code) in source.lines() {
            let left = ["todo!", "unimplemented!", "dbg!"].into_iter().find(|word| code.contains(word));
            broken.extend(left.map(|word| source.at(line, word)));
            if code.contains("#[ignore]") {
                broken.push(source.at(line, format!("`{}` without a reason", text.trim())));
            }
        }
    }
    told(broken);
}

/// The names in an enum of `counters`, and whether each has a word of documentation.
fn reasons(of: &str) -> Vec<(String, bool)> {
    let text = fs::read_to_string(root().join("src/counters.rs")).unwrap();
    let body = text.split(&format!("\n    {of} \"")).nth(1).unwrap().split("\n    }").next().unwrap();
    let mut documented = false;
    let mut found = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some((name, _)) = line.split_once(" = ") {
            found.push((name.to_owned(), documented));
        }
        documented = line.starts_with("///");
    }
    found
}

#[test]
fn every_drop_reason_is_documented_and_given() {
    let reasons = reasons("Refusal");
    assert!(reasons.len() > 20, "only {} were found: this test does not read the code right", reasons.len());
    let sources = sources("src");
    let given = |name: &str| {
        let named = format!("Refusal::{name}");
        let uses = |source: &&Source| source.path != "src/counters.rs" && source.product.contains(&named);
        sources.iter().find(uses).is_some()
    };
    let mut broken = Vec::new();
    for (name, documented) in reasons {
        if !documented {
            broken.push(format!("{name} lacks documentation"));
        }
        if !given(&name) {
            broken.push(format!("{name} is given by nobody"));
        }
    }
    told(broken);
}

#[test]
fn one_spelling_in_names() {
    let mut broken = Vec::new();
    for source in everything() {
        for (line, _, code) in source.lines() {
            let words: Vec<&str> = words(code).collect();
            for pair in words.windows(2) {
                let defines = ["fn", "struct", "enum", "trait", "type", "mod", "const", "static", "let"];
                if defines.contains(&pair[0]) && pair[1].to_lowercase().contains("neighbour") {
                    broken.push(source.at(line, format!("{}: in names it is neighbor", pair[1])));
                }
            }
        }
    }
    told(broken);
}

#[test]
fn the_reader_reads_rust() {
    let code = "let a = \"crate::x // \\\"\"; // crate::y\nlet b = r#\"crate::z\"#; let c = '\"'; fn d<'a>() {} '\\'';";
    let read = without_words(code);
    assert!(!read.contains("crate") && read.contains("fn d<'a>() {}"), "{read}");
    assert_eq!(read.len(), code.len());
    let code = "use a;\n#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n#[cfg(test)]\nmod lab;\nuse b;\n";
    let (read, modules) = without_tests(code, code);
    assert_eq!(words(&read).collect::<Vec<_>>(), ["use", "a", "use", "b"]);
    assert_eq!(modules, ["lab"]);
    let code = "use crate::{a::b, c::{d, e}};\nfn f() { crate::g::h() + super::super::i::j() + super::k() }\n";
    let source = Source { path: "src/x/y.rs".into(), text: code.into(), code: code.into(), product: code.into() };
    let named: Vec<String> = imports(&source).into_iter().map(|(_, room)| room).collect();
    assert_eq!(named, ["a", "c", "g", "i"]);
}

//! What a source file says, as far as the rules ask: its paths and its code, apart from what it merely mentions.

use std::path::Path;

/// The line, from 1, and what stands there.
pub(crate) type Finding = (usize, String);

pub(crate) struct File {
    /// From the top of the repository, with `/`.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) text: String,
    /// The text with comments and literals blanked, line for line.
    pub(crate) code: String,
    /// The code with unit tests blanked, line for line.
    pub(crate) shipped: String,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = without_mentions(text);
        Self { path: path.into(), text: text.into(), shipped: without_tests(&code), code }
    }

    pub(crate) fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }

    /// Whether it is the module `module` (`src/demo`: a file, or anything in a folder) or within it.
    pub(crate) fn is_in(&self, module: &str) -> bool {
        Path::new(&self.path).with_extension("").starts_with(module)
    }

    /// Whether it is part of the engine or the service, rather than of their tests and benches.
    pub(crate) fn ships(&self) -> bool {
        self.is_in("actors/src") || self.is_in("src")
    }

    /// Where the code names something of these crates.
    pub(crate) fn names(&self, crates: &[&str]) -> Vec<Finding> {
        self.paths_where(|path| crates.contains(&path[0]))
    }

    pub(crate) fn paths_where(&self, found: impl Fn(&[&str]) -> bool) -> Vec<Finding> {
        let paths = paths(&self.code).into_iter().filter(|(_, path)| found(path));
        paths.map(|(line, path)| (line, path.join("::"))).collect()
    }
}

/// The lines on which one of the words stands.
pub(crate) fn lines_with(words: &[&str], code: &str) -> Vec<Finding> {
    let lines = code.lines().zip(1..).filter(|(line, _)| words.iter().any(|word| line.contains(word)));
    lines.map(|(line, number)| (number, line.trim().to_owned())).collect()
}

/// Every path of the code with its line; `a::{b, c::d}` is two, `a::b` and `a::c::d`. A lone word is a path too.
pub(crate) fn paths(code: &str) -> Vec<(usize, Vec<&str>)> {
    let (tokens, mut at, mut found) = (tokens(code), 0, Vec::new());
    while let Some((_, token)) = tokens.get(at) {
        if token.starts_with(is_of_a_word) {
            read_path(&tokens, &mut at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

fn read_path<'c>(
    tokens: &[(usize, &'c str)],
    at: &mut usize,
    prefix: &[&'c str],
    found: &mut Vec<(usize, Vec<&'c str>)>,
) {
    let mut path = prefix.to_vec();
    while let Some(&(line, token)) = tokens.get(*at) {
        *at += 1;
        if token == "{" {
            while let Some((_, token)) = tokens.get(*at).filter(|(_, token)| *token != "}") {
                match *token {
                    "," => *at += 1,
                    "as" => *at += 2,
                    _ => read_path(tokens, at, &path, found),
                }
            }
            *at += 1;
            return;
        }
        path.push(token);
        if tokens.get(*at).is_none_or(|(_, next)| *next != "::") {
            return found.push((line, path));
        }
        *at += 1;
    }
}

/// Words, `::`, and every other character by itself, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (mut rest, number) in code.lines().zip(1..) {
        while let Some(first) = rest.chars().next() {
            let length = match rest.find(|c| !is_of_a_word(c)).unwrap_or(rest.len()) {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                word => word,
            };
            if !first.is_whitespace() {
                tokens.push((number, &rest[..length]));
            }
            rest = &rest[length..];
        }
    }
    tokens
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn without_mentions(text: &str) -> String {
    let (mut code, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(first) = rest.chars().next() {
        let length = match mention(rest) {
            0 => {
                code.push(first);
                first.len_utf8()
            }
            length => {
                code.extend(blank(&rest[..length]));
                length
            }
        };
        rest = &rest[length..];
    }
    code
}

/// The length of the comment or literal that the text begins with, or 0.
fn mention(text: &str) -> usize {
    let to = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    let raw = text.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
    let mut chars = text.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('/'), Some('/'), _) => text.find('\n').unwrap_or(text.len()),
        (Some('/'), Some('*'), _) => to("*/", 2),
        (Some('r'), ..) if raw.is_some_and(|hashes| text[1 + hashes..].starts_with('"')) => {
            let hashes = raw.unwrap_or_default();
            to(&format!("\"{}", "#".repeat(hashes)), hashes + 2)
        }
        (Some('"'), ..) => string(text),
        (Some('\''), Some('\\'), Some(escape)) => to("'", 2 + escape.len_utf8()),
        (Some('\''), Some(c), Some('\'')) => c.len_utf8() + 2,
        _ => 0,
    }
}

fn string(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return at + 1,
            '\\' => _ = chars.next(),
            _ => {}
        }
    }
    text.len()
}

/// Blanks every `#[cfg(test)]` with the item under it.
fn without_tests(code: &str) -> String {
    let Some(start) = code.find("#[cfg(test)]") else { return code.to_owned() };
    let mut depth = 0;
    let item = code[start..].find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0 && matches!(c, ';' | '}')
    });
    let end = item.map_or(code.len(), |at| start + at + 1);
    let blanked: String = blank(&code[start..end]).collect();
    format!("{}{blanked}{}", &code[..start], without_tests(&code[end..]))
}

fn blank(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|c| if c == '\n' { c } else { ' ' })
}

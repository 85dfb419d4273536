//! What a source file names: every path in it, in `use` trees and in code, resolved to the crate's
//! root or to another crate.
//!
//! Scopes are not distinguished: an alias counts in its whole file. That can only see too much,
//! never too little.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What a source file names.
pub(crate) struct Names {
    /// Each path, beginning with `crate` or the name of another crate (or with a local name), and
    /// whether it stands in test code.
    pub(crate) paths: Vec<(Vec<String>, bool)>,
    /// Each `x.refund(something)` and `<X>::refund`, and whether it stands in test code.
    pub(crate) refund_calls: Vec<bool>,
    /// Whether anything is awaited.
    pub(crate) awaits: bool,
}

/// This package, as its binary names it.
const OWN_NAME: &str = "recoup";

/// Words before `::` that are not the beginning of the path.
const BEFORE_A_PATH: [&str; 17] = [
    "as", "break", "const", "dyn", "else", "for", "if", "impl", "in", "let", "match", "move", "mut", "ref", "return",
    "unsafe", "where",
];

/// An alias of an alias of ...: deeper than anybody reads.
const ALIASES: usize = 8;

impl Names {
    /// Reads a file that is the module `module`.
    pub(crate) fn of(source: &str, module: &[String]) -> Result<Names, String> {
        let tokens: TokenStream = source.parse().map_err(|error| format!("cannot be read: {error}"))?;
        let mut found = Found::default();
        let inside = Inside { module: module.to_vec(), in_test: false };
        found.walk(tokens, &inside);
        let resolved = found.mentions.iter().flat_map(|mention| {
            let paths = found.resolved(&mention.path, &mention.module, ALIASES);
            paths.into_iter().map(|path| (path, mention.in_test))
        });
        Ok(Names { paths: resolved.collect(), refund_calls: found.refund_calls.clone(), awaits: found.awaits })
    }
}

/// What the walk has found so far, as written.
#[derive(Default)]
struct Found {
    mentions: Vec<Mention>,
    /// What a `use` brings, by the name that it brings it under.
    aliases: BTreeMap<String, Vec<Used>>,
    refund_calls: Vec<bool>,
    awaits: bool,
}

struct Mention {
    path: Vec<String>,
    module: Vec<String>,
    in_test: bool,
}

struct Used {
    path: Vec<String>,
    module: Vec<String>,
}

/// Where the walk is.
#[derive(Clone)]
struct Inside {
    module: Vec<String>,
    in_test: bool,
}

impl Found {
    fn walk(&mut self, tokens: TokenStream, inside: &Inside) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut test_ahead = false;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(word) if word == "use" && !is_punct(tokens.get(at + 1), '<') => {
                    let end = (at..tokens.len()).find(|end| is_punct(tokens.get(*end), ';')).unwrap_or(tokens.len());
                    self.use_tree(&tokens[at + 1..end], &[], inside, test_ahead);
                    (at, test_ahead) = (end + 1, false);
                    continue;
                }
                TokenTree::Ident(word) if word == "extern" && is_word(tokens.get(at + 1), "crate") => {
                    let end = (at..tokens.len()).find(|end| is_punct(tokens.get(*end), ';')).unwrap_or(tokens.len());
                    self.use_tree(&tokens[at + 2..end], &[], inside, test_ahead);
                    at = end + 1;
                    continue;
                }
                TokenTree::Ident(word) if word == "await" => self.awaits = true,
                TokenTree::Ident(_) => {
                    at = self.path(&tokens, at, inside);
                    continue;
                }
                TokenTree::Punct(_) if is_path_separator(&tokens, at) => {
                    let goes_on = at > 0 && (is_punct(tokens.get(at - 1), '>') || is_name(tokens.get(at - 1)));
                    if goes_on {
                        self.refund(&tokens, at + 2, inside);
                        at += if matches!(tokens.get(at + 2), Some(TokenTree::Ident(_))) { 3 } else { 2 };
                    } else {
                        at += 2;
                    }
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => test_ahead = false,
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    test_ahead |= is_test_attribute(tokens.get(at + 1));
                }
                TokenTree::Group(group) => {
                    let mut inner = inside.clone();
                    inner.in_test |= test_ahead;
                    let is_body = group.delimiter() == Delimiter::Brace;
                    if is_body && at >= 2 && is_word(tokens.get(at - 2), "mod") {
                        inner.module.extend(tokens.get(at - 1).map(ToString::to_string));
                    }
                    self.walk(group.stream(), &inner);
                    test_ahead &= !is_body;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            at += 1;
        }
    }

    /// Takes the path that begins at a name, and says where it ends.
    fn path(&mut self, tokens: &[TokenTree], start: usize, inside: &Inside) -> usize {
        let mut path = vec![word(&tokens[start])];
        let mut at = start + 1;
        while is_path_separator(tokens, at)
            && let Some(segment @ TokenTree::Ident(_)) = tokens.get(at + 2)
        {
            path.push(word(segment));
            at += 3;
        }
        self.refund(tokens, at - 1, inside);
        if path.len() > 1 {
            self.mentions.push(Mention { path, module: inside.module.clone(), in_test: inside.in_test });
        }
        at
    }

    /// Notes `x.refund(something)` and `<X>::refund`; `X::refund` is a path, and found as one.
    fn refund(&mut self, tokens: &[TokenTree], at: usize, inside: &Inside) {
        let takes_something = matches!(
            tokens.get(at + 1),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis && !group.stream().is_empty()
        );
        let of_a_value = at >= 1 && is_punct(tokens.get(at - 1), '.') && takes_something;
        let of_a_type = at >= 3 && is_path_separator(tokens, at - 2) && is_punct(tokens.get(at - 3), '>');
        if is_word(tokens.get(at), "refund") && (of_a_value || of_a_type) {
            self.refund_calls.push(inside.in_test);
        }
    }

    fn use_tree(&mut self, tokens: &[TokenTree], prefix: &[String], inside: &Inside, test_ahead: bool) {
        let mut path = prefix.to_vec();
        let mut alias = None;
        let mut rest = tokens.iter();
        while let Some(token) = rest.next() {
            match token {
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for branch in inner.split(|token| is_punct(Some(token), ',')).filter(|branch| !branch.is_empty()) {
                        self.use_tree(branch, &path, inside, test_ahead);
                    }
                    return;
                }
                TokenTree::Ident(name) if name == "as" => alias = rest.next().map(word),
                TokenTree::Ident(name) if name == "self" && !path.is_empty() => {}
                TokenTree::Ident(_) => path.push(word(token)),
                TokenTree::Punct(punct) if punct.as_char() == '*' => path.push("*".to_owned()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        if let Some(name) = alias.or_else(|| path.last().cloned()) {
            self.aliases.entry(name).or_default().push(Used { path: path.clone(), module: inside.module.clone() });
        }
        self.mentions.push(Mention { path, module: inside.module.clone(), in_test: inside.in_test || test_ahead });
    }

    /// All that a path may mean.
    fn resolved(&self, path: &[String], module: &[String], depth: usize) -> Vec<Vec<String>> {
        let Some((head, rest)) = path.split_first() else { return Vec::new() };
        let from_root = |module: &[String], rest: &[String]| {
            let root = std::iter::once("crate".to_owned());
            vec![root.chain(module.iter().cloned()).chain(rest.iter().cloned()).collect()]
        };
        match head.as_str() {
            "crate" => return vec![path.to_vec()],
            OWN_NAME if module.first().is_some_and(|module| module == "main") => return from_root(&[], rest),
            "self" => return from_root(module, rest),
            "super" => {
                let above =
                    module.len() - rest.iter().take_while(|segment| *segment == "super").count().min(module.len());
                let above = &module[..above.saturating_sub(1)];
                let rest: Vec<String> = rest.iter().skip_while(|segment| *segment == "super").cloned().collect();
                return from_root(above, &rest);
            }
            _ => {}
        }
        let meant =
            self.aliases.get(head).into_iter().flatten().filter(|used| used.path.first() != Some(head) && depth > 0);
        let mut all: Vec<Vec<String>> = meant
            .flat_map(|used| {
                let whole: Vec<String> = used.path.iter().chain(rest).cloned().collect();
                self.resolved(&whole, &used.module, depth - 1)
            })
            .collect();
        if all.is_empty() {
            all.push(path.to_vec());
        }
        all
    }
}

fn word(token: &TokenTree) -> String {
    let word = token.to_string();
    word.strip_prefix("r#").map(str::to_owned).unwrap_or(word)
}

fn is_word(token: Option<&TokenTree>, expected: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(word)) if word == expected)
}

/// A name that a path can go on from.
fn is_name(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Ident(word)) if !BEFORE_A_PATH.iter().any(|keyword| word == keyword))
}

fn is_punct(token: Option<&TokenTree>, expected: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == expected)
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    let joint = matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':' && punct.spacing() == proc_macro2::Spacing::Joint);
    joint && is_punct(tokens.get(at + 1), ':')
}

/// `#[cfg(test)]`, `#[test]`, `#[tokio::test]`, `#[rstest]`.
fn is_test_attribute(token: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(group)) = token else { return false };
    let text = group.stream().to_string().replace(' ', "");
    text == "test"
        || text.starts_with("tokio::test")
        || text == "rstest"
        || text.starts_with("cfg(test")
        || text.starts_with("cfg(all(test")
}

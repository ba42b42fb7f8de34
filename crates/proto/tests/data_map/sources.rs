//! What the sources do: names of Redis keys, and of the fields of logs and spans. Read as tokens; tests are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// Macros of `tracing` that take fields.
const LOGGING: &[&str] = &[
    "trace",
    "debug",
    "info",
    "warn",
    "error",
    "event",
    "span",
    "trace_span",
    "debug_span",
    "info_span",
    "warn_span",
    "error_span",
];

/// Where the connector makes keys of a scope and a name.
const SCOPED: &[&str] = &["crates/carrier-connector/src/adapters/ledger", "crates/core/src/cancel.rs"];

/// Every field that a log line or a span of ours may have.
pub(crate) fn log_fields(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files(&root.join("crates")) {
        log_fields_of(&file, tokens(&file), &mut found);
    }
    found
}

fn log_fields_of(file: &Path, stream: TokenStream, found: &mut BTreeSet<String>) {
    walk(stream, &mut |before, tree, after| {
        if let (TokenTree::Ident(name), [TokenTree::Punct(mark), TokenTree::Group(group), ..]) = (tree, after)
            && mark.as_char() == '!'
            && LOGGING.contains(&name.to_string().as_str())
        {
            found.extend(fields(group));
        }
        let attribute = is(tree, '#').then_some(after.first()).flatten();
        assert!(
            !attribute.is_some_and(|attribute| {
                attribute.to_string().split(['(', '=']).next().is_some_and(|name| name.contains("instrument"))
            }),
            "{}: fields of #[instrument] are not understood here: use a span",
            file.display()
        );
        if let (TokenTree::Ident(name), Some(TokenTree::Group(group)), [.., dot]) =
            (tree, after.first(), before)
            && name == "record"
            && is(dot, '.')
        {
            found.extend(literal(group.stream().into_iter().next().as_ref()));
        }
        // Attributes of the process in traces.
        if let (TokenTree::Ident(name), Some(TokenTree::Group(group))) = (tree, after.first())
            && name == "new"
            && before.iter().any(|tree| tree.to_string() == "KeyValue")
        {
            found.extend(literal(group.stream().into_iter().next().as_ref()));
        }
    });
}

/// The names of the fields of one logging macro.
fn fields(group: &Group) -> Vec<String> {
    let mut found = Vec::new();
    let trees: Vec<_> = group.stream().into_iter().collect();
    for part in trees.split(|tree| is(tree, ',')) {
        let skipped = part.iter().take_while(|tree| is(tree, '%') || is(tree, '?')).count();
        let part = &part[skipped..];
        // The sentence, a level, or `target:`, `parent:`, `name:`.
        let option =
            matches!(part, [TokenTree::Ident(_), colon, next, ..] if is(colon, ':') && !is(next, ':'));
        let constant = part.iter().any(|tree| tree.to_string() == "Level");
        let path =
            part.iter().take_while(|tree| matches!(tree, TokenTree::Ident(_)) || is(tree, '.')).count();
        if path == 0 || option || constant {
            continue;
        }
        found.push(part[..path].iter().map(ToString::to_string).collect());
    }
    found
}

/// The headers that we give to records: the constants of the two files that name them.
pub(crate) fn headers(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in ["publish/store.rs", "trace.rs"] {
        walk(tokens(&root.join("crates/bus/src").join(file)), &mut |before, tree, _| {
            let constant = matches!(before, [.., reference, text, equals]
                if is(reference, '&') && text.to_string() == "str" && is(equals, '='));
            found.extend(literal(constant.then_some(tree)));
        });
    }
    found
}

/// The folders of a cell.
const FOLDERS: &[&str] = &[
    "audit", "ca", "clients", "config", "data", "identity", "keystore", "logs", "nats", "operator", "redis",
    "run", "secrets", "tls",
];

/// Every path in a cell's folder that the tool names: it makes the cell, and tells the services where their files are.
pub(crate) fn cell_files(root: &Path) -> BTreeSet<String> {
    let (mut found, mut constants, mut used) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    let cli = root.join("crates/cli/src");
    for file in files(&root.join("crates")).iter().filter(|file| file.starts_with(&cli)) {
        // What is measured runs in a cell of its own, which is gone afterwards.
        if file.starts_with(cli.join("bench")) {
            continue;
        }
        walk(tokens(file), &mut |before, tree, after| {
            if let (TokenTree::Ident(name), Some(TokenTree::Group(group))) = (tree, after.first())
                && name == "path"
            {
                let trees: Vec<_> = group.stream().into_iter().collect();
                if let [only] = trees.as_slice() {
                    found.extend(literal(Some(only)).filter(|text| text.contains(['.', '-'])));
                }
                let constant = trees.iter().all(|tree| matches!(tree, TokenTree::Ident(_)) || is(tree, ':'));
                used.extend(trees.last().filter(|_| constant).map(ToString::to_string));
            }
            let Some(text) = literal(Some(tree)) else { return };
            // `const NAME: &str = "…"`
            if let [.., word, name, _, _, text_type, _] = before
                && word.to_string() == "const"
                && text_type.to_string() == "str"
            {
                constants.insert(name.to_string(), text.clone());
            }
            let parts = text.split_once('/');
            let path = parts.is_some_and(|(folder, rest)| FOLDERS.contains(&folder) && !rest.is_empty());
            let plain = |letter: char| letter.is_ascii_lowercase() || "0123456789{}/._-".contains(letter);
            if path && text.chars().all(plain) {
                found.insert(text);
            }
        });
    }
    found.extend(constants.into_iter().filter(|(name, _)| used.contains(name)).map(|(_, text)| text));
    found
}

/// Whether a name of the map means a path of the code. `<…>` is any part of a path; what ends in / all that is under it.
pub(crate) fn means(name: &str, path: &str) -> bool {
    if let Some(folder) = name.strip_suffix('/') {
        return path == folder || path.starts_with(name) || fits(&blank(folder), path);
    }
    fits(&blank(name), path)
}

fn fits(pattern: &str, path: &str) -> bool {
    let (mut parts, mut of) = (pattern.split('/'), path.split('/'));
    loop {
        match (parts.next(), of.next()) {
            (None, None) => return true,
            (Some(part), Some(of)) => {
                let pieces: Vec<_> = part.split("<>").collect();
                let (first, last) = (pieces[0], pieces[pieces.len() - 1]);
                let variable = pieces.len() > 1 && of.len() > first.len() + last.len();
                if !(part == of || variable && of.starts_with(first) && of.ends_with(last)) {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

/// Every pattern of a Redis key, its variable parts as `<>`.
pub(crate) fn redis_keys(root: &Path) -> BTreeSet<String> {
    let (mut found, mut scopes, mut names) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for file in files(&root.join("crates")) {
        // The rights of Redis users are patterns over keys, and no keys.
        if file.starts_with(root.join("crates/cli")) {
            continue;
        }
        let scoped = SCOPED.iter().any(|scoped| file.starts_with(root.join(scoped)))
            || file == root.join("crates/carrier-connector/src/adapters/ledger.rs");
        walk(tokens(&file), &mut |_, tree, after| {
            let text = literal(Some(tree)).map(|text| blank(&text)).unwrap_or_default();
            if ["ingress", "carrier", "identity"]
                .iter()
                .any(|user| text.starts_with(&format!("sotto:{user}:")))
            {
                match text.strip_suffix("}:").or_else(|| text.strip_suffix("}:<>")) {
                    Some(scope) if scoped => scopes.insert(format!("{scope}}}:")),
                    _ => found.insert(if text.ends_with(':') { format!("{text}<>") } else { text }),
                };
                return;
            }
            if !scoped {
                return;
            }
            // `cancel` joins a prefix and a name.
            if let Some(name) = text.strip_prefix("<>").filter(|name| name.starts_with(char::is_alphabetic)) {
                names.insert(name.to_owned());
            }
            if let (TokenTree::Ident(name), Some(TokenTree::Group(group))) = (tree, after.first())
                && (name == "key" || name == "own_key")
                && group.delimiter() == Delimiter::Parenthesis
            {
                names.extend(key_name(group));
            }
        });
    }
    assert!(!scopes.is_empty() && !names.is_empty(), "the connector's keys are not found");
    // A name says nothing of its scope; what is of both, or of which, says the map.
    let of_map = crate::Declared::read(root).keys;
    for name in names {
        let declared = of_map.iter().map(|place| blank(&place.name));
        let mut of =
            declared.filter(|key| scopes.iter().any(|scope| *key == format!("{scope}{name}"))).peekable();
        if of.peek().is_none() {
            found.insert(format!("sotto:carrier:{{…}}:{name}"));
        }
        found.extend(of);
    }
    found
}

/// `"ready"`, or `&format!("id:{}", …)`.
fn key_name(group: &Group) -> Option<String> {
    let trees: Vec<_> = group.stream().into_iter().collect();
    let text = match trees.as_slice() {
        [only] => literal(Some(only)),
        [and, TokenTree::Ident(format), _, TokenTree::Group(inner)] if is(and, '&') && format == "format" => {
            literal(inner.stream().into_iter().next().as_ref())
        }
        _ => None,
    };
    text.map(|text| blank(&text))
}

/// A pattern without the names of its variable parts: of `{{s{shard}}}:m:{id}` and `{s<shard>}:m:<message>` alike
/// `{s<>}:m:<>`.
pub(crate) fn blank(pattern: &str) -> String {
    let plain = pattern.replace("{{", "\u{1}").replace("}}}", "}\u{2}").replace("}}", "\u{2}");
    let formatted = plain.contains(['\u{1}', '\u{2}']) || !pattern.contains('<');
    let (open, close) = if formatted { ('{', '}') } else { ('<', '>') };
    let mut inside = false;
    let mut text = String::new();
    for letter in plain.chars() {
        if letter == open {
            inside = true;
            text.push_str("<>");
        } else if letter == close {
            inside = false;
        } else if !inside {
            text.push(letter);
        }
    }
    text.replace('\u{1}', "{").replace('\u{2}', "}")
}

fn is(tree: &TokenTree, mark: char) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == mark)
}

fn literal(tree: Option<&TokenTree>) -> Option<String> {
    match tree {
        Some(TokenTree::Literal(literal)) => {
            let text = literal.to_string();
            Some(text.strip_prefix('"')?.strip_suffix('"')?.to_owned())
        }
        _ => None,
    }
}

/// Takes the tokens before one in its group (six at most), itself, and those after it.
type Visit<'a> = dyn FnMut(&[TokenTree], &TokenTree, &[TokenTree]) + 'a;

/// Visits every token with those before and after it in its group. What `#[cfg(test)]` stands before is left out.
fn walk(stream: TokenStream, visit: &mut Visit<'_>) {
    let trees: Vec<_> = stream.into_iter().collect();
    let mut testing = false;
    for (index, tree) in trees.iter().enumerate() {
        if let (true, Some(TokenTree::Group(attribute))) = (is(tree, '#'), trees.get(index + 1)) {
            testing |= attribute.stream().to_string().replace(' ', "") == "cfg(test)";
        }
        let ends = match tree {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => is(tree, ';'),
        };
        if testing {
            testing = !ends;
            continue;
        }
        visit(&trees[index.saturating_sub(6)..index], tree, &trees[index + 1..]);
        if let TokenTree::Group(group) = tree {
            walk(group.stream(), visit);
        }
    }
}

fn tokens(file: &Path) -> TokenStream {
    let text = std::fs::read_to_string(file).unwrap();
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The sources of all crates, without tests and what only tests use.
fn files(crates: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left: Vec<_> =
        std::fs::read_dir(crates).unwrap().map(|entry| entry.unwrap().path().join("src")).collect();
    left.retain(|path| !path.starts_with(crates.join("testkit")));
    while let Some(path) = left.pop() {
        let named = |name: &str| path.file_stem().is_some_and(|stem| stem == name);
        if named("tests") || named("testing") {
            continue;
        }
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_field_is_found_however_it_is_written() {
    let text = r#"
        fn f() {
            tracing::warn!(%error, account = %self.settings.id, ?course, code, a.b = 1, "a sentence");
            let span = tracing::info_span!(parent: &other, "name", subject = tracing::field::Empty);
            event!(target: "x", Level::INFO, seen);
            span.record("later", 1);
        }
        #[cfg(test)]
        mod tests { fn g() { tracing::info!(never); } }"#;
    let mut found = BTreeSet::new();
    log_fields_of(Path::new("f.rs"), text.parse().unwrap(), &mut found);
    assert_eq!(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        ["a.b", "account", "code", "course", "error", "later", "seen", "subject"]
    );
}

#[test]
fn names_are_told_from_their_variable_parts() {
    assert_eq!(blank("sotto:ingress:{{s{shard}}}:m:{id}"), "sotto:ingress:{s<>}:m:<>");
    assert_eq!(blank("sotto:ingress:{s<shard>}:m:<message>"), "sotto:ingress:{s<>}:m:<>");
    assert_eq!(blank("sotto:ingress:{{{tenant}}}:pace"), "sotto:ingress:{<>}:pace");
    assert!(means("tls/<process>.key", "tls/{name}.key") && means("tls/<process>.key", "tls/nats.key"));
    assert!(means("run/", "run/cell.json") && means("clients/<name>.nats/", "clients/{name}.nats"));
    assert!(!means("tls/<process>.key", "tls/nats.pem") && !means("run/", "runs/cell.json"));
}

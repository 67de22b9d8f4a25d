//! The rules of the house that a machine can check.
//!
//! A rule carries its reason, and a breach that it has to find: none is here that can't fail. Rules about code don't see
//! comments and literals, and those about what ships don't see its unit tests either.

#[path = "tidy/source.rs"]
mod source;

use std::{fs, path::Path, process::Command};

use source::{File, Finding, lines_with, paths};

struct Rule {
    says: &'static str,
    because: &'static str,
    governs: fn(&File) -> bool,
    breaches: fn(&File) -> Vec<Finding>,
    /// The path and the text of a file that breaks it.
    planted: (&'static str, &'static str),
}

const RULES: &[Rule] = &[
    Rule {
        says: "only actors name ractor: the files directly in actors/src, and what an actor keeps in a folder of its name",
        because: "what actors use stays plain, to be read and tested without an actor system",
        governs: |file| !is_actor(file),
        breaches: |file| file.names(&["ractor"]),
        planted: ("actors/src/flow/backoff.rs", "use ractor::Actor;"),
    },
    Rule {
        says: "only actors/src/postgres names the Postgres driver, and src/demo, which stands in for a customer",
        because: "all SQL that we run in a customer's database can be reviewed in one place",
        governs: |file| file.ships() && !file.is_in("actors/src/postgres") && !file.is_in("src/demo"),
        breaches: |file| file.names(&["bb8", "bb8_postgres", "tokio_postgres", "tokio_postgres_rustls"]),
        planted: ("actors/src/target.rs", "fn pool() -> bb8::Pool<Manager> {}"),
    },
    Rule {
        says: "only files and folders whose names begin with sqlite name rusqlite",
        because: "a backend that is known in one place can be exchanged",
        governs: |file| file.ships() && !has_part(file, |part| part.starts_with("sqlite")),
        breaches: |file| file.names(&["rusqlite"]),
        planted: ("actors/src/stream/mod.rs", "use {std::fmt, rusqlite::Connection};"),
    },
    Rule {
        says: "only files and folders whose names begin with jetstream name async_nats",
        because: "a backend that is known in one place can be exchanged",
        governs: |file| file.ships() && !has_part(file, |part| part.starts_with("jetstream")),
        breaches: |file| file.names(&["async_nats"]),
        planted: ("src/service.rs", "let client = async_nats::connect(url);"),
    },
    Rule {
        says: "only src/telemetry names the SDK of OpenTelemetry and its exporters",
        because: "everything else measures by the API, and neither knows nor waits for who is told",
        governs: |file| file.ships() && !file.is_in("src/telemetry"),
        breaches: |file| {
            file.names(&["opentelemetry_sdk", "opentelemetry_otlp", "opentelemetry_prometheus", "prometheus"])
        },
        planted: ("actors/src/writer.rs", "use opentelemetry_sdk::metrics::SdkMeterProvider;"),
    },
    Rule {
        says: "the folders of actors/src import in one direction (see DIRECTIONS)",
        because: "each can then be understood, tested and replaced without the others",
        governs: |file| file.is_in("actors/src") && !is_actor(file),
        breaches: wrong_directions,
        planted: ("actors/src/store/sqlite.rs", "use super::super::{model::Page, stream::RecordStream};"),
    },
    Rule {
        says: "src uses what the root of the engine offers, its model and its ports; only src/service the embedded files and \
               the connection to NATS, whose settings src/config reads",
        because: "the inside of the engine can then change freely",
        governs: |file| file.is_in("src"),
        breaches: uses_of_the_inside,
        planted: ("src/api/targets.rs", "use sequin_actors::{model::Target, postgres::catalog};"),
    },
    Rule {
        says: "in src, only src/service names a backend",
        because: "it alone puts the service together, and everything else works with any backend",
        governs: |file| file.is_in("src") && !file.is_in("src/service"),
        breaches: |file| file.paths_where(|path| path.iter().any(|name| is_backend(name))),
        planted: ("src/api/mod.rs", "use sequin_actors::stream::SqliteStream;"),
    },
    Rule {
        says: "src/api registers routes by routes!(…), never by .route(…)",
        because: "a route and its description are one thing then, and nothing is served undescribed",
        governs: |file| file.is_in("src/api"),
        breaches: |file| lines_with(&[".route(", ".route_service(", ".nest_service("], &file.shipped),
        planted: ("src/api/mod.rs", "let router = Router::new().route(\"/v1/secret\", get(secret));"),
    },
    Rule {
        says: "no file or folder is called util, utils, common, helpers, core or base",
        because: "such a name says nothing, so it gathers what belongs elsewhere",
        governs: |file| has_part(file, |part| part.split('.').next().is_some_and(says_nothing)),
        breaches: |file| vec![(1, file.path.clone())],
        planted: ("tests/support/helpers.rs", ""),
    },
    Rule {
        says: "a Rust file has at most 450 lines",
        because: "a file is to be read in one sitting, and a longer one holds two things",
        governs: |file| file.text.lines().count() > 450,
        breaches: |file| vec![(451, format!("{} lines", file.text.lines().count()))],
        planted: ("src/main.rs", TOO_LONG),
    },
    Rule {
        says: "a Rust file begins by saying what it is for (//!)",
        because: "that is how a reader decides whether to read on",
        governs: |file| file.is_rust() && !["//!", "#![doc"].iter().any(|doc| file.text.trim_start().starts_with(doc)),
        breaches: |file| vec![(1, file.text.lines().next().unwrap_or_default().to_owned())],
        planted: ("tests/backfill.rs", "// How a backfill ends.\n"),
    },
    Rule {
        says: "nothing that ships calls unwrap()",
        because: "`expect` says why it can't fail, to the reader and to whoever sees it fail",
        governs: File::ships,
        breaches: |file| lines_with(&[".unwrap()"], &file.shipped),
        planted: ("src/config.rs", "#[cfg(test)]\nuse a::{b, c};\nfn port() { text.parse().unwrap() }"),
    },
    Rule {
        says: "no todo!, unimplemented! or dbg!",
        because: "what is in the tree is finished, and what is not is an issue",
        governs: File::is_rust,
        breaches: |file| lines_with(&["todo!(", "unimplemented!(", "dbg!("], &file.code),
        planted: ("benches/parts.rs", "fn later() { todo!() }"),
    },
    Rule {
        says: "a lint is set aside by #[expect(…)], never by #[allow(…)]",
        because: "the compiler tells when an expectation no longer holds",
        governs: File::is_rust,
        breaches: |file| lines_with(&["[allow("], &file.code),
        planted: ("actors/src/writer.rs", "#![allow(dead_code)]"),
    },
    Rule {
        says: "an #[expect(…)] gives its reason",
        because: "a reason can be judged",
        governs: File::is_rust,
        breaches: expectations_without_reason,
        planted: ("actors/src/writer.rs", "fn f() {}\n#[expect(\n    clippy::too_many_lines\n)]\nfn g() {}"),
    },
    Rule {
        says: "the top level holds what TOP_LEVEL names, and dotfiles",
        because: "it is the first page of the project, and is taken in at a glance",
        governs: |file| !file.path.starts_with('.'),
        breaches: |file| {
            let top = file.path.split('/').next().unwrap_or_default();
            if TOP_LEVEL.split(' ').any(|name| name == top) { vec![] } else { vec![(1, top.to_owned())] }
        },
        planted: ("scripts/release.sh", ""),
    },
];

/// What each folder of `actors/src` may import of its crate. The files there, the actors, may import everything.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("model", &["model"]),
    ("flow", &["flow", "model"]),
    ("embedded", &["embedded"]),
    ("jetstream", &["jetstream", "model"]),
    ("stream", &["stream", "model", "embedded", "jetstream"]),
    ("store", &["store", "model", "embedded", "jetstream"]),
    ("spans", &["spans", "model"]),
    ("telemetry", &["telemetry", "flow", "model", "stream"]),
    ("postgres", &["postgres", "model", "spans", "telemetry"]),
    ("pipeline", &["pipeline", "flow", "model", "stream", "store", "postgres", "spans", "telemetry"]),
    ("notify", &["notify", "model"]),
];

const TOP_LEVEL: &str =
    "Cargo.toml Cargo.lock src actors deploy tests benches README.md LICENSE CHANGELOG.md CONTRIBUTING.md";

const TOO_LONG: &str = match str::from_utf8(&[b'\n'; 451]) {
    Ok(lines) => lines,
    Err(_) => "",
};

fn is_actor(file: &File) -> bool {
    let inner = file.path.strip_prefix("actors/src/");
    inner.is_some_and(|name| {
        !name.contains('/')
            || ["alerting/", "consumer/", "supervisor/", "target/"].iter().any(|folder| name.starts_with(folder))
    })
}

fn has_part(file: &File, is: impl FnMut(&str) -> bool) -> bool {
    file.path.split('/').any(is)
}

fn says_nothing(stem: &str) -> bool {
    ["util", "utils", "common", "helpers", "core", "base"].contains(&stem)
}

fn is_backend(name: &str) -> bool {
    name.starts_with("Sqlite") || name.starts_with("JetStream")
}

fn wrong_directions(file: &File) -> Vec<Finding> {
    let inner = file.path.trim_start_matches("actors/src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let module: Vec<&str> = inner.split('/').collect();
    let allowed = DIRECTIONS.iter().find(|(folder, _)| *folder == module[0]).map_or(&[][..], |(_, may)| may);
    let leads_to = |path: &[&str]| match path.iter().take_while(|part| **part == "super").count() {
        0 if path[0] == "crate" => path.get(1).map(ToString::to_string),
        ups if ups >= module.len() => path.get(ups).map(ToString::to_string),
        _ => None,
    };
    let paths = paths(&file.shipped).into_iter();
    let wrong = paths.filter(|(_, path)| leads_to(path).is_some_and(|to| !allowed.contains(&to.as_str())));
    wrong.map(|(line, path)| (line, path.join("::"))).collect()
}

fn uses_of_the_inside(file: &File) -> Vec<Finding> {
    let is_open = |name: &str| match name {
        "self" | "model" | "stream" | "store" | "notify" => true,
        "embedded" => file.is_in("src/service"),
        "jetstream" => file.is_in("src/service") || file.is_in("src/config"),
        item => item.starts_with(char::is_uppercase),
    };
    file.paths_where(|path| path[0] == "sequin_actors" && path.get(1).is_some_and(|name| !is_open(name)))
}

fn expectations_without_reason(file: &File) -> Vec<Finding> {
    let code = &file.code;
    let unreasoned = code.match_indices("[expect(").filter(|(start, _)| {
        let attribute = code[*start..].split(")]").next();
        !attribute.is_some_and(|text| text.contains("reason"))
    });
    unreasoned.map(|(start, text)| (code[..start].split('\n').count(), text.to_owned())).collect()
}

/// What git tracks or would; where there is no git, as in an archive, whatever was unpacked.
fn tree() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_or_else(|_| String::new(), |git| String::from_utf8_lossy(&git.stdout).into_owned());
    let mut names: Vec<String> = listed.split_terminator('\0').map(ToOwned::to_owned).collect();
    if names.is_empty() {
        walk(root, "", &mut names);
    }
    names.retain(|name| root.join(name).is_file());
    let text = |name: &String| match Path::new(name).extension() {
        Some(extension) if extension == "rs" => fs::read_to_string(root.join(name)).expect("a Rust file is UTF-8"),
        _ => String::new(),
    };
    names.iter().map(|name| File::new(name, &text(name))).collect()
}

/// Lists a folder and what is in it, without what is hidden or was built.
fn walk(root: &Path, folder: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(folder)).expect("a folder of the repository can be read").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if name.starts_with('.') || root.join(&path).join("CACHEDIR.TAG").exists() {
            continue;
        }
        if entry.path().is_dir() {
            walk(root, &path, names);
        } else {
            names.push(path);
        }
    }
}

fn breaches(rule: &Rule, file: &File) -> Vec<String> {
    let found = if (rule.governs)(file) { (rule.breaches)(file) } else { Vec::new() };
    found.into_iter().map(|(line, what)| format!("{}:{line}: {what}", file.path)).collect()
}

#[test]
fn the_house_keeps_its_rules() {
    let tree = tree();
    assert!(tree.iter().any(|file| file.path == "tests/tidy.rs"), "the files of the repository were not found");
    let report = |rule: &Rule| {
        let breaches: Vec<String> = tree.iter().flat_map(|file| breaches(rule, file)).collect();
        let list = breaches.join("\n  ");
        (!list.is_empty()).then(|| format!("{},\nbecause {}:\n  {list}\n", rule.says, rule.because))
    };
    let reports: Vec<String> = RULES.iter().filter_map(report).collect();
    assert!(reports.is_empty(), "rules are broken\n\n{}", reports.join("\n"));
}

#[test]
fn every_rule_finds_a_breach_that_was_planted() {
    for rule in RULES {
        let file = File::new(rule.planted.0, rule.planted.1);
        assert_eq!(breaches(rule, &file).len(), 1, "{}", rule.says);
    }
}

#[test]
fn what_is_only_mentioned_or_belongs_to_a_test_neither_breaks_a_rule_nor_hides_a_breach() {
    let text = r##"//! Not ractor::Actor.
/* rusqlite */ use crate::{model::Sync as S, store::Page as stream};
const NAMES: [&str; 3] = ["bb8 // \" async_nats", r#"dbg!("todo!(")"#, "#[allow("];
fn quote<'a>(of: &'a str) -> [char; 3] { ['"', '\'', '\"'] } // x.unwrap()
#[expect(unused, reason = "nobody (yet) asks for it")]
pub(super) fn page() { super::model::page() }
#[cfg(test)]
mod tests { fn f() {} fn g() { super::super::stream::h().unwrap() } }
fn last() { super::stream::h().unwrap() }
"##;
    let file = File::new("actors/src/store/mod.rs", text);
    let found: Vec<String> = RULES.iter().flat_map(|rule| breaches(rule, &file)).collect();
    let places: Vec<&str> = found.iter().filter_map(|breach| breach.split(' ').next()).collect();
    assert_eq!(places, ["actors/src/store/mod.rs:9:"; 2], "{}", found.join("\n"));
}

//! The workspace keeps to the edges of the design (docs/ARCHITECTURE.md): services never call one another's code, and
//! each third-party wall has one crate behind it. A new edge fails here until the table and an ADR accept it.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

const SERVICE: &[&str] = &["sotto-core", "sotto-proto", "sotto-crypto", "sotto-bus", "sotto-runtime"];

/// The edges that each package may have to others of the workspace.
fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let service = |more: &[&'static str]| SERVICE.iter().chain(more).copied().collect();
    BTreeMap::from([
        ("sotto-core", BTreeSet::new()),
        ("sotto-crypto", BTreeSet::new()),
        ("sotto-smpp", BTreeSet::new()),
        ("sotto-testkit", BTreeSet::new()),
        ("sotto-proto", BTreeSet::from(["sotto-core"])),
        ("sotto-keystore", BTreeSet::from(["sotto-crypto"])),
        ("sotto-tlog", BTreeSet::from(["sotto-crypto"])),
        // Instruments, for whoever measures: docs/adr/0023.
        ("sotto-metrics", BTreeSet::from(["sotto-core"])),
        ("sotto-bus", BTreeSet::from(["sotto-core", "sotto-proto", "sotto-metrics"])),
        // For clients' programs: docs/adr/0008.
        ("sotto-publisher", BTreeSet::from(["sotto-core", "sotto-proto", "sotto-crypto"])),
        ("sotto-runtime", BTreeSet::from(["sotto-core", "sotto-crypto", "sotto-metrics"])),
        ("sotto-ingress", service(&["sotto-metrics", "sotto-keystore"])),
        ("sotto-routing", service(&["sotto-metrics"])),
        ("sotto-carrier", service(&["sotto-metrics", "sotto-smpp"])),
        ("sotto-identity", service(&["sotto-metrics", "sotto-keystore"])),
        ("sotto-privacy", service(&["sotto-metrics", "sotto-keystore"])),
        ("sotto-audit", service(&["sotto-metrics", "sotto-keystore", "sotto-tlog"])),
        ("sotto-simulator", BTreeSet::from(["sotto-core", "sotto-runtime", "sotto-smpp"])),
        // The tool for people: bus and keystore by docs/adr/0002, tlog by docs/adr/0004, publisher by docs/adr/0008.
        ("sotto-cli", service(&["sotto-keystore", "sotto-tlog", "sotto-publisher"])),
    ])
}

/// Third-party crates that only the named packages may use directly.
const WALLS: &[(&str, &[&str])] = &[
    ("async-nats", &["sotto-bus", "sotto-testkit"]),
    ("redis", &["sotto-runtime", "sotto-testkit"]),
    ("ring", &["sotto-crypto"]),
    ("hpke", &["sotto-crypto"]),
    ("cryptoki", &["sotto-keystore"]),
    ("prometheus-client", &["sotto-metrics"]),
];

/// Crates whose names say nothing.
const REFUSED_NAMES: &[&str] = &["common", "utils", "types", "models", "errors"];

struct Package {
    name: String,
    manifest: std::path::PathBuf,
    /// Name and whether it is a dev-dependency.
    dependencies: Vec<(String, bool)>,
}

fn workspace() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            manifest: text(&package["manifest_path"]).into(),
            dependencies: package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .map(|edge| (text(&edge["name"]), edge["kind"] == "dev"))
                .collect(),
        })
        .collect()
}

#[test]
fn edges_are_those_of_the_design() {
    let allowed = allowed();
    let mut problems = Vec::new();
    let free = ["sotto-tests", "sotto-benches"];
    for package in workspace().iter().filter(|package| !free.contains(&package.name.as_str())) {
        let Some(edges) = allowed.get(package.name.as_str()) else {
            problems.push(format!("{} is not in the table", package.name));
            continue;
        };
        for (to, dev) in package.dependencies.iter().filter(|(to, _)| to.starts_with("sotto-")) {
            let testkit = *dev && to == "sotto-testkit";
            if !testkit && !edges.contains(to.as_str()) {
                problems.push(format!("{} -> {to} is not allowed", package.name));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn third_party_walls_stand() {
    let mut problems = Vec::new();
    for package in workspace() {
        for (wall, through) in WALLS {
            if package.dependencies.iter().any(|(to, _)| to == wall)
                && !through.contains(&package.name.as_str())
            {
                problems.push(format!("{} uses {wall} directly: only {through:?} may", package.name));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_member_takes_the_lint_table_and_a_telling_name() {
    for package in workspace() {
        let manifest = std::fs::read_to_string(&package.manifest).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{} has no [lints] workspace = true",
            package.name
        );
        let last = package.name.rsplit('-').next().unwrap();
        assert!(!REFUSED_NAMES.contains(&last), "{} says nothing", package.name);
    }
}

//! Replays the stored corpus of every fuzz target on stable Rust.
#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "the time a decoder takes is what is looked at"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use muster_sim::fuzz::TARGETS;

/// An input that takes longer is a hang (threats page, section 7).
const HANG: Duration = Duration::from_secs(1);

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn every_stored_input_is_survived() {
    for (name, body) in TARGETS {
        let inputs = files(&corpus().join(name));
        assert!(
            inputs.len() >= 10,
            "{name}: a corpus of {} inputs tests nothing",
            inputs.len()
        );
        for path in inputs {
            let bytes = fs::read(&path).unwrap();
            let before = Instant::now();
            if std::panic::catch_unwind(|| body(&bytes)).is_err() {
                panic!("{name} does not survive {}", path.display());
            }
            let took = before.elapsed();
            // Debug builds under load are slow; twenty times over is a hang all the same.
            assert!(took < HANG * 20, "{name}: {} took {took:?}", path.display());
        }
    }
}

#[test]
fn every_corpus_has_a_target_and_every_target_its_file() {
    let stored: BTreeSet<String> = files(&corpus())
        .into_iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(stored, targets);
    let manifest = corpus().join("../Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    for target in targets {
        assert!(
            manifest.contains(&format!("name = \"{target}\"")),
            "{target} is not in fuzz/Cargo.toml"
        );
        assert!(
            corpus()
                .join(format!("../fuzz_targets/{target}.rs"))
                .exists()
        );
    }
}

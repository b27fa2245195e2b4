//! Layers of any kind, unpacked as a pull unpacks them.

use crate::common::{Runtime, names_in};
use crate::mutate::Mutator;
use crate::{corpus, seed, targets, work};
use magikrun::image::extract::{Rules, Share, start};
use magikrun::storage::config::Limits;
use magikrun::storage::tree;
use std::fs::{self, File};

/// Archives that are unpacked.
const ARCHIVES: usize = 200;

#[test]
fn whatever_a_layer_says_it_ends_in_a_directory_or_an_error_and_nothing_else_is_touched() {
    let runtime = Runtime::new();
    let seed = seed();
    println!("seed {seed}");
    let (target, archive, outside) =
        (runtime.path("target"), runtime.path("archive"), runtime.path("outside"));
    fs::write(&outside, "untouched").expect("a file");
    let corpus: Vec<_> =
        corpus("layer").into_iter().filter(|input| input.len().is_multiple_of(512)).collect();
    let mut mutator = Mutator::new(seed);
    let limits = Limits { max_rootfs_size: 1 << 24, ..Limits::default() };
    let mut unpacked = 0;
    for number in 0..work(ARCHIVES) {
        let mut input = mutator.bytes(&corpus[number % corpus.len()]);
        // Names that lead to it, in half of the archives.
        if number.is_multiple_of(2) && input.len() > 100 {
            let name = if number.is_multiple_of(4) {
                &b"../outside"[..]
            } else {
                outside.as_os_str().as_encoded_bytes()
            };
            let at = if number % 8 < 4 { 0 } else { 157.min(input.len() - name.len()) };
            if let Some(field) = input.get_mut(at..at + name.len()) {
                field.copy_from_slice(name);
            }
        }
        fs::write(&archive, targets::with_checksums(input)).expect("the archive");
        fs::create_dir(&target).expect("the layer's directory");
        let share = Share::of(limits.max_rootfs_size, 1).expect("a share").remove(0);
        let rules = Rules { limits: limits.clone(), share, rootless: false };
        let input = File::open(&archive).expect("the archive").into();
        let done = start(input, &target, &rules, None).expect("a process").finish();
        let shown = format!("seed {seed}, number {number}, {}", archive.display());
        if let Err(e) = &done {
            assert!(!e.message().contains("worker process"), "{shown}: {e}");
        }
        unpacked += usize::from(done.is_ok());
        assert_eq!(fs::read_to_string(&outside).expect("the file"), "untouched", "{shown}");
        let known = ["archive", "outside", "target"];
        let others: Vec<_> =
            names_in(runtime.dir()).into_iter().filter(|name| !known.contains(&name.as_str())).collect();
        assert!(others.iter().all(|name| name == "state"), "{shown}: {others:?}");
        tree::remove(&target).expect("whatever was made can be removed");
    }
    println!("{unpacked} of {} were unpacked", work(ARCHIVES));
    assert!(unpacked > 0, "no archive was good enough");
}

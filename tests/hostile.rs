//! Layers made by an attacker: each is refused by name or is harmless, and nothing is left or touched outside.
mod common;

use common::{Compression, Layer, Layout, Runtime, names_in};
use magikrun::limits::MAX_LAYERS;
use magikrun::storage::blobs::Digest;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// Pulls an image with this one layer.
fn pull(runtime: &Runtime, tag: &str, layer: &[u8], compression: Compression) -> common::Output {
    let mut layout = Layout::new(&runtime.path(tag));
    layout.add("1", &[layer.to_vec()], compression, &json!({}));
    runtime.image(&["pull", &layout.image("1")])
}

#[track_caller]
fn refused(runtime: &Runtime, tag: &str, layer: Layer, words: &[&str]) {
    let digest = |layer: &[u8]| Digest::of(&Compression::Gzip.apply(layer)).to_string();
    let layer = layer.into_bytes();
    let output = pull(runtime, tag, &layer, Compression::Gzip).exits(1);
    // The image, the layer, and what is wrong.
    for word in words.iter().copied().chain([format!("localhost/{tag}:1").as_str(), &digest(&layer)]) {
        assert!(output.stderr.contains(word), "{tag}: '{word}' is missing in {}", output.stderr);
    }
    nothing_left(runtime, tag);
}

#[track_caller]
fn nothing_left(runtime: &Runtime, tag: &str) {
    for directory in ["work", "layers", "images"] {
        assert_eq!(
            names_in(&runtime.store().join(directory)),
            Vec::<String>::new(),
            "{tag} left {directory}"
        );
    }
}

#[track_caller]
fn harmless(runtime: &Runtime, tag: &str, layer: Layer) -> PathBuf {
    pull(runtime, tag, &layer.into_bytes(), Compression::Gzip).success();
    let inspected = runtime.image(&["inspect", &format!("localhost/{tag}:1")]).success().stdout;
    let value: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    value["layers"][0]["path"].as_str().unwrap().into()
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let runtime = Runtime::new();
    let outside = runtime.path("outside");
    fs::write(&outside, "untouched").unwrap();
    let absolute = outside.to_str().unwrap();
    let cycle = Layer::new().symlink("a", "b").symlink("b", "a").file("a/x", "x");
    let long = "d/".repeat(200);
    let many = Layer::new().pax(&[("path", "d/".repeat(300).as_bytes())]).dir("x", 0o755);
    let longer = Layer::new()
        .pax(&[("path", long.as_bytes())])
        .dir("x", 0o755)
        .pax(&[("linkpath", long.as_bytes())])
        .symlink("l", "x")
        .pax(&[("path", format!("l/{}x", "e/".repeat(100)).as_bytes())])
        .file("x", "x");
    let deep = (0..41).fold(Layer::new().dir("l41", 0o755), |layer, n| {
        layer.symlink(&format!("l{n}"), &format!("l{}", n + 1))
    });
    for (tag, layer, words) in [
        ("parent", Layer::new().file("../../../outside", "x"), &["entry '../../../outside'", "'..'"][..]),
        ("inner", Layer::new().file("a/../../outside", "x"), &["'..'"]),
        ("absolute", Layer::new().file(absolute, "x"), &["is absolute"]),
        ("nul", Layer::new().pax(&[("path", b"a\0b")]).file("x", "x"), &["NUL"]),
        ("hard-parent", Layer::new().hardlink("x", "../../outside"), &["hard link", "'..'"]),
        ("hard-absolute", Layer::new().hardlink("x", absolute), &["hard link", "absolute"]),
        ("hard-nothing", Layer::new().hardlink("x", "nothing"), &["entry 'x'", "cannot link to 'nothing'"]),
        ("hard-directory", Layer::new().dir("d", 0o755).hardlink("x", "d"), &["leads to a directory"]),
        ("cycle", cycle, &["entry 'a/x'", "40 symbolic links"]),
        ("deep", deep.file("l0/x", "x"), &["40 symbolic links"]),
        ("many", many, &["more than 256 directories"]),
        ("longer", longer, &["more than 256 directories"]),
        ("whiteout", Layer::new().file("a/.wh...", ""), &["whiteout"]),
        ("whiteout-dir", Layer::new().file(".wh.a/x", ""), &["whiteout"]),
        ("root", Layer::new().file("./", "x").symlink("./", "/"), &["root directory"]),
        ("below-file", Layer::new().file("a", "x").file("a/b", "x"), &["'a' is no directory"]),
        ("dangling", Layer::new().symlink("a", "nowhere").file("a/b", "x"), &["'a' is no directory"]),
        ("owner", Layer::new().pax(&[("uid", b"4294967295")]).file("x", "x"), &["no user or group id"]),
        (
            "type",
            Layer::new().entry("x", b"", |h| h.set_entry_type(tar::EntryType::new(b'V'))),
            &["unknown type 'V'"],
        ),
    ] {
        refused(&runtime, tag, layer, words);
    }
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
}

#[test]
fn links_lead_nowhere_but_into_the_layer() {
    let runtime = Runtime::new();
    let outside = runtime.path("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap();
    let up = "../".repeat(20) + target.trim_start_matches('/');
    for (tag, link) in [("absolute", target), ("relative", &up)] {
        let inside = target.trim_start_matches('/');
        let layer =
            Layer::new().dir(inside, 0o755).symlink("l", link).file("l/x", "inside").file("l/.wh.y", "");
        let root = harmless(&runtime, &format!("link-{tag}"), layer);
        assert_eq!(fs::read_to_string(root.join(inside).join("x")).unwrap(), "inside");
    }
    assert_eq!(names_in(&outside), Vec::<String>::new());
}

#[test]
fn later_entries_replace_earlier_ones_without_following_them() {
    let runtime = Runtime::new();
    let outside = runtime.path("outside");
    fs::write(&outside, "untouched").unwrap();
    let layer = Layer::new()
        .symlink("f", outside.to_str().unwrap())
        .file("f", "file")
        .file("d", "file")
        .dir("d", 0o755)
        .file("d/x", "x")
        .symlink("d", "/etc")
        .file("twice", "one")
        .file("twice", "two")
        .file("h", "one")
        .hardlink("h2", "h")
        .file("h", "other")
        .dir("keep", 0o700)
        .file("keep/x", "x")
        .dir("keep", 0o755)
        .pax(&[("SCHILY.xattr.user.overlay.opaque", b"y"), ("SCHILY.xattr.trusted.overlay.redirect", b"/")])
        .dir("tricked", 0o755);
    let root = harmless(&runtime, "twice", layer);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!((read("f").as_str(), read("twice").as_str()), ("file", "two"));
    assert_eq!((read("h").as_str(), read("h2").as_str()), ("other", "one"));
    assert_eq!(fs::read_link(root.join("d")).unwrap(), PathBuf::from("/etc"));
    assert_eq!(read("keep/x"), "x");
    assert!(rustix::fs::lgetxattr(root.join("tricked"), "user.overlay.opaque", &mut [0u8; 1][..]).is_err());
}

#[test]
fn sizes_and_counts_have_limits_that_the_operator_can_raise() {
    let runtime = Runtime::new();
    let config = runtime.file(
        "config.toml",
        "[limits]\nmax_layer_size = 8000\nmax_rootfs_size = 5000\nmax_layers = 1\nmax_files_per_layer = 10\n",
    );
    let limited = |layout: &Layout| {
        let store = runtime.store();
        let mut command =
            runtime.command(&["image", "--storage", store.to_str().unwrap(), "pull", &layout.image("1")]);
        command.env("MAGIKRUN_CONFIG", &config);
        common::finish(command, None)
    };
    let mut large = Layout::new(&runtime.path("large"));
    large.add("1", &[Layer::new().file("x", &"x".repeat(9000)).into_bytes()], Compression::None, &json!({}));
    let _ = limited(&large).fails_with(1, &["limits.max_layer_size"]);
    let mut unpacked = Layout::new(&runtime.path("unpacked"));
    unpacked.add(
        "1",
        &[Layer::new().file("x", &"x".repeat(6000)).into_bytes()],
        Compression::Gzip,
        &json!({}),
    );
    let _ = limited(&unpacked).fails_with(1, &["entry 'x'", "limits.max_rootfs_size"]);
    // Layers that are unpacked at the same time have one budget.
    let config_text = fs::read_to_string(&config).unwrap();
    fs::write(&config, config_text.replace("max_layers = 1", "max_layers = 4")).unwrap();
    let mut together = Layout::new(&runtime.path("together"));
    let parts = ["a", "b", "c", "d"].map(|name| Layer::new().file(name, &"x".repeat(1300)).into_bytes());
    together.add("1", &parts, Compression::Gzip, &json!({}));
    let _ = limited(&together)
        .fails_with(1, &["the image unpacks to more than 5000 bytes", "limits.max_rootfs_size"]);
    // Those that were unpacked before the limit was met are whole, and nobody needs them.
    runtime.image(&["prune"]).success();
    fs::write(&config, config_text).unwrap();
    let mut layers = Layout::new(&runtime.path("layers"));
    layers.add(
        "1",
        &[Layer::new().file("a", "").into_bytes(), Layer::new().file("b", "").into_bytes()],
        Compression::Gzip,
        &json!({}),
    );
    let _ = limited(&layers).fails_with(1, &["limits.max_layers"]);
    let mut files = Layout::new(&runtime.path("files"));
    let many = (0..11).fold(Layer::new(), |layer, n| layer.file(&n.to_string(), ""));
    files.add("1", &[many.into_bytes()], Compression::Gzip, &json!({}));
    let _ =
        limited(&files).fails_with(1, &["entry '10'", "more than 10 entries", "limits.max_files_per_layer"]);
    nothing_left(&runtime, "limits");
    let mut too_many = Layout::new(&runtime.path("toomany"));
    let archives: Vec<_> =
        (0..=MAX_LAYERS).map(|n| Layer::new().file(&n.to_string(), "").into_bytes()).collect();
    too_many.add("1", &archives, Compression::None, &json!({}));
    let _ =
        runtime.image(&["pull", &too_many.image("1")]).fails_with(1, &["129 layers", "limits.max_layers"]);
    // One less is what overlayfs takes.
    let mut most = Layout::new(&runtime.path("most"));
    let base = Layer::busybox().into_bytes();
    let archives: Vec<_> = std::iter::once(base).chain(archives.into_iter().take(MAX_LAYERS - 1)).collect();
    most.add("1", &archives, Compression::None, &json!({"Cmd": ["sh", "-c", "ls / | grep -c '^[0-9]'"]}));
    runtime.image(&["pull", "--quiet", &most.image("1")]).success();
    assert_eq!(runtime.run_image(&[], "localhost/most:1", &[]).success().stdout, "127\n");
}

#[test]
fn archives_that_lie_are_refused() {
    let runtime = Runtime::new();
    let good = Layer::new().file("a", "content").file("b", "more").into_bytes();
    let archive = |layer: Layer| layer.into_bytes();
    let mut checksum = good.clone();
    checksum[0] = b'z';
    let lying = archive(Layer::new().entry("a", b"x", |header| header.set_size(1 << 40)));
    let hidden = {
        let mut bytes = archive(Layer::new().file("a", "x"));
        bytes.extend(archive(Layer::new().file("hidden", "x")));
        bytes
    };
    for (tag, data, words) in [
        ("checksum", checksum, "checksum of a header"),
        ("huge", lying, "limits.max_rootfs_size"),
        ("short", good[..600].to_vec(), "ends in the middle"),
        ("garbage", b"not an archive at all".repeat(100), "is it a tar archive?"),
        (
            "long",
            archive(Layer::new().pax(&[("path", &vec![b'x'; 2 << 20])]).file("x", "")),
            "extended header",
        ),
        (
            "sparse",
            archive(
                Layer::new()
                    .pax(&[("GNU.sparse.map", b"0,5,3,5"), ("GNU.sparse.size", b"10")])
                    .file("x", "0123456789"),
            ),
            "overlap",
        ),
    ] {
        let _ = pull(&runtime, tag, &data, Compression::Gzip)
            .fails_with(1, &[words, &format!("localhost/{tag}:1")]);
        nothing_left(&runtime, tag);
    }
    // What follows the end of an archive is no part of it, though its digest counts it.
    pull(&runtime, "hidden", &hidden, Compression::Gzip).success();
    let layers = runtime.store().join("layers");
    assert_eq!(names_in(&layers.join(&names_in(&layers)[0]).join("fs")), ["a"]);
}

#[test]
fn digests_that_are_wrong_are_told_before_anything_else() {
    let runtime = Runtime::new();
    let mut layout = Layout::new(&runtime.path("wrong"));
    let layer = Layer::new().file("a", "x").into_bytes();
    let blob = layout.blob("application/vnd.oci.image.layer.v1.tar", &layer);
    let other = Digest::of(b"other").to_string();
    layout.add_raw("diff", std::slice::from_ref(&blob), std::slice::from_ref(&other), &json!({}));
    layout.add_raw("none", std::slice::from_ref(&blob), &[], &json!({}));
    let mut size = blob.clone();
    size["size"] = json!(layer.len() + 1);
    layout.add_raw("size", &[size], &[Digest::of(&layer).to_string()], &json!({}));
    let digest: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
    for (tag, words) in [("diff", other.as_str()), ("none", "diff_ids"), ("size", "it ends after")] {
        let _ = runtime.image(&["pull", &layout.image(tag)]).fails_with(1, &[words]);
        nothing_left(&runtime, tag);
    }
    let file = layout.path().join("blobs/sha256").join(digest.hex());
    fs::write(file, vec![b'x'; layer.len()]).unwrap();
    layout.add_raw("damaged", &[blob], &[digest.to_string()], &json!({}));
    let _ = runtime
        .image(&["pull", &layout.image("damaged")])
        .fails_with(1, &[&digest.to_string(), "has the digest"]);
    nothing_left(&runtime, "damaged");
}

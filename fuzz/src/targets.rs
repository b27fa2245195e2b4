//! One function for each kind of foreign input: it reads it as magikrun does, up to the point where something would be
//! touched, and must not panic, hang or take memory without bound, whatever the bytes are.

use magikrun::image::extract;
use magikrun::image::manifest::{self, Document, digest_of, is_archive, is_artifact};
use magikrun::image::platform::PlatformSpec;
use magikrun::image::{Location, Reference};
use magikrun::runtime::kernel_security::{AppArmor, KernelSecurity};
use magikrun::runtime::native::affinity;
use magikrun::runtime::native::process::ProcessPlan;
use magikrun::runtime::native::program::Program;
use magikrun::runtime::record::Record;
use magikrun::runtime::rootfs::{PlanContext, RootfsPlan};
use magikrun::runtime::seccomp::Filter;
use magikrun::runtime::validate::validate;
use magikrun::runtime::{backend, cgroups, hooks, seccomp, spec};
use magikrun::storage::config::Limits;
use magikrun::vm::connection::{Connection, Received, reply_of};
use oci_spec::runtime::{LinuxResources, LinuxSeccomp, Process};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A target and its name, which is also that of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const ALL: [Target; 10] = [
    ("config", config),
    ("process", process),
    ("resources", resources),
    ("record", record),
    ("seccomp", seccomp),
    ("filter", filter),
    ("guest", guest),
    ("reference", reference),
    ("manifest", manifest),
    ("layer", layer),
];

/// `config.json`: parsed, checked and planned.
pub fn config(data: &[u8]) {
    let Ok(spec) = spec::parse(data, "config.json") else { return };
    if validate(&spec, || KernelSecurity { selinux: true, apparmor: AppArmor::Enabled }).is_err() {
        return;
    }
    let _ = backend::select(&spec, "magikrun", || true);
    let _ = hooks::Hooks::new(&spec);
    let context = PlanContext { new_mount_namespace: true, ..PlanContext::default() };
    let _ = RootfsPlan::from_spec(&spec, Path::new("/"), context);
    if let Some(process) = spec.process() {
        plan(process);
    }
    if let Some(linux) = spec.linux() {
        if let Some(profile) = linux.seccomp() {
            compile(profile);
        }
        if let Some(resources) = linux.resources() {
            let _ = cgroups::plan_all(resources);
        }
    }
}

/// The process object of `exec --process`.
pub fn process(data: &[u8]) {
    if let Ok(process) = spec::parse_process(data, "process.json") {
        plan(&process);
    }
}

fn plan(process: &Process) {
    let _ = ProcessPlan::new(process, None, None, None);
    let _ = Program::new(process, &[]);
    let _ = affinity::Plan::new(process);
}

/// Limits, as `update --resources` reads them.
pub fn resources(data: &[u8]) {
    if let Ok(resources) = spec::parse_json::<LinuxResources>(data, "resources") {
        let _ = cgroups::plan_all(&resources);
    }
}

/// The state record. What is read is written and read again as the same.
pub fn record(data: &[u8]) {
    if let Ok(record) = Record::parse(data) {
        let written = serde_json::to_vec(&record).expect("a record can be written");
        assert_eq!(Record::parse(&written).expect("what was written can be read"), record);
    }
}

/// A seccomp profile.
pub fn seccomp(data: &[u8]) {
    if let Ok(profile) = spec::parse_json::<LinuxSeccomp>(data, "profile") {
        compile(&profile);
    }
}

/// What is compiled is stored and read again.
fn compile(profile: &LinuxSeccomp) {
    if let Ok(filter) = seccomp::compile(profile) {
        let stored = filter.encode();
        let read = Filter::decode(&stored).expect("what was stored can be read");
        assert_eq!(read.encode(), stored);
    }
}

/// A stored filter.
pub fn filter(data: &[u8]) {
    if let Ok(filter) = Filter::decode(data) {
        let again = Filter::decode(&filter.encode()).expect("what was read can be stored");
        assert_eq!(again.encode(), filter.encode());
    }
}

/// What the first process of a microVM sends. Every frame is read as an answer, however many there are.
pub fn guest(data: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    // More than a socket keeps would wait for us.
    let data = &data[..data.len().min(64 << 10)];
    theirs.write_all(data).expect("the guest's bytes");
    drop(theirs);
    let mut connection = Connection::from(OwnedFd::from(ours));
    let mut read = 0;
    while let Ok(Received::Frame(frame)) = connection.try_receive() {
        read += frame.body.len();
        if let Err(e) = reply_of(&frame) {
            assert!(!e.message().contains('\u{1b}'), "a control character of the guest is shown");
        }
    }
    assert!(read <= data.len(), "more was read than was sent");
}

/// A name of an image. What it means in full is read again as the same.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = text.parse::<Location>();
    if let Ok(reference) = text.parse::<Reference>() {
        let again: Reference = reference.to_string().parse().expect("what was printed can be read");
        assert_eq!(again, reference);
    }
}

/// A manifest or an index of manifests, and the configuration of an image.
pub fn manifest(data: &[u8]) {
    match manifest::parse(data) {
        Ok(Document::Manifest(manifest)) => {
            let blobs = manifest.layers().iter().chain([manifest.config()]);
            blobs.for_each(|blob| drop((digest_of(blob), is_archive(blob))));
            let _ = is_artifact(&manifest);
            let _ = manifest::parse_config(data, &manifest);
        }
        Ok(Document::Index(index)) => {
            let _ = manifest::select(&index, &PlatformSpec::host());
        }
        Err(_) => {}
    }
}

/// A layer, as it is and with right checksums. Nothing is unpacked.
pub fn layer(data: &[u8]) {
    let limits = Limits { max_rootfs_size: 1 << 24, ..Limits::default() };
    let _ = extract::read_through(data, &limits);
    let _ = extract::read_through(with_checksums(data.to_vec()).as_slice(), &limits);
}

/// Makes the checksum of every header of an archive right, so that what it says is looked at.
pub fn with_checksums(mut data: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(header) = data.get_mut(at..at + 512) {
        at += 512;
        if header.iter().all(|b| *b == 0) {
            continue;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = header[124..135].iter().take_while(|b| (b'0'..=b'7').contains(b));
        let size = digits.fold(0usize, |size, digit| size * 8 + usize::from(digit - b'0'));
        at = at.saturating_add(size.next_multiple_of(512));
    }
    data
}

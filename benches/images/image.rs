//! The image that is pulled: five layers of real files, compressed with gzip, served by a registry on loopback.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Layers of the image.
const LAYERS: usize = 5;
/// Bytes of files in one layer: 1.3 GB in all.
const LAYER_SIZE: u64 = 260_000_000;
/// How long the registry may take to start.
const DEADLINE: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, String>;

fn cannot<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |e| format!("cannot {what}: {e}")
}

/// Writes what is digested and counted on its way.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), length: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(&data[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn digest(hash: Sha256) -> String {
    hash.finalize().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Makes the image as an OCI layout at `path`, if it is not there yet. Answers compressed and unpacked bytes.
pub(crate) fn make(path: &Path) -> Result<(u64, u64)> {
    let sizes = path.join("sizes.json");
    if let Ok(data) = fs::read(&sizes) {
        return serde_json::from_slice(&data).map_err(cannot("read the sizes"));
    }
    let _ = fs::remove_dir_all(path);
    fs::create_dir_all(path.join("blobs/sha256")).map_err(cannot("make the layout"))?;
    let mut files = files();
    let (mut layers, mut diff_ids, mut unpacked) = (Vec::new(), Vec::new(), 0);
    for number in 0..LAYERS {
        eprintln!("compressing layer {} of {LAYERS}", number + 1);
        let (descriptor, diff_id, size) = layer(path, &mut files)?;
        layers.push(descriptor);
        diff_ids.push(diff_id);
        unpacked += size;
    }
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = blob(path, "application/vnd.oci.image.config.v1+json", &config)?;
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": layers});
    let mut entry = blob(path, "application/vnd.oci.image.manifest.v1+json", &manifest)?;
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    let write = |name: &str, value: Value| {
        fs::write(path.join(name), value.to_string()).map_err(cannot("write the layout"))
    };
    write("oci-layout", json!({"imageLayoutVersion": "1.0.0"}))?;
    write("index.json", json!({"schemaVersion": 2, "manifests": [entry]}))?;
    let compressed: u64 = layers.iter().filter_map(|layer| layer["size"].as_u64()).sum();
    write("sizes.json", json!([compressed, unpacked]))?;
    Ok((compressed, unpacked))
}

/// Ordinary files of this machine, directory by directory.
fn files() -> impl Iterator<Item = PathBuf> {
    let mut waiting =
        VecDeque::from([PathBuf::from("/usr/lib"), PathBuf::from("/usr/share"), PathBuf::from("/usr/bin")]);
    std::iter::from_fn(move || {
        let directory = waiting.pop_front()?;
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push_back(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
        found.sort();
        Some(found)
    })
    .flatten()
}

fn layer(path: &Path, files: &mut impl Iterator<Item = PathBuf>) -> Result<(Value, String, u64)> {
    let temporary = path.join("layer");
    let file = BufWriter::new(File::create(&temporary).map_err(cannot("write a layer"))?);
    let encoder = GzEncoder::new(Hashed::new(file), Compression::default());
    let mut builder = tar::Builder::new(Hashed::new(encoder));
    builder.follow_symlinks(false);
    let mut size = 0;
    while size < LAYER_SIZE {
        let Some(source) = files.next() else {
            return Err("/usr is too small to make the image of".to_owned());
        };
        let Ok(length) = fs::metadata(&source).map(|metadata| metadata.len()) else { continue };
        let name = source.strip_prefix("/").unwrap_or(&source);
        builder.append_path_with_name(&source, name).map_err(cannot("archive a file"))?;
        size += length;
    }
    let tar = builder.into_inner().map_err(cannot("end an archive"))?;
    let diff_id = digest(tar.hash);
    let gzip = tar.inner.finish().map_err(cannot("compress a layer"))?;
    let mut file = gzip.inner;
    file.flush().map_err(cannot("write a layer"))?;
    let digest = digest(gzip.hash);
    let to = path.join("blobs/sha256").join(&digest[7..]);
    fs::rename(temporary, to).map_err(cannot("keep a layer"))?;
    let descriptor = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": gzip.length});
    Ok((descriptor, diff_id, size))
}

fn blob(path: &Path, kind: &str, value: &Value) -> Result<Value> {
    let data = value.to_string();
    let digest = digest(Sha256::new().chain_update(&data));
    fs::write(path.join("blobs/sha256").join(&digest[7..]), &data).map_err(cannot("write a blob"))?;
    Ok(json!({"mediaType": kind, "digest": digest, "size": data.len()}))
}

/// A registry that ends with the benchmark.
pub(crate) struct Registry {
    child: Child,
    /// The image's name in it.
    pub(crate) name: String,
}

impl Registry {
    /// Starts docker-registry and puts the image into it.
    pub(crate) fn start(dir: &Path, layout: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .map_err(cannot("find a port"))?
            .port();
        let host = format!("127.0.0.1:{port}");
        let config = json!({"version": "0.1", "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": dir.join("data")}}, "http": {"addr": host}});
        let file = dir.join("config.yml");
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&file, config.to_string()))
            .map_err(cannot("configure the registry"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(cannot("start docker-registry"))?;
        let registry = Self { child, name: format!("{host}/bench:1") };
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(&host).is_err() {
            if Instant::now() > end {
                return Err("the registry does not listen".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:1", layout.display()))
            .arg(format!("docker://{}", registry.name))
            .status()
            .map_err(cannot("execute skopeo"))?;
        if status.success() { Ok(registry) } else { Err("skopeo cannot push the image".to_owned()) }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

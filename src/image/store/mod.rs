//! The store: blobs by digest, layers unpacked once each, and the names of images.
//!
//! ```text
//!     blobs/sha256/AB/ABCD...   manifests, configurations and layers as they came
//!     layers/ABCD.../fs         layers unpacked, by the digest of the archive without compression
//!     images/ABCD...            one record a name
//!     bundles/                  which bundles use layers; and bundles of our own
//!     work/                     what is being made: a directory a process, with a lock that dies with it
//! ```
//!
//! What is in use is never counted: it follows from the names, the bundles and the work in progress whenever it is asked.

mod building;
mod layers;
mod lease;
mod prune;
mod records;
mod roots;
mod verify;

pub use building::Building;
pub use layers::Layer;
pub use lease::Lease;
pub use prune::Pruned;
pub use records::ImageRecord;
pub use verify::{Damage, Verify};

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::userns::{self, IdMappings};
use crate::storage::blobs::{BlobStore, Digest};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Where the store of root is.
const ROOT_STORE: &str = "/var/lib/magikrun";
/// Where the store of another user is, below the home directory.
const USER_STORE: &str = ".magikrun";
/// Environment variable that names another place.
pub const STORE_VARIABLE: &str = "MAGIKRUN_STORAGE";
/// Name of the lock file.
const LOCK: &str = "lock";
/// Name of the file whose bytes are locks of single blobs and layers.
const ITEM_LOCKS: &str = "items";

/// The store of images below one directory.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
    blobs: BlobStore,
}

/// True with privileges over the host: unpacked files get the owners that the image says.
pub fn privileged() -> bool {
    rustix::process::geteuid().is_root() && !userns::is_nested()
}

/// Where the store is unless told otherwise.
pub fn default_root() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set(STORE_VARIABLE) {
        return Ok(path);
    }
    if privileged() {
        return Ok(PathBuf::from(ROOT_STORE));
    }
    set("HOME").map(|home| home.join(USER_STORE)).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("cannot find the image store: set HOME or {STORE_VARIABLE}"))
    })
}

impl ImageStore {
    /// The store at `root`; nothing is touched.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { blobs: BlobStore::new(root.join("blobs")), root }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its blobs.
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// Makes its directories. Only their owner may enter: layers have setuid programs and devices.
    pub fn prepare(&self) -> Result<()> {
        for name in ["", "layers", "images", "bundles", "work"] {
            make_directory(&self.root.join(name))?;
        }
        Ok(())
    }

    /// The mappings that files are unpacked with; none with privileges.
    pub fn mappings(&self) -> Option<IdMappings> {
        (!privileged()).then(IdMappings::of_user)
    }

    /// Keeps the store from being cleaned until dropped; others may add to it meanwhile.
    pub fn lock_shared(&self) -> Result<File> {
        self.lock(FlockOperation::LockShared)
    }

    /// Keeps everybody else from adding to the store or cleaning it.
    pub fn lock_exclusive(&self) -> Result<File> {
        self.lock(FlockOperation::LockExclusive)
    }

    fn lock(&self, operation: FlockOperation) -> Result<File> {
        let path = self.root.join(LOCK);
        let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        file.map_err(Error::from)
            .and_then(|file| {
                rustix::io::retry_on_intr(|| flock(&file, operation))?;
                Ok(file)
            })
            .or_kind(ErrorKind::Storage, || format!("cannot lock the image store '{}'", self.root.display()))
    }

    /// Waits until nobody else makes the thing with this digest, and keeps others from it until dropped.
    pub fn lock_item(&self, digest: &Digest) -> Result<File> {
        let cannot = || format!("cannot lock {digest}");
        let path = self.root.join(ITEM_LOCKS);
        let file = std::fs::OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path);
        let file = file.or_kind(ErrorKind::Storage, cannot)?;
        // One byte of the file stands for each digest; it needs not be there to be locked.
        let start = i64::from_str_radix(&digest.hex()[..15], 16).unwrap_or_default();
        let range = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: start,
            l_len: 1,
            l_pid: 0,
        };
        loop {
            match nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLKW(&range)) {
                Err(nix::errno::Errno::EINTR) => {}
                locked => return locked.or_kind(ErrorKind::Storage, cannot).map(|_| file),
            }
        }
    }
}

/// Makes a directory that only its owner may enter, and those above it.
fn make_directory(path: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
        }
        made => made,
    }
    .or_kind(ErrorKind::Storage, || format!("cannot make directory '{}'", path.display()))
}

/// Names in a directory of the store, which need not exist.
fn names(directory: &Path) -> Result<Vec<String>> {
    let cannot = || format!("cannot read '{}'", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.or_kind(ErrorKind::Storage, cannot)?,
    };
    let mut names = entries
        .map(|entry| {
            Ok(entry.or_kind(ErrorKind::Storage, cannot)?.file_name().to_string_lossy().into_owned())
        })
        .collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

//! Bringing an image into the store.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::extract::{Rules, Share};
use crate::image::image::Image;
use crate::image::manifest::{self, Document, digest_of, is_archive};
use crate::image::platform::PlatformSpec;
use crate::image::progress::Progress;
use crate::image::source::{Fetched, Source};
use crate::image::store::{ImageRecord, ImageStore, Lease, privileged};
use crate::image::transfer::Transfer;
use crate::limits::{MAX_CONFIG_SIZE, MAX_INFLIGHT_BLOBS, MAX_MANIFEST_SIZE, MAX_WASM_MODULE_SIZE};
use crate::platform::userns::IdMappings;
use crate::storage::blobs::Digest;
use crate::storage::config::Limits;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use std::io::Read as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Deepest nesting of indexes.
const MAX_INDEX_DEPTH: usize = 3;
/// Blobs at once where there are few processors: some wait for the network while others are unpacked.
const MIN_PARALLEL: usize = 4;

/// What to bring.
pub struct Pull<'a> {
    /// Where to.
    pub store: &'a ImageStore,
    /// Where from.
    pub source: &'a dyn Source,
    /// For which machine.
    pub platform: &'a PlatformSpec,
    /// How large it may be.
    pub limits: &'a Limits,
    /// Blobs at the same time; 0: as many as are useful.
    pub parallel: usize,
    /// Hears how far it is.
    pub progress: &'a dyn Progress,
}

/// A layer to be brought.
struct Job {
    descriptor: Descriptor,
    digest: Digest,
    /// Digest of the archive without compression; none for what is no archive.
    diff_id: Option<Digest>,
    /// What it may unpack to.
    share: Share,
}

/// An image whose manifest and configuration are known.
struct Resolved {
    manifest_digest: Digest,
    manifest: ImageManifest,
    config_digest: Digest,
    jobs: Vec<Job>,
    platform: PlatformSpec,
}

impl Pull<'_> {
    /// Brings the image with everything it needs, and makes its name lead to it. Nothing is visible before.
    pub fn run(&self) -> Result<ImageRecord> {
        if let Some(record) = self.unchanged()? {
            return Ok(record);
        }
        let lease = self.store.lease()?;
        let root = self.source.root()?;
        lease.need([&root.digest])?;
        let resolved = self.resolve(&lease, &root)?;
        self.layers(&lease, &resolved)?;
        let record = ImageRecord {
            name: self.source.name().to_string(),
            target: root.digest,
            manifest: resolved.manifest_digest,
            id: resolved.config_digest,
            platform: resolved.platform.to_string(),
            pulled: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        };
        lease.put_record(&record)?;
        Ok(record)
    }

    /// What the name leads to already, if the source still says the same and everything is there.
    fn unchanged(&self) -> Result<Option<ImageRecord>> {
        let Some(record) = self.store.record(self.source.name())? else { return Ok(None) };
        let fits = record.platform.parse().is_ok_and(|platform| self.platform.rank(&platform).is_some());
        if !fits || Image::load(self.store, record.clone()).is_err() {
            return Ok(None);
        }
        let same = self.source.digest()?.is_some_and(|digest| digest == record.target);
        if same {
            self.progress.exists(&record.manifest);
        }
        Ok(same.then_some(record))
    }

    /// Follows indexes to the manifest for the wanted platform, and reads its configuration.
    fn resolve(&self, lease: &Lease<'_>, root: &Fetched) -> Result<Resolved> {
        let mut current = root.clone();
        for _ in 0..MAX_INDEX_DEPTH {
            self.put_small(lease, &current.digest, &current.data)?;
            match manifest::parse(&current.data)? {
                Document::Manifest(manifest) => return self.configure(lease, current.digest, *manifest),
                Document::Index(index) => {
                    let chosen = manifest::select(&index, self.platform)?;
                    let digest = digest_of(chosen)?;
                    lease.need([&digest])?;
                    current = self.manifest(chosen, &digest)?;
                }
            }
        }
        Err(Error::new(ErrorKind::ImagePullFailed, "malformed manifest: indexes lead to indexes"))
    }

    fn manifest(&self, descriptor: &Descriptor, digest: &Digest) -> Result<Fetched> {
        if let Some(data) = self.stored(digest)? {
            return Ok(Fetched { data, digest: digest.clone() });
        }
        let fetched = Fetched::new(self.source.manifest(descriptor)?);
        if fetched.digest != *digest {
            crate::bail!(DigestMismatch, "manifest {digest} has the digest {}", fetched.digest);
        }
        Ok(fetched)
    }

    /// A small blob that is in the store already; none if it is not, or not whole.
    fn stored(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let Ok(file) = self.store.blobs().open(digest) else { return Ok(None) };
        let mut data = Vec::new();
        file.take(MAX_MANIFEST_SIZE + 1).read_to_end(&mut data).map_err(Error::from)?;
        Ok((Digest::of(&data) == *digest).then_some(data))
    }

    fn put_small(&self, lease: &Lease<'_>, digest: &Digest, data: &[u8]) -> Result<()> {
        if self.stored(digest)?.is_some() {
            return Ok(());
        }
        lease.put(digest, data)
    }

    fn configure(&self, lease: &Lease<'_>, digest: Digest, manifest: ImageManifest) -> Result<Resolved> {
        let config_digest = digest_of(manifest.config())?;
        lease.need([&config_digest])?;
        let config = self.config(lease, &manifest, &config_digest)?;
        if manifest.layers().len() > self.limits.max_layers {
            crate::bail!(
                ImageTooLarge,
                "the image has {} layers, more than {} (limits.max_layers)",
                manifest.layers().len(),
                self.limits.max_layers
            );
        }
        let jobs = jobs(&manifest, &config, self.limits.max_rootfs_size)?;
        jobs.iter().try_for_each(|job| self.check_size(job))?;
        lease.need(jobs.iter().flat_map(|job| std::iter::once(&job.digest).chain(&job.diff_id)))?;
        let platform = PlatformSpec {
            os: config.os().to_string(),
            arch: config.architecture().to_string(),
            variant: config.variant().clone(),
        };
        if self.platform.rank(&platform).is_none() {
            self.progress.note(&format!("the image is for {platform} and not for {}", self.platform));
        }
        Ok(Resolved { manifest_digest: digest, manifest, config_digest, jobs, platform })
    }

    fn config(
        &self,
        lease: &Lease<'_>,
        manifest: &ImageManifest,
        digest: &Digest,
    ) -> Result<ImageConfiguration> {
        let size = manifest.config().size();
        if size > MAX_CONFIG_SIZE {
            crate::bail!(ImageTooLarge, "the image configuration has more than {MAX_CONFIG_SIZE} bytes");
        }
        let cannot = || format!("image configuration {digest}");
        if let Some(data) = self.stored(digest)? {
            return manifest::parse_config(&data, manifest);
        }
        let mut data = Vec::new();
        let content = self.source.blob(manifest.config()).context(cannot)?;
        content.take(MAX_CONFIG_SIZE + 1).read_to_end(&mut data).context(cannot)?;
        lease.put(digest, &data).context(cannot)?;
        manifest::parse_config(&data, manifest)
    }

    fn check_size(&self, job: &Job) -> Result<()> {
        let size = job.descriptor.size();
        let module = job.diff_id.is_none() && job.descriptor.media_type().to_string().contains("wasm");
        if module && size > MAX_WASM_MODULE_SIZE {
            crate::bail!(
                ImageTooLarge,
                "module {} has {size} bytes, more than {MAX_WASM_MODULE_SIZE}",
                job.digest
            );
        }
        if size > self.limits.max_layer_size {
            crate::bail!(
                ImageTooLarge,
                "layer {} has {size} bytes, more than {} (limits.max_layer_size)",
                job.digest,
                self.limits.max_layer_size
            );
        }
        Ok(())
    }

    /// Brings all layers, several at once. The first error ends the others.
    fn layers(&self, lease: &Lease<'_>, resolved: &Resolved) -> Result<()> {
        let mappings = self.store.mappings();
        let state = State {
            next: Mutex::new(resolved.jobs.iter()),
            error: Mutex::new(None),
            cancelled: AtomicBool::new(false),
        };
        let work = || {
            while let Some(job) = state.next() {
                let done = self.layer(lease, job, mappings.as_ref(), &state);
                state.note(done.map_err(|e| e.wrap(format!("layer {}", job.digest))));
            }
        };
        let helpers = self.threads().min(resolved.jobs.len()).saturating_sub(1);
        std::thread::scope(|scope| {
            for _ in 0..helpers {
                // This thread works too, and alone where no other can be made.
                let _ = Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let error = state.error.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        error.map_or(Ok(()), Err)?;
        debug_assert!(resolved.manifest.layers().len() >= resolved.jobs.len());
        Ok(())
    }

    fn threads(&self) -> usize {
        let useful = std::thread::available_parallelism().map_or(1, usize::from).max(MIN_PARALLEL);
        let wanted = if self.parallel == 0 { useful } else { self.parallel };
        wanted.clamp(1, MAX_INFLIGHT_BLOBS)
    }

    /// Brings one layer: whatever of it is missing.
    fn layer(
        &self,
        lease: &Lease<'_>,
        job: &Job,
        mappings: Option<&IdMappings>,
        state: &State<'_>,
    ) -> Result<()> {
        let _one = self.store.lock_item(&job.digest)?;
        let blobs = self.store.blobs();
        let unpacked = match &job.diff_id {
            Some(diff_id) => self.store.layer(diff_id)?.is_some(),
            None => true,
        };
        // One that is shorter or longer was damaged.
        let whole =
            std::fs::metadata(blobs.path(&job.digest)).is_ok_and(|blob| blob.len() == job.descriptor.size());
        if unpacked && whole {
            self.progress.exists(&job.digest);
            return self.count(job);
        }
        self.progress.started(&job.digest, job.descriptor.size());
        let Some(diff_id) = job.diff_id.as_ref().filter(|_| !unpacked) else {
            let transfer = self.transfer(lease, job, state, true)?;
            transfer.store(self.source.blob(&job.descriptor)?)?;
            self.progress.finished(&job.digest);
            return self.count(job);
        };
        if whole && let Ok(stored) = blobs.open(&job.digest) {
            match self.unpack(lease, job, diff_id, stored, false, mappings, state) {
                // What is in the store is damaged: it is brought again.
                Err(e) if e.kind() == ErrorKind::DigestMismatch => {
                    tracing::warn!("blob {} is damaged in the store", job.digest);
                    blobs.remove(&job.digest)?;
                }
                done => return done,
            }
        }
        let content = self.source.blob(&job.descriptor)?;
        self.unpack(lease, job, diff_id, content, true, mappings, state)
    }

    fn transfer<'t>(
        &'t self,
        lease: &Lease<'_>,
        job: &'t Job,
        state: &'t State<'_>,
        store: bool,
    ) -> Result<Transfer<'t>> {
        let limit = self.limits.max_layer_size.max(job.descriptor.size());
        let writer = || self.store.blobs().writer(&job.digest, limit, Some(lease.path()));
        Ok(Transfer {
            digest: &job.digest,
            size: job.descriptor.size(),
            writer: store.then(writer).transpose()?,
            progress: self.progress,
            cancelled: &state.cancelled,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "all of them are what one layer needs")]
    fn unpack(
        &self,
        lease: &Lease<'_>,
        job: &Job,
        diff_id: &Digest,
        content: impl std::io::Read,
        store: bool,
        mappings: Option<&IdMappings>,
        state: &State<'_>,
    ) -> Result<()> {
        let (directory, files) = lease.new_layer(diff_id)?;
        // A failed attempt may have taken some of it.
        job.share.reset();
        let rules = Rules { limits: self.limits.clone(), share: job.share.clone(), rootless: !privileged() };
        let transfer = self.transfer(lease, job, state, store)?;
        let (unpacked, transfer) = transfer.unpack(content, &files, &rules, mappings)?;
        if unpacked.skipped_devices > 0 {
            let count = unpacked.skipped_devices;
            self.progress.note(&format!(
                "layer {}: {count} device nodes need privileges and were left out",
                job.digest
            ));
        }
        lease.publish_layer(&directory, diff_id, &unpacked)?;
        transfer.publish()?;
        self.progress.finished(&job.digest);
        Ok(())
    }

    /// Adds a layer that is there already to the size of the whole image.
    fn count(&self, job: &Job) -> Result<()> {
        let Some(diff_id) = &job.diff_id else { return Ok(()) };
        job.share.take(self.store.layer_description(diff_id)?.size)
    }
}

/// What the threads of a pull share.
struct State<'a> {
    next: Mutex<std::slice::Iter<'a, Job>>,
    error: Mutex<Option<Error>>,
    cancelled: AtomicBool,
}

impl<'a> State<'a> {
    fn next(&self) -> Option<&'a Job> {
        if self.cancelled.load(Ordering::Relaxed) {
            return None;
        }
        self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next()
    }

    fn note(&self, done: Result<()>) {
        if let Err(e) = done {
            self.cancelled.store(true, Ordering::Relaxed);
            self.error.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(e);
        }
    }
}

/// The layers of a manifest, each once, with what they unpack to: `limit` bytes all together.
fn jobs(manifest: &ImageManifest, config: &ImageConfiguration, limit: u64) -> Result<Vec<Job>> {
    let mut shares = Share::of(limit, manifest.layers().len())?;
    let mut diff_ids = config.rootfs().diff_ids().iter();
    let mut jobs: Vec<Job> = Vec::new();
    let artifact = manifest::is_artifact(manifest);
    for descriptor in manifest.layers() {
        let digest = digest_of(descriptor)?;
        let diff_id = if is_archive(descriptor) && !artifact {
            let text = diff_ids.next().ok_or_else(|| mismatch(manifest, config))?;
            Some(text.parse().map_err(|_| {
                Error::new(
                    ErrorKind::NotSupported,
                    format!("diff_id '{text}' is not supported: only sha256 is"),
                )
            })?)
        } else {
            None
        };
        if let Some(known) = jobs.iter().find(|job| job.digest == digest) {
            if known.diff_id != diff_id || known.descriptor.size() != descriptor.size() {
                crate::bail!(
                    ImagePullFailed,
                    "malformed manifest: layer {digest} is listed twice, differently"
                );
            }
            continue;
        }
        let Some(share) = shares.pop() else { break };
        jobs.push(Job { descriptor: descriptor.clone(), digest, diff_id, share });
    }
    if diff_ids.next().is_some() && !artifact {
        return Err(mismatch(manifest, config));
    }
    Ok(jobs)
}

fn mismatch(manifest: &ImageManifest, config: &ImageConfiguration) -> Error {
    Error::new(
        ErrorKind::ImagePullFailed,
        format!(
            "malformed image: it has {} layers, and its configuration {} diff_ids",
            manifest.layers().len(),
            config.rootfs().diff_ids().len()
        ),
    )
}

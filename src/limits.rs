//! Every cap and timeout, in one place: the unit is in the name or the type, the reason in the text.

use std::time::Duration;

/// Longest image reference accepted, in bytes.
pub const MAX_IMAGE_REF_LEN: usize = 512;
/// Largest compressed layer, in bytes (512 MiB).
pub const MAX_LAYER_SIZE: u64 = 512 << 20;
/// Largest extracted root file system, in bytes (4 GiB).
pub const MAX_ROOTFS_SIZE: u64 = 4 << 30;
/// Most layers in one image; overlayfs takes this many as lower directories.
pub const MAX_LAYERS: usize = 128;
/// Most entries in one layer: an archive must not exhaust the inodes of a file system.
pub const MAX_FILES_PER_LAYER: usize = 100_000;
/// How many times larger than itself a layer may unpack to, once it is past [`MIN_EXPANDED_SIZE`]: a bomb is stopped early.
/// Text compresses to a tenth; deflate cannot exceed 1032.
pub const MAX_EXPANSION: u64 = 200;
/// A layer that unpacks to less than this, in bytes (64 MiB), is no bomb, however small it is compressed.
pub const MIN_EXPANDED_SIZE: u64 = 64 << 20;
/// Largest manifest, in bytes (1 MiB): it is parsed in memory before it is trusted.
pub const MAX_MANIFEST_SIZE: u64 = 1 << 20;
/// Largest image configuration or `config.json`, in bytes (1 MiB): parsed in memory before it is trusted.
pub const MAX_CONFIG_SIZE: u64 = 1 << 20;
/// Most containers under one state root; the operator's configuration can raise it.
pub const MAX_CONTAINERS: usize = 1024;
/// Most pods under one state root.
pub const MAX_PODS: usize = 1024;
/// Most containers of one pod, init containers included.
pub const MAX_POD_CONTAINERS: usize = 16;
/// Most volumes of one pod.
pub const MAX_POD_VOLUMES: usize = 64;
/// Longest container id, in bytes: it becomes part of file and cgroup names.
pub const MAX_CONTAINER_ID_LEN: usize = 128;
/// Largest WebAssembly module, in bytes (256 MiB).
pub const MAX_WASM_MODULE_SIZE: u64 = 256 << 20;
/// Most memory pages of 64 KiB of a WebAssembly instance (4 GiB, all that wasm32 can address).
pub const MAX_WASM_MEMORY_PAGES: u32 = 65_536;
/// Default number of WebAssembly operations before a module without a processor limit is stopped.
pub const DEFAULT_WASM_FUEL: u64 = 1_000_000_000;
/// Most elements of one table of a WebAssembly instance: 8 MB of pointers.
pub const MAX_WASM_TABLE_ELEMENTS: u64 = 1_000_000;
/// Most core instances of a WebAssembly program, and as many tables and memories; components have a few dozen.
pub const MAX_WASM_INSTANCES: u64 = 1000;
/// Most memory of the compiler of WebAssembly, in bytes: this (1 GiB) for any module, and
pub const WASM_COMPILER_MEMORY: u64 = 1 << 30;
/// so many bytes more for each byte of the module. Ordinary ones take a dozen.
pub const WASM_COMPILER_MEMORY_PER_BYTE: u64 = 64;
/// Most processor time of the compiler of WebAssembly, in seconds: this for any module, and
pub const WASM_COMPILER_SECONDS: u64 = 60;
/// so many seconds more for each MiB of it. Ordinary ones take one or two.
pub const WASM_COMPILER_SECONDS_PER_MIB: u64 = 20;
/// Most bytes of compiled WebAssembly code that are kept (4 GiB); what was not used for longest goes first.
pub const MAX_WASM_STORE_BYTES: u64 = 4 << 30;
/// Most memory of a microVM, in MiB.
pub const MAX_VM_MEMORY_MIB: u32 = 4096;
/// Most virtual processors of a microVM.
pub const MAX_VCPUS: u8 = 8;
/// Memory limit of a container in a bundle that we build, in bytes, unless told otherwise (256 MiB).
pub const DEFAULT_MEMORY_BYTES: u64 = 256 << 20;
/// Largest memory limit of a container in a bundle that we build, in bytes (8 GiB).
pub const MAX_MEMORY_BYTES: u64 = 8 << 30;
/// A pull fails when it has made no progress for this long.
pub const IMAGE_PULL_TIMEOUT: Duration = Duration::from_secs(300);
/// A container that has not become ready after this long has failed to start.
pub const CONTAINER_START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between SIGTERM and SIGKILL.
pub const DEFAULT_GRACE_PERIOD: Duration = Duration::from_secs(30);
/// Limit of an exec by the library, a probe or a control socket; never of the `exec` command.
pub const EXEC_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the guest of a microVM that runs may take to answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most blobs downloaded at the same time.
pub const MAX_INFLIGHT_BLOBS: usize = 256;

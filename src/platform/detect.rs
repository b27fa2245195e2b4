//! What this host can do, asked once.

use crate::platform::sys::seccomp::action_available;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

/// `SECCOMP_RET_ERRNO` of linux/seccomp.h: every kernel with filters has it.
const SECCOMP_RET_ERRNO: u32 = 0x0005_0000;

/// Operating systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Os {
    /// Linux.
    Linux,
    /// macOS.
    Darwin,
    /// Windows.
    Windows,
}

/// Processor architectures, by their names in OCI images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
    /// Any other.
    Other(&'static str),
}

impl Arch {
    /// The name in OCI images.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Other(name) => name,
        }
    }
}

/// What a host may be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// Containers in Linux namespaces.
    NativeContainers,
    /// The unified cgroup hierarchy at its usual place.
    CgroupsV2,
    /// System call filters.
    Seccomp,
    /// A hypervisor that ordinary guests boot on.
    Hypervisor,
    /// WebAssembly.
    WasmRuntime,
}

/// This host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Operating system.
    pub os: Os,
    /// Architecture.
    pub arch: Arch,
    /// What it can do.
    pub capabilities: Vec<Capability>,
}

impl Platform {
    /// Asks this host.
    pub fn detect() -> Self {
        let os = if cfg!(target_os = "macos") {
            Os::Darwin
        } else if cfg!(target_os = "windows") {
            Os::Windows
        } else {
            Os::Linux
        };
        let arch = match std::env::consts::ARCH {
            "x86_64" => Arch::Amd64,
            "aarch64" => Arch::Arm64,
            other => Arch::Other(other),
        };
        let probes: [(Capability, fn() -> bool); 5] = [
            (Capability::NativeContainers, || Path::new("/proc/self/ns/pid").exists()),
            (Capability::CgroupsV2, || Path::new("/sys/fs/cgroup/cgroup.controllers").exists()),
            (Capability::Seccomp, || action_available(SECCOMP_RET_ERRNO)),
            (Capability::Hypervisor, || hypervisor_fault(Path::new("/")).is_none()),
            (Capability::WasmRuntime, || true),
        ];
        let capabilities = probes.iter().filter(|(_, probe)| probe()).map(|(what, _)| *what).collect();
        Self { os, arch, capabilities }
    }

    /// The platform of images for this host, as in `linux/amd64`.
    pub fn oci_platform(&self) -> String {
        let os = match self.os {
            Os::Linux => "linux",
            Os::Darwin => "darwin",
            Os::Windows => "windows",
        };
        format!("{os}/{}", self.arch.name())
    }

    /// True if it can do this.
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// True if it runs containers in namespaces.
    pub fn supports_native_containers(&self) -> bool {
        self.has(Capability::NativeContainers)
    }

    /// True if microVMs boot on it.
    pub fn has_hypervisor(&self) -> bool {
        self.has(Capability::Hypervisor)
    }
}

/// Why microVMs do not boot on the machine whose files are below `root`; none if they do.
///
/// A `/dev/kvm` that can be opened is not enough: on a host that is itself a guest of a paravirtual KVM (`kvm_pvm`), only
/// guests made for that boot.
pub fn hypervisor_fault(root: &Path) -> Option<String> {
    if let Err(e) = std::fs::OpenOptions::new().read(true).write(true).open(root.join("dev/kvm")) {
        return Some(format!("cannot open /dev/kvm: {}", crate::error::Error::from(e)));
    }
    if root.join("sys/module/kvm_pvm").exists() {
        return Some("/dev/kvm is kvm_pvm's, on which ordinary guests do not boot".to_owned());
    }
    (cfg!(target_arch = "x86_64") && !virtualizes(&root.join("proc/cpuinfo")))
        .then(|| "the processor has no vmx or svm, or does not show it to this guest".to_owned())
}

/// Whether the first processor of a list has the hardware for virtual machines. The kernel makes the list while it is read, and that of a
/// large machine takes long.
fn virtualizes(cpuinfo: &Path) -> bool {
    let Ok(file) = File::open(cpuinfo) else { return false };
    let mut lines = BufReader::new(file).lines().map_while(Result::ok);
    let flags = lines.find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_named_as_images_name_it() {
        let platform = Platform::detect();
        assert!(platform.oci_platform().starts_with("linux/"));
        assert!(platform.has(Capability::WasmRuntime));
        assert_eq!(platform.has(Capability::NativeContainers), platform.supports_native_containers());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_hypervisor_counts_only_if_ordinary_guests_boot_on_it() {
        let root = tempfile::tempdir().unwrap();
        let fault = || hypervisor_fault(root.path());
        assert_eq!(fault().unwrap(), "cannot open /dev/kvm: no such file or directory");
        let file = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        file("dev/kvm", "");
        file("proc/cpuinfo", "flags : fpu sse3\n");
        assert!(fault().unwrap().contains("vmx"));
        file("proc/cpuinfo", "flags : fpu svm sse3\n");
        assert_eq!(fault(), None);
        file("sys/module/kvm_pvm/parameters", "");
        assert!(fault().unwrap().contains("kvm_pvm"));
    }
}

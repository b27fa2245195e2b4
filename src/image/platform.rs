//! For which machines an image is.

use crate::error::{Error, ErrorKind, Result};
use crate::platform::detect::Platform;
use oci_spec::image::Platform as OciPlatform;
use std::fmt;
use std::str::FromStr;

/// A platform as images name it: `linux/amd64`, `linux/arm/v7`, `wasi/wasm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformSpec {
    /// Operating system, `GOOS`.
    pub os: String,
    /// Architecture, `GOARCH`.
    pub arch: String,
    /// Variant of the architecture.
    pub variant: Option<String>,
}

/// How far a WebAssembly image stands behind one for the host.
const WASM_RANK: u32 = 1000;

impl PlatformSpec {
    /// The platform of this host.
    pub fn host() -> Self {
        let name = Platform::detect().oci_platform();
        let (os, arch) = name.split_once('/').unwrap_or(("linux", "amd64"));
        Self { os: os.to_owned(), arch: arch.to_owned(), variant: host_variant().map(str::to_owned) }
    }

    /// What a descriptor says.
    pub fn of(platform: &OciPlatform) -> Self {
        Self {
            os: platform.os().to_string(),
            arch: platform.architecture().to_string(),
            variant: platform.variant().clone().filter(|variant| !variant.is_empty()),
        }
    }

    /// How well an image for `candidate` fits, best is lowest; `None` if it does not run here.
    ///
    /// Variants are downward compatible: a machine of level v3 runs what is for v3, v2, v1 and none.
    pub fn rank(&self, candidate: &Self) -> Option<u32> {
        let wasm = |spec: &Self| spec.arch == "wasm" && spec.os.starts_with("wasi");
        if wasm(candidate) {
            return Some(if wasm(self) { u32::from(self.os != candidate.os) } else { WASM_RANK });
        }
        if self.os != candidate.os || self.arch != candidate.arch {
            return None;
        }
        let (wanted, there) = (self.level(), candidate.level());
        (there <= wanted).then(|| wanted - there)
    }

    fn level(&self) -> u32 {
        let number = self.variant.as_deref().and_then(|variant| variant.strip_prefix('v'));
        // As containerd normalises: without a variant, 64-bit ARM is v8, 32-bit ARM is v7, 64-bit x86 is v1.
        let default = match self.arch.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        };
        number.map_or(default, |number| number.parse().unwrap_or(u32::MAX))
    }
}

/// The level of the x86-64 psABI that this processor reaches.
#[cfg(target_arch = "x86_64")]
fn host_variant() -> Option<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    if !(has!("sse4.2") && has!("popcnt") && has!("ssse3")) {
        return None;
    }
    if !(has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma") && has!("lzcnt") && has!("movbe")) {
        return Some("v2");
    }
    let v4 = has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    Some(if v4 { "v4" } else { "v3" })
}

#[cfg(not(target_arch = "x86_64"))]
fn host_variant() -> Option<&'static str> {
    None
}

impl fmt::Display for PlatformSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for PlatformSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match parts.as_slice() {
            [os, arch, variant @ ..] if variant.len() < 2 && parts.iter().all(word) => Ok(Self {
                os: (*os).to_owned(),
                arch: (*arch).to_owned(),
                variant: variant.first().map(|variant| (*variant).to_owned()),
            }),
            _ => Err(Error::new(
                ErrorKind::Usage,
                format!("invalid platform '{}': it is OS/ARCH[/VARIANT]", text.escape_default()),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_what_runs_here_is_chosen() {
        for (wanted, candidate, rank) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64/v3", "linux/amd64/v2", Some(1)),
            ("linux/amd64/v3", "linux/amd64", Some(2)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64", "linux/arm64/v9", None),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/amd64", "linux/arm64", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/amd64", "wasi/wasm", Some(WASM_RANK)),
            ("wasi/wasm", "wasip1/wasm", Some(1)),
            ("linux/amd64", "unknown/unknown", None),
        ] {
            let spec = |text: &str| text.parse::<PlatformSpec>().unwrap();
            assert_eq!(spec(wanted).rank(&spec(candidate)), rank, "{wanted} {candidate}");
        }
        assert_eq!(
            PlatformSpec::host().rank(&"linux/amd64".parse().unwrap()).is_some(),
            cfg!(target_arch = "x86_64")
        );
    }

    #[test]
    fn a_platform_is_two_or_three_words() {
        for text in ["", "linux", "linux/", "linux/amd64/v1/x", "Linux/amd64", "linux/../x"] {
            assert!(text.parse::<PlatformSpec>().is_err(), "{text}");
        }
        assert_eq!("linux/arm/v7".parse::<PlatformSpec>().unwrap().to_string(), "linux/arm/v7");
    }
}

//! What the kernel's security modules can do for a container here.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Where the kernel shows its modules, those that are built in too.
const MODULES: &str = "/sys/module";
/// Begins with `Y` where AppArmor confines processes.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";

/// Whether profiles of AppArmor confine anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppArmor {
    /// They do.
    Enabled,
    /// The kernel has none, or was booted without it: no profile of any process means anything.
    Absent,
    /// It cannot be seen, as where sysfs is not mounted: perhaps they do.
    Unknown,
}

impl AppArmor {
    /// Asks the kernel.
    pub fn probe() -> Self {
        match fs::read_to_string(APPARMOR) {
            Ok(text) => Self::from_parameter(&text),
            Err(e) if e.kind() == ErrorKind::NotFound && Path::new(MODULES).is_dir() => Self::Absent,
            Err(_) => Self::Unknown,
        }
    }

    fn from_parameter(text: &str) -> Self {
        if text.starts_with('Y') { Self::Enabled } else { Self::Absent }
    }
}

/// What of the host the checks of a configuration need to know.
#[derive(Debug, Clone, Copy)]
pub struct KernelSecurity {
    /// SELinux is enabled.
    pub selinux: bool,
    /// AppArmor.
    pub apparmor: AppArmor,
}

impl KernelSecurity {
    /// Asks the kernel.
    pub fn probe() -> Self {
        Self { selinux: Path::new("/sys/fs/selinux/enforce").exists(), apparmor: AppArmor::probe() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apparmor_that_was_switched_off_is_as_good_as_none() {
        assert_eq!(AppArmor::from_parameter("Y\n"), AppArmor::Enabled);
        assert_eq!(AppArmor::from_parameter("N\n"), AppArmor::Absent);
    }
}

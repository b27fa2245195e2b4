//! The container's null device.

use crate::error::{Context as _, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, fstat, major, minor, open};

const PATH: &str = "/dev/null";

/// Opens it: really that, and not what an image or a racing container put in its place (CVE-2025-31133).
pub(super) fn open_device(flags: OFlags) -> Result<OwnedFd> {
    let null = open(PATH, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open '{PATH}'"))?;
    if !is_device(&null) {
        crate::bail!(CreateFailed, "'{PATH}' is not the null device");
    }
    Ok(null)
}

/// Standard streams that are the host's null device become that of the container: a checkpoint can be made only of files that
/// the container's mounts have. A container without the device keeps the host's.
pub(super) fn reopen_streams() -> Result<()> {
    let [input, output, errors] = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let theirs = [is_device(input), is_device(output), is_device(errors)];
    if theirs == [false; 3] {
        return Ok(());
    }
    // Nothing that stands in its place may keep us waiting, or become our terminal.
    let Ok(null) = open_device(OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY) else { return Ok(()) };
    let cannot = || format!("cannot make '{PATH}' a standard stream");
    rustix::fs::fcntl_setfl(&null, OFlags::empty()).context(cannot)?;
    if theirs[0] {
        rustix::stdio::dup2_stdin(&null).context(cannot)?;
    }
    if theirs[1] {
        rustix::stdio::dup2_stdout(&null).context(cannot)?;
    }
    if theirs[2] {
        rustix::stdio::dup2_stderr(&null).context(cannot)?;
    }
    Ok(())
}

fn is_device(file: impl AsFd) -> bool {
    fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_from_other_devices_and_files() {
        assert!(open_device(OFlags::PATH).is_ok());
        assert!(is_device(std::fs::File::open(PATH).unwrap()));
        assert!(!is_device(std::fs::File::open("/dev/zero").unwrap()));
        assert!(!is_device(tempfile::tempfile().unwrap()));
    }
}

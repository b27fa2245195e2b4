//! A block device of a file, which the kernel takes away when nothing uses it any more.

use super::options::LoopDevice;
use crate::error::{Context as _, Error, Result};
use crate::ffi;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::time::Duration;

/// Where free devices are asked for.
const CONTROL: &str = "/dev/loop-control";
/// How often another is asked for when somebody else was faster.
const ATTEMPTS: u32 = 100;

/// A device. It exists until this goes away and it is unmounted.
pub struct Attached {
    /// Its path.
    pub path: String,
    _device: File,
}

/// Makes a device of a file.
pub fn attach(file: &str, wanted: LoopDevice, read_only: bool) -> Result<Attached> {
    let open = |path: &str| {
        let opened = OpenOptions::new().read(true).write(!read_only).open(path);
        opened.context(|| format!("cannot open '{path}'"))
    };
    let backing = open(file)?;
    let control = OpenOptions::new().read(true).write(true).open(CONTROL);
    let control =
        control.context(|| format!("cannot open '{CONTROL}' (the kernel's module 'loop' has it)"))?;
    for attempt in 0..ATTEMPTS {
        let number = ffi::free_loop_device(&control).context(|| "cannot find a free loop device")?;
        let path = format!("/dev/loop{number}");
        let device = open(&path)?;
        match ffi::configure_loop_device(&device, &backing, file, read_only, wanted.direct) {
            Ok(()) => return Ok(Attached { path, _device: device }),
            Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                std::thread::sleep(Duration::from_millis(attempt.into()));
            }
            Err(e) => return Err(Error::from(e).wrap(format!("cannot make '{path}' of '{file}'"))),
        }
    }
    Err(Error::new("others take every free loop device"))
}

//! Reading a file of an image without mounting it: the topmost layer that has it, as overlayfs would show it.

use crate::error::{Error, Result};
use crate::image::opaque::is_opaque;
use crate::image::store::Layer;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// Links are followed inside of the layer.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Largest file that is read, in bytes (1 MiB).
const MAX_FILE: u64 = 1 << 20;

/// What one layer says of a path.
enum Found {
    File(OwnedFd),
    /// It, or a directory on its way, hides what lower layers have.
    Hidden,
    Nothing,
}

/// The file `directory/name` in the image, open for reading; `None` if there is none.
pub fn open_file(layers: &[Layer], directory: &str, name: &str) -> Result<Option<File>> {
    for layer in layers.iter().rev() {
        match look(layer, directory, name)? {
            Found::File(path) => {
                return File::open(format!("/proc/self/fd/{}", path.as_raw_fd()))
                    .map(Some)
                    .map_err(Error::from);
            }
            Found::Hidden => return Ok(None),
            Found::Nothing => {}
        }
    }
    Ok(None)
}

/// The text of the file `directory/name` in the image; `None` if there is none.
pub fn read(layers: &[Layer], directory: &str, name: &str) -> Result<Option<String>> {
    let Some(file) = open_file(layers, directory, name)? else { return Ok(None) };
    let mut data = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut data).map_err(Error::from)?;
    Ok(Some(String::from_utf8_lossy(&data).into_owned()))
}

/// What the layer does not have, or only a link that leads nowhere; that it could not be asked is an error.
fn absent(e: Errno) -> Result<Found> {
    match e {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => Ok(Found::Nothing),
        e => Err(Error::from(e).wrap("cannot look into a layer")),
    }
}

fn look(layer: &Layer, directory: &str, name: &str) -> Result<Found> {
    let root = open(&layer.path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let parent = match openat2(
        &root,
        directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        INSIDE,
    ) {
        Ok(parent) => parent,
        // A whiteout, or a file in its place.
        Err(Errno::NOTDIR) => return Ok(Found::Hidden),
        Err(e) => return absent(e),
    };
    let path = format!("{directory}/{name}");
    match openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), INSIDE) {
        Ok(file) => {
            let regular = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile;
            return Ok(if regular { Found::File(file) } else { Found::Hidden });
        }
        Err(e) => drop(absent(e)?),
    }
    Ok(if is_opaque(&parent)? { Found::Hidden } else { Found::Nothing })
}

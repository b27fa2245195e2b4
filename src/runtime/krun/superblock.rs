//! What a disk says that it holds: the file systems of the guest's kernel, told from the first bytes.

/// How much of a disk must be read, in bytes: up to the end of the superblock that lies farthest from its begin, that of btrfs.
pub const HEAD: usize = (64 << 10) + 4096;

/// A file system that a guest can have as its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Its name for mount(2).
    pub name: &'static str,
    /// Nothing can ever write to it.
    pub read_only: bool,
    /// How long the disk must be, in bytes, where that is easily told; otherwise 0.
    pub size: u64,
}

/// Names of these file systems, for messages.
pub const NAMES: &str = "ext4 (or ext2, ext3), xfs, btrfs or erofs";

/// What the begin of a disk, of [`HEAD`] bytes unless the disk has fewer, shows; none: nothing that is known.
pub fn recognise(head: &[u8]) -> Option<FileSystem> {
    let is = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    let of = |name, read_only, size| Some(FileSystem { name, read_only, size });
    // Numbers in all of these are little-endian; each magic number is that of the kernel's linux/magic.h.
    match () {
        // The superblock is at 1024; the driver of ext4 takes its elder siblings too.
        () if is(1080, &[0x53, 0xef]) => of("ext4", false, size_of_ext(head)),
        () if is(0, b"XFSB") => of("xfs", false, 0),
        () if is((64 << 10) + 64, b"_BHRfS_M") => of("btrfs", false, 0),
        () if is(1024, &[0xe2, 0xe1, 0xf5, 0xe0]) => of("erofs", true, 0),
        () => None,
    }
}

/// The number of blocks times their size.
fn size_of_ext(head: &[u8]) -> u64 {
    let number = |at: usize| {
        head.get(1024 + at..1024 + at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    // The upper half of the number of blocks is meant only with the feature for it.
    let upper = if number(96) & 0x80 == 0 { 0 } else { u64::from(number(336)) << 32 };
    let blocks = upper | u64::from(number(4));
    blocks.saturating_mul(1024_u64.checked_shl(number(24)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn head(at: usize, magic: &[u8]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[at..at + magic.len()].copy_from_slice(magic);
        head
    }

    #[test]
    fn file_systems_are_told_by_their_magic_numbers() {
        let name = |head: &[u8]| recognise(head).map(|found| (found.name, found.read_only));
        assert_eq!(name(&head(0, b"XFSB")), Some(("xfs", false)));
        assert_eq!(name(&head(65600, b"_BHRfS_M")), Some(("btrfs", false)));
        assert_eq!(name(&head(1024, &[0xe2, 0xe1, 0xf5, 0xe0])), Some(("erofs", true)));
        // A partition table, nothing, and less than nothing.
        assert_eq!(name(&head(510, &[0x55, 0xaa])), None);
        assert_eq!(name(&[]), None);
    }

    #[test]
    fn a_file_system_of_ext_says_how_long_its_disk_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-F", "-t", "ext4", "-b", "4096"]).arg(file.path()).arg("2M");
        let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
        assert!(command.env("PATH", path).status().expect("mke2fs of e2fsprogs").success());
        let data = std::fs::read(file.path()).unwrap();
        let found = recognise(&data[..HEAD]).unwrap();
        assert_eq!(found, FileSystem { name: "ext4", read_only: false, size: 2 << 20 });
        let mut large = data[..HEAD].to_vec();
        large[1024 + 96] |= 0x80;
        large[1024 + 336] = 1;
        assert_eq!(recognise(&large).unwrap().size, (1 << 44) + (2 << 20));
        large[1024 + 24] = 255;
        assert_eq!(recognise(&large).unwrap().size, 0);
    }
}

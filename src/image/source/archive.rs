//! Archives of images: the members are read where they are, nothing is unpacked.

use super::layout::{Chosen, choose, read_to_limit};
use super::{Fetched, Source};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::extract::{Extensions, has_right_checksum};
use crate::image::manifest::digest_of;
use crate::image::reference::Reference;
use oci_spec::image::Descriptor;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most members of an archive of an image: layers, manifests and some files more for each.
const MAX_MEMBERS: usize = 10_000;
/// Size of a block of an archive.
const BLOCK: u64 = 512;
/// Largest extended header or long name, in bytes: parsed in memory.
const MAX_EXTENSION: u64 = 1 << 20;
/// Most links from one member to another.
const MAX_LINKS: usize = 8;

/// A tar archive whose members can be read in any order.
#[derive(Debug)]
pub(super) struct TarFile {
    path: PathBuf,
    file: Arc<File>,
    members: HashMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File { start: u64, length: u64 },
    Link(String),
}

impl TarFile {
    /// Opens an archive, which must not be compressed, and finds its members.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read archive '{}'", path.display());
        let file = File::open(path).or_kind(ErrorKind::ImagePullFailed, cannot)?;
        let members = members(&file).or_kind(ErrorKind::ImagePullFailed, cannot)?;
        Ok(Self { path: path.to_owned(), file: Arc::new(file), members })
    }

    /// Where the archive is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a member; links between members are followed.
    pub(super) fn member(&self, name: &str) -> Result<Range> {
        let mut name = normal(name);
        for _ in 0..MAX_LINKS {
            match self.members.get(&name) {
                Some(Member::File { start, length }) => {
                    return Ok(Range { file: Arc::clone(&self.file), at: *start, end: start + length });
                }
                Some(Member::Link(target)) => name.clone_from(target),
                None => break,
            }
        }
        Err(Error::new(
            ErrorKind::BlobNotFound,
            format!("archive '{}' has no '{}'", self.path.display(), name.escape_default()),
        ))
    }

    /// A member that is parsed in memory.
    pub(super) fn small_member(&self, name: &str) -> Result<Vec<u8>> {
        read_to_limit(self.member(name)?).map_err(|e| {
            e.wrap(format!("cannot read '{}' in '{}'", name.escape_default(), self.path.display()))
        })
    }
}

/// Finds the members without reading their content. Only names are kept in memory, and those have a limit each.
fn members(file: &File) -> Result<HashMap<String, Member>> {
    let (mut members, mut extensions, mut at) = (HashMap::new(), Extensions::default(), 0u64);
    while let Some(header) = header_at(file, at)? {
        let malformed =
            |e: std::io::Error| Error::new(ErrorKind::ImagePullFailed, format!("malformed archive: {e}"));
        let start = at + BLOCK;
        let mut size = header.entry_size().map_err(malformed)?;
        match header.entry_type().as_byte() {
            b'x' => extensions.add(&extension_at(file, start, size)?)?,
            b'L' => extensions.path = Some(text(extension_at(file, start, size)?)),
            b'K' => extensions.link = Some(text(extension_at(file, start, size)?)),
            b'g' => {}
            kind => {
                let Extensions { path, link, size: own_size, .. } = std::mem::take(&mut extensions);
                size = own_size.unwrap_or(size);
                let name = path.unwrap_or_else(|| header.path_bytes().into_owned());
                let link = link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
                let name = normal(&String::from_utf8_lossy(&name));
                match kind {
                    0 | b'0' | b'7' => drop(members.insert(name, Member::File { start, length: size })),
                    b'1' | b'2' => {
                        size = 0;
                        let target = target(&name, &link.unwrap_or_default(), kind == b'2');
                        members.insert(name, Member::Link(target));
                    }
                    _ => size = 0,
                }
            }
        }
        if members.len() > MAX_MEMBERS {
            crate::bail!(ImageTooLarge, "it has more than {MAX_MEMBERS} members");
        }
        let next = size.checked_next_multiple_of(BLOCK).and_then(|size| start.checked_add(size));
        at = next.ok_or_else(|| malformed(std::io::Error::other("a member is too long")))?;
    }
    Ok(members)
}

/// The header at an offset; none at the end of the archive.
fn header_at(file: &File, at: u64) -> Result<Option<tar::Header>> {
    let mut header = tar::Header::new_old();
    match file.read_exact_at(header.as_mut_bytes(), at) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read.map_err(Error::from)?,
    }
    let empty = header.as_bytes().iter().all(|b| *b == 0);
    if !empty && !has_right_checksum(&header) {
        crate::bail!(
            ImagePullFailed,
            "malformed archive: the checksum of a header is wrong (is it a tar archive?)"
        );
    }
    Ok((!empty).then_some(header))
}

/// What describes the next member.
fn extension_at(file: &File, at: u64, size: u64) -> Result<Vec<u8>> {
    if size > MAX_EXTENSION {
        crate::bail!(ImagePullFailed, "malformed archive: an extended header has {size} bytes");
    }
    let mut data = vec![0; size as usize];
    file.read_exact_at(&mut data, at).map_err(Error::from)?;
    Ok(data)
}

fn text(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
    name
}

/// What a link between members leads to: a symbolic one starts from where it is.
fn target(name: &str, link: &[u8], symbolic: bool) -> String {
    let link = String::from_utf8_lossy(link).into_owned();
    let base = Path::new(name).parent().filter(|_| symbolic);
    normal(&base.map_or(link.clone(), |base| base.join(&link).to_string_lossy().into_owned()))
}

/// The name without `.` and with `..` resolved: names are keys here, never paths of this machine.
fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A part of a file, read without moving the file's offset.
#[derive(Debug)]
pub(super) struct Range {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Range {
    /// Bytes that are left.
    pub(super) fn len(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.len()).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A tar archive of an OCI image layout.
#[derive(Debug)]
pub struct OciArchive {
    tar: TarFile,
    name: Reference,
    chosen: Chosen,
}

impl OciArchive {
    /// Opens the archive and finds the image `wanted` in it; without a name, the only one.
    pub fn open(path: &Path, wanted: Option<&str>) -> Result<Self> {
        let tar = TarFile::open(path)?;
        let (chosen, name) = choose(&tar.small_member("index.json")?, wanted, path)?;
        Ok(Self { tar, name, chosen })
    }

    fn member(&self, descriptor: &Descriptor) -> Result<Range> {
        self.tar.member(&format!("blobs/sha256/{}", digest_of(descriptor)?.hex()))
    }
}

impl Source for OciArchive {
    fn describe(&self) -> String {
        self.tar.path().display().to_string()
    }

    fn name(&self) -> &Reference {
        &self.name
    }

    fn root(&self) -> Result<Fetched> {
        self.chosen.root(|entry| self.manifest(entry))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        read_to_limit(self.member(descriptor)?)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.member(descriptor)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(directory: &Path) -> PathBuf {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        builder.append_data(&mut header, "a/layer.tar", &b"test"[..]).unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "b/layer.tar", "../a/layer.tar").unwrap();
        builder.append_link(&mut link, "c", "c").unwrap();
        let path = directory.join("x.tar");
        std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
        path
    }

    #[test]
    fn members_are_read_in_place_through_links() {
        let tmp = tempfile::tempdir().unwrap();
        let tar = TarFile::open(&archive(tmp.path())).unwrap();
        for name in ["a/layer.tar", "./b/layer.tar", "b/../a/layer.tar"] {
            assert_eq!(tar.small_member(name).unwrap(), b"test", "{name}");
        }
        assert_eq!(tar.member("nothing").unwrap_err().kind(), ErrorKind::BlobNotFound);
        assert_eq!(tar.member("c").unwrap_err().kind(), ErrorKind::BlobNotFound, "a cycle of links");
    }
}

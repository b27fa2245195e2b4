//! A running machine: QEMU, and the line over which the agent in it takes jobs.

use super::emulator;
use super::image::{Image, archive};
use crate::scratch;
use anyhow::{Context as _, Result, anyhow, bail};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The files of the guest, by their names in its initramfs.
const GUEST: [(&str, &str); 5] = [
    ("init", include_str!("../../vm/init")),
    ("rig/agent", include_str!("../../vm/agent")),
    ("rig/rig.service", include_str!("../../vm/rig.service")),
    ("rig/rig.target", include_str!("../../vm/rig.target")),
    ("rig/delegate.conf", include_str!("../../vm/delegate.conf")),
];
/// How long a machine may take to boot: 20 seconds of processor time, on a machine that may have other work.
const BOOT_LIMIT: Duration = Duration::from_mins(10);
/// How much longer than its limit the agent may take to say that a job was killed.
const GRACE: Duration = Duration::from_mins(1);
/// Memory in MiB.
const MEMORY: &str = "2048";
/// `no_timer_check`: on a host that has other work the kernel would find its timer broken, and panic.
const KERNEL_OPTIONS: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check random.trust_cpu=on";
/// Lines of the console that an error shows.
const CONSOLE_LINES: usize = 15;

/// What kind of machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// No disk and no systemd: busybox in memory, which boots in a third of the time.
    pub(crate) bare: bool,
    /// Further options of the kernel.
    pub(crate) kernel: Vec<String>,
}

/// A machine that runs jobs; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Machine {
    qemu: Child,
    control: ChildStdin,
    answers: Receiver<String>,
    /// The folder that the guest sees as `/job`, and the console's log.
    folder: TempDir,
    jobs: u32,
}

impl Machine {
    /// Boots a machine and waits until it takes jobs.
    pub(super) fn boot(options: &Options) -> Result<Self> {
        let image = Image::get()?;
        let folder = scratch::folder()?;
        let mut command = qemu(&image, folder.path(), options)?;
        let console = format!("file:{}", folder.path().join("console").display());
        command.args(["-serial", &console, "-chardev", "stdio,id=control,signal=off"]);
        let mut qemu = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.path().join("qemu"))?)
            .spawn()
            .context("cannot start QEMU")?;
        let control = qemu.stdin.take().ok_or_else(|| anyhow!("QEMU has no input"))?;
        let output = qemu.stdout.take().ok_or_else(|| anyhow!("QEMU has no output"))?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let machine = Self { qemu, control, answers, folder, jobs: 0 };
        match machine.answer(BOOT_LIMIT)?.as_str() {
            "ready" => Ok(machine),
            other => Err(machine.broken(&format!("said '{other}' and not that it is ready"))),
        }
    }

    /// Runs a shell script; answers its code, or `None` if it took too long, its output and its errors.
    pub(super) fn run(&mut self, script: &str, limit: Duration) -> Result<(Option<i32>, String, String)> {
        self.jobs += 1;
        let number = self.jobs.to_string();
        let folder = self.folder.path().join("job").join(&number);
        fs::create_dir(&folder)?;
        fs::write(folder.join("script"), script)?;
        let begin = Instant::now();
        writeln!(self.control, "{number} {}", limit.as_secs())
            .map_err(|_| self.broken("takes no more jobs"))?;
        let answer = self.answer(limit + GRACE)?;
        let code = answer.strip_prefix(&format!("{number} ")).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| self.broken(&format!("answered '{answer}' to job {number}")))?;
        let text = |name| -> Result<String> {
            Ok(String::from_utf8_lossy(&fs::read(folder.join(name))?).into_owned())
        };
        let outcome = ((begin.elapsed() < limit).then_some(code), text("stdout")?, text("stderr")?);
        fs::remove_dir_all(&folder)?;
        Ok(outcome)
    }

    fn answer(&self, limit: Duration) -> Result<String> {
        self.answers.recv_timeout(limit).map_err(|e| match e {
            RecvTimeoutError::Timeout => self.broken(&format!("did not answer within {} s", limit.as_secs())),
            RecvTimeoutError::Disconnected => self.broken("ended"),
        })
    }

    /// An error with the last that QEMU and the guest's console said.
    fn broken(&self, what: &str) -> anyhow::Error {
        let said = ["qemu", "console"].map(|name| {
            let bytes = fs::read(self.folder.path().join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<_> = text.lines().filter(|line| !line.contains("TCG doesn't support")).collect();
            lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
        });
        anyhow!("the machine {what}; its last words:\n{}", said.join("\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The disk is forgotten anyway: nothing is gained by an orderly end.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Boots a machine with a shell on this terminal, and waits until it ends.
pub(super) fn shell(options: &Options) -> Result<()> {
    let image = Image::get()?;
    let folder = scratch::folder()?;
    let mut options = options.clone();
    options.kernel.push("rig.shell".to_owned());
    let mut command = qemu(&image, folder.path(), &options)?;
    let status = command.args(["-serial", "mon:stdio", "-chardev", "null,id=control"]).status();
    let status = status.context("cannot start QEMU")?;
    if !status.success() {
        bail!("QEMU ended with {status}");
    }
    Ok(())
}

/// The command line, all but the console and the control line. The machine dies with us, and gives way to other work.
fn qemu(image: &Image, folder: &Path, options: &Options) -> Result<Command> {
    fs::create_dir(folder.join("job"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig=KILL", "nice"]).args(emulator::arguments()?);
    // An AMD processor with virtualization: /dev/kvm of the guest runs ordinary guests.
    command.args(["-accel", "tcg", "-cpu", "EPYC,+svm,+npt", "-m", MEMORY]);
    command.args(["-nodefaults", "-no-reboot", "-display", "none"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(initramfs(image, folder)?);
    let mode = if options.bare { "rig.bare" } else { "systemd.unit=rig.target" };
    command.arg("-append").arg(format!("{KERNEL_OPTIONS} {mode} {}", options.kernel.join(" ")));
    if !options.bare {
        let disk = image.disk.display();
        command.args(["-drive", &format!("file={disk},if=virtio,format=raw,snapshot=on,cache=unsafe")]);
    }
    command.args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]);
    let job = folder.join("job");
    command.args(["-virtfs", &format!("local,path={},mount_tag=job,security_model=none", job.display())]);
    command.args(["-device", "virtio-serial", "-device", "virtserialport,chardev=control"]);
    Ok(command)
}

/// The drivers and the guest's scripts, two archives one after the other.
fn initramfs(image: &Image, folder: &Path) -> Result<PathBuf> {
    let stage = scratch::folder()?;
    fs::create_dir(stage.path().join("rig"))?;
    for (name, text) in GUEST {
        fs::write(stage.path().join(name), text)?;
    }
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(stage.path().join("init"), fs::Permissions::from_mode(0o755))?;
    let target = folder.join("initramfs");
    archive(stage.path(), &target)?;
    let mut data = fs::read(&image.drivers)?;
    data.extend(fs::read(&target)?);
    fs::write(&target, data)?;
    Ok(target)
}

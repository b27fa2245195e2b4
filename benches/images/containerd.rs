//! A containerd of the benchmark's own. What a pull costs is mostly its cost, and not that of ctr.

use crate::cost::{Cost, measure};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to start.
const DEADLINE: Duration = Duration::from_secs(60);

/// A containerd that ends with the value.
pub(crate) struct Containerd {
    child: Child,
    /// Where it listens.
    pub(crate) socket: String,
}

impl Containerd {
    /// Starts it with an empty store in `dir`.
    pub(crate) fn start(dir: &Path) -> Result<Self, String> {
        let at = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.grpc.v1.cri', \
             'io.containerd.internal.v1.opt']\n[grpc]\naddress = '{}'\n[ttrpc]\naddress = '{}'\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc")
        );
        let file = dir.join("config.toml");
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&file, config))
            .map_err(|e| format!("cannot configure containerd: {e}"))?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("cannot execute containerd: {e}"))?;
        let containerd = Self { child, socket: at("sock") };
        let end = Instant::now() + DEADLINE;
        while !containerd.answers() {
            if Instant::now() > end {
                return Err("containerd does not answer".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(containerd)
    }

    fn answers(&self) -> bool {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.socket, "version"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Pulls and unpacks an image. The processor time is that of both, the memory that of containerd.
    pub(crate) fn pull(&self, name: &str) -> Result<Cost, String> {
        let before = self.processor()?;
        let cost = measure(&[
            "ctr",
            "--address",
            &self.socket,
            "images",
            "pull",
            "--plain-http",
            "--snapshotter",
            "overlayfs",
            name,
        ])?;
        let processor = cost.processor + self.processor()? - before;
        Ok(Cost { processor, memory: self.peak()?, ..cost })
    }

    fn file(&self, name: &str) -> Result<String, String> {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id()))
            .map_err(|e| format!("containerd: {e}"))
    }

    /// Seconds of processors so far: proc(5), fields 14 and 15 of `stat`, in ticks of which there are 100 a second.
    fn processor(&self) -> Result<f64, String> {
        let stat = self.file("stat")?;
        let fields = stat.rsplit(") ").next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / 100.0)
    }

    /// Largest memory so far, in MB.
    fn peak(&self) -> Result<f64, String> {
        let status = self.file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or_default();
        Ok(kilobytes * 1.024 / 1000.0)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.child.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.child.wait();
    }
}

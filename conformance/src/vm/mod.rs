//! A machine with a kernel and a systemd of its own: every controller of cgroup v2, AppArmor, checkpoints, and KVM that
//! can run guests. QEMU emulates it, so it needs nothing of the host's kernel.

mod emulator;
mod image;
mod machine;
mod script;

pub(crate) use machine::Options;

use crate::environment::{Environment, Job, Outcome, Place};
use anyhow::{Result, anyhow};
use machine::Machine;
use std::sync::Mutex;
use std::time::Duration;

/// How much longer than on the host everything may take: emulation is ten times slower, and the host may have other work.
const SLOWNESS: u32 = 20;

/// The environment: a machine that is booted once for all jobs, and anew when one of them has to be killed.
#[derive(Debug)]
pub(crate) struct Vm {
    place: Place,
    options: Options,
    /// None after a job that was killed, or that the machine did not survive.
    machine: Mutex<Option<Machine>>,
}

impl Vm {
    /// Boots the machine.
    pub(crate) fn boot(place: Place, options: Options) -> Result<Self> {
        let machine = Machine::boot(&options)?;
        Ok(Self { place, options, machine: Mutex::new(Some(machine)) })
    }
}

impl Environment for Vm {
    fn place(&self) -> Place {
        self.place
    }

    fn jobs_at_once(&self) -> usize {
        1
    }

    fn run(&self, job: &Job) -> Result<Outcome> {
        let mut place = self.machine.lock().map_err(|_| anyhow!("the machine is in an unknown state"))?;
        let mut machine = match place.take() {
            Some(machine) => machine,
            None => Machine::boot(&self.options)?,
        };
        let (code, stdout, stderr) = machine.run(&script::of(job, None), job.limit * SLOWNESS)?;
        // What a killed job has left would disturb those that follow.
        if code.is_some() {
            *place = Some(machine);
        }
        Ok(Outcome { code, stdout, stderr })
    }
}

/// What the command line says of a command to run by hand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Without a disk and systemd: busybox in memory
    #[arg(long)]
    bare: bool,

    /// As an ordinary user, in a unit of the user's systemd with delegated cgroups
    #[arg(long, conflicts_with = "bare")]
    user: bool,

    /// A further option of the kernel, such as systemd.unified_cgroup_hierarchy=0
    #[arg(long, value_name = "OPTION")]
    kernel: Vec<String>,

    /// A file or folder of this machine that the command needs, at the same path
    #[arg(long, value_name = "PATH")]
    need: Vec<std::path::PathBuf>,

    /// How many seconds the command may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,

    /// The command; without one, a shell on this terminal. All files of this machine are below /host
    #[arg(last = true)]
    argv: Vec<std::ffi::OsString>,
}

/// Boots a machine for one command; answers the command's exit code, 124 if it took too long.
pub(crate) fn by_hand(args: Args) -> Result<u8> {
    let options = Options { bare: args.bare, kernel: args.kernel };
    if args.argv.is_empty() {
        return machine::shell(&options).map(|()| 0);
    }
    let limit = Duration::from_secs(args.limit);
    let job = Job { argv: args.argv, env: Vec::new(), directory: "/".into(), needs: args.need, limit };
    once(&options, &job, args.user.then_some(script::USER))
}

/// Boots a machine for one job, prints what the job does, and answers its exit code, 124 if it took too long.
pub(crate) fn once(options: &Options, job: &Job, user: Option<(&str, u32)>) -> Result<u8> {
    let (code, stdout, stderr) = Machine::boot(options)?.run(&script::of(job, user), job.limit)?;
    print!("{stdout}");
    eprint!("{stderr}");
    Ok(code.map_or(124, |code| code as u8))
}

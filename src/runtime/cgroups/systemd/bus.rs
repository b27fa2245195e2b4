//! What is asked of systemd over D-Bus: org.freedesktop.systemd1(5).

use super::property::Property;
use crate::error::{Context as _, Error, ErrorKind, Result};
use nix_for_rustbus::sys::socket::UnixAddr;
use rustbus::connection::Timeout;
use rustbus::message_builder::{MarshalledMessage, MessageType};
use rustbus::params::{Container, Param};
use rustbus::{MessageBuilder, RpcConn};
use std::path::PathBuf;
use std::time::Duration;

const NAME: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// How long systemd may take to answer, and to finish a job: the patience of runc.
const PATIENCE: Timeout = Timeout::Duration(Duration::from_secs(30));
/// D-Bus names of answers that say that there is no such unit.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// Names the bus of a user; without it, it is in the user's runtime directory.
const SESSION_ADDRESS: &str = "DBUS_SESSION_BUS_ADDRESS";
/// What a client must ask for to hear of a job's end.
const JOB_REMOVED: &str = "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',\
                           member='JobRemoved'";

/// A connection to a service manager.
pub(super) struct Bus {
    connection: RpcConn,
}

/// A refusal of systemd.
struct Refusal {
    name: String,
    text: String,
}

impl Bus {
    /// Connects to the manager of the system, or to that of the user.
    pub(super) fn connect(system: bool) -> Result<Self> {
        let connection = if system { RpcConn::system_conn(PATIENCE) } else { session() };
        let connection = connection.map_err(|e| {
            let hint = if system { "" } else { " (are DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR set?)" };
            Error::new(ErrorKind::System, format!("cannot reach systemd over D-Bus: {e}{hint}"))
        })?;
        Ok(Self { connection })
    }

    /// The cgroup of the manager, below which all its units are.
    pub(super) fn control_group(&mut self) -> Result<PathBuf> {
        let mut call = call("Get", "org.freedesktop.DBus.Properties");
        call.body.push_param2(MANAGER, "ControlGroup").map_err(malformed)?;
        let answer = self
            .call(&mut call)?
            .map_err(|refusal| refusal.into_error("cannot ask for the cgroup of systemd"))?;
        let value: rustbus::wire::unmarshal::traits::Variant<'_, '_> =
            answer.body.parser().get().map_err(malformed)?;
        Ok(PathBuf::from(value.get::<&str>().map_err(malformed)?))
    }

    /// Makes a unit that exists until it is stopped or its last process has gone; returns when its processes are in it.
    pub(super) fn start(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let mut start = call("StartTransientUnit", MANAGER);
        start.body.push_param2(unit, "replace").map_err(malformed)?;
        push_properties(&mut start, properties)?;
        let auxiliary: Vec<Param<'_, '_>> = Vec::new();
        push_array(&mut start, "(sa(sv))", auxiliary)?;
        let what = || format!("unable to start unit {unit:?}");
        match self.job(&mut start, &what())? {
            Ok(()) => return Ok(()),
            Err(refusal) if refusal.name != UNIT_EXISTS => return Err(refusal.into_error(&what())),
            Err(_) => {}
        }
        // What is left of a unit that failed has the name, and no processes.
        self.reset_failed(unit)?;
        self.job(&mut start, &what())?.map_err(|refusal| refusal.into_error(&what()))
    }

    /// Changes properties of a unit until it ends.
    pub(super) fn set(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let mut set = call("SetUnitProperties", MANAGER);
        set.body.push_param2(unit, true).map_err(malformed)?;
        push_properties(&mut set, properties)?;
        self.call(&mut set)?
            .map(|_| ())
            .map_err(|refusal| refusal.into_error(&format!("cannot set the properties of unit {unit:?}")))
    }

    /// Moves a process into a unit. The manager of a user may where the user may not.
    pub(super) fn attach(&mut self, unit: &str, pid: i32) -> Result<()> {
        let mut attach = call("AttachProcessesToUnit", MANAGER);
        attach.body.push_param3(unit, "", &[pid.unsigned_abs()][..]).map_err(malformed)?;
        self.call(&mut attach)?
            .map(|_| ())
            .map_err(|refusal| refusal.into_error(&format!("cannot move process {pid} to unit {unit:?}")))
    }

    /// Stops a unit and forgets that it may have failed; one that does not exist is stopped.
    pub(super) fn stop(&mut self, unit: &str) -> Result<()> {
        let mut stop = call("StopUnit", MANAGER);
        stop.body.push_param2(unit, "replace").map_err(malformed)?;
        let what = format!("unable to stop unit {unit:?}");
        match self.job(&mut stop, &what)? {
            Err(refusal) if refusal.name != NO_SUCH_UNIT => return Err(refusal.into_error(&what)),
            _ => {}
        }
        self.reset_failed(unit)
    }

    fn reset_failed(&mut self, unit: &str) -> Result<()> {
        let mut reset = call("ResetFailedUnit", MANAGER);
        reset.body.push_param(unit).map_err(malformed)?;
        // Nearly always there is nothing to forget: the unit has gone.
        self.call(&mut reset).map(|_| ())
    }

    /// Makes a call that starts a job, and waits for the job's end.
    fn job(&mut self, message: &mut MarshalledMessage, what: &str) -> Result<Result<(), Refusal>> {
        self.listen()?;
        let answer = match self.call(message)? {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let job: rustbus::wire::ObjectPath<&str> = answer.body.parser().get().map_err(malformed)?;
        loop {
            let signal =
                self.connection.wait_signal(PATIENCE).map_err(|e| broken(&e)).context(|| what.to_owned())?;
            if signal.dynheader.member.as_deref() != Some("JobRemoved") {
                continue;
            }
            let mut parser = signal.body.parser();
            let (_, removed, _, result): (u32, rustbus::wire::ObjectPath<&str>, &str, &str) = (
                parser.get().map_err(malformed)?,
                parser.get().map_err(malformed)?,
                parser.get().map_err(malformed)?,
                parser.get().map_err(malformed)?,
            );
            if removed.as_ref() != job.as_ref() {
                continue;
            }
            if result == "done" {
                return Ok(Ok(()));
            }
            crate::bail!(System, "{what}: the job's result is '{result}'; see the journal for the reason");
        }
    }

    /// Asks to be told of the end of jobs.
    fn listen(&mut self) -> Result<()> {
        let mut matching = rustbus::standard_messages::add_match(JOB_REMOVED);
        for message in [&mut matching, &mut call("Subscribe", MANAGER)] {
            // Twice on one connection is refused, and once is enough.
            let _ = self.call(message)?;
        }
        Ok(())
    }

    fn call(&mut self, message: &mut MarshalledMessage) -> Result<Result<MarshalledMessage, Refusal>> {
        let sent = self.connection.send_message(message).map_err(|e| broken(&e))?;
        let serial = sent.write_all().map_err(|(_, e)| broken(&e))?;
        let answer = self.connection.wait_response(serial, PATIENCE).map_err(|e| broken(&e))?;
        if answer.typ != MessageType::Error {
            return Ok(Ok(answer));
        }
        let text = answer.body.parser().get::<&str>().unwrap_or_default().to_owned();
        Ok(Err(Refusal { name: answer.dynheader.error_name.unwrap_or_default(), text }))
    }
}

impl Refusal {
    fn into_error(self, what: &str) -> Error {
        Error::new(
            ErrorKind::CreateFailed,
            format!("{what}: {}", if self.text.is_empty() { self.name } else { self.text }),
        )
    }
}

/// Connects to the bus of the user.
fn session() -> Result<RpcConn, rustbus::connection::Error> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    match (set(SESSION_ADDRESS), set("XDG_RUNTIME_DIR")) {
        (None, Some(folder)) => {
            let address = UnixAddr::new(&PathBuf::from(folder).join("bus"))?;
            RpcConn::connect_to_path(address, PATIENCE)
        }
        _ => RpcConn::session_conn(PATIENCE),
    }
}

fn broken(e: &rustbus::connection::Error) -> Error {
    Error::new(ErrorKind::System, format!("cannot talk to systemd over D-Bus: {e}"))
}

fn malformed(e: impl std::fmt::Debug) -> Error {
    Error::new(ErrorKind::System, format!("malformed D-Bus message: {e:?}"))
}

fn call(member: &str, interface: &str) -> MarshalledMessage {
    MessageBuilder::new().call(member).with_interface(interface).on(OBJECT).at(NAME).build()
}

fn push_properties(message: &mut MarshalledMessage, properties: &[Property]) -> Result<()> {
    let pairs = properties
        .iter()
        .map(|property| {
            let value = Container::make_variant(property.value.clone());
            Param::Container(Container::make_struct2(property.name.as_str(), value))
        })
        .collect();
    push_array(message, "(sv)", pairs)
}

fn push_array(message: &mut MarshalledMessage, of: &str, values: Vec<Param<'_, '_>>) -> Result<()> {
    let array = Container::make_array(of, values.into_iter()).map_err(malformed)?;
    message.body.push_old_param(&Param::Container(array)).map_err(malformed)
}

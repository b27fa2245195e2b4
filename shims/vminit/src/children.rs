//! The guest's children: how they become their programs, what they write, and how they end.

use crate::connection::{Connection, Role};
use crate::guest::Guest;
use crate::member::Member;
use crate::running::{Became, Output, Running};
use rustix::process::{WaitOptions, WaitStatus, wait};
use vm_protocol::frame::Kind;
use vm_protocol::message::Reply;

/// Version of the protocol that has [`Reply::OutOfMemory`].
const OUT_OF_MEMORY: u32 = 3;

/// The exit code of a process: 128 and the number of the signal that ended it.
fn code_of(status: WaitStatus) -> Option<u8> {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.map(|code| code as u8)
}

impl Guest {
    /// Hears what children tell that have not executed their programs yet.
    pub(crate) fn hear_children(&mut self) {
        for index in 0..self.containers.len() {
            let Some(first) = &mut self.containers[index].first else { continue };
            match first.hear().unwrap_or_else(Became::Failed) {
                Became::Nothing => {}
                Became::Started => self.changed(),
                Became::Failed(failure) => self.fail(failure),
            }
        }
        let numbers: Vec<u64> = self.execs.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.hear_exec(number));
    }

    fn hear_exec(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let became = exec.running.hear().unwrap_or_else(Became::Failed);
        let Some(connection) = exec.connection.and_then(|number| self.connections.get_mut(&number)) else {
            return;
        };
        match became {
            Became::Nothing => {}
            Became::Started => {
                connection.reply(&Reply::Started { exec: number, pid: exec.running.child.pid });
                if exec.detach {
                    exec.connection = None;
                    connection.role = Role::Done;
                }
            }
            Became::Failed(failure) => {
                exec.connection = None;
                connection.fail(failure);
            }
        }
    }

    /// Reaps every dead child: ours, and orphans.
    pub(crate) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if let Some(code) = code_of(status) {
                self.ended(pid, code);
            }
            self.console.ended(pid, status.terminating_signal().is_some());
        }
    }

    fn ended(&mut self, pid: i32, code: u8) {
        let is_it = |running: &Running| running.code.is_none() && running.child.pid == pid;
        let container = self.containers.iter_mut().find(|it| it.first.as_ref().is_some_and(is_it));
        if let Some(container) = container {
            self.leaving.extend(container.ended(code));
            if !container.spec.init {
                self.first_end.get_or_insert(code);
            }
            self.changed();
        } else if let Some(exec) = self.execs.values_mut().find(|exec| is_it(&exec.running)) {
            exec.running.code = Some(code);
            exec.member.iter().for_each(Member::end);
        }
    }

    /// Moves the output of containers and execs on.
    pub(crate) fn move_output(&mut self) {
        for index in 0..self.containers.len() {
            let slowest = self.slowest_reader(index);
            let container = &mut self.containers[index];
            while container.has_room(&self.console, slowest) && container.take_output(&mut self.console) {
                self.console.write();
            }
        }
        for exec in self.execs.values_mut() {
            let ended = exec.running.code.is_some();
            exec.member.iter_mut().for_each(|member| member.look(ended));
        }
        let numbers: Vec<u64> = self.execs.keys().copied().collect();
        for number in numbers {
            self.move_exec(number);
        }
    }

    /// Moves input and output of an exec, and tells its end when everything before was told.
    fn move_exec(&mut self, number: u64) {
        // The host is told that the program runs before anything else.
        let Some(exec) = self.execs.get_mut(&number).filter(|exec| exec.running.is_started()) else { return };
        let mut connection = exec.connection.and_then(|number| self.connections.get_mut(&number));
        let taken = exec.running.write_input();
        if let Some(connection) = connection.as_mut().filter(|_| taken > 0) {
            connection.reply(&Reply::Taken { bytes: taken as u32 });
        }
        for kind in [Kind::Stdout, Kind::Stderr] {
            // What a dead process has left in pipes and terminals is taken whole: it is bounded.
            while exec.running.code.is_some() || connection.as_deref().is_none_or(Connection::has_room) {
                match exec.running.read(kind) {
                    Output::Data(data) => connection.iter_mut().for_each(|it| it.data(kind, &data)),
                    Output::Nothing | Output::End => break,
                }
            }
        }
        if let Some(connection) = connection.as_mut().filter(|it| it.version() >= OUT_OF_MEMORY)
            && let Some(kills) = exec.member.as_mut().and_then(Member::untold)
        {
            connection.reply(&Reply::OutOfMemory { kills });
        }
        if let Some(code) = exec.running.code {
            if let Some(connection) = connection {
                connection.finish(&Reply::Exited { code });
            }
            let member = self.execs.remove(&number).and_then(|exec| exec.member);
            self.leaving.extend(member.map(Member::leave));
        }
    }
}

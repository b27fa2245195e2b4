//! What magikrun and `vminit`, the first process of a microVM, say to each other, and the specification that is baked into the
//! guest. Shared by both, and nothing in it touches the world.
//!
//! A connection carries frames (see [`frame`]). Both sides send a [`message::Hello`] at once. The host sends one
//! [`message::Request`] after it, without waiting; the guest answers with [`message::Reply`] frames. The connection of an
//! exec or of logs also carries frames with the data of standard streams.

pub mod frame;
pub mod message;
pub mod spec;

/// The newest version of the protocol that this code speaks.
pub const VERSION: u32 = 3;

/// The oldest version that it still speaks: a microVM may outlive the magikrun that has started it.
pub const OLDEST_VERSION: u32 = 1;

/// Port of the control socket, on AF_VSOCK.
pub const PORT: u32 = 1024;

/// Most bytes of standard input that the host may send to an exec or a container beyond what the guest has taken from it
/// ([`message::Reply::Taken`]): what the guest keeps in memory for a program that does not read.
pub const STDIN_WINDOW: usize = 128 << 10;

/// Exit code of a virtual machine that ends without having told one, as when its kernel panics.
pub const UNTOLD: u8 = 125;

/// From an exit code to the status with which the monitor of the virtual machine ends, and back.
///
/// A monitor whose guest has told it nothing ends with status 0. That must not look like a program that has succeeded.
pub fn exit_status(code: u8) -> u8 {
    code ^ UNTOLD
}

/// The version that two sides can both speak.
pub fn agree(theirs: &message::Hello) -> Option<u32> {
    let newest = VERSION.min(theirs.newest);
    (newest >= OLDEST_VERSION.max(theirs.oldest)).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use message::Hello;

    #[test]
    fn only_a_guest_that_says_so_has_succeeded() {
        assert_eq!(exit_status(0), UNTOLD);
        assert!((0..=255).all(|code| exit_status(exit_status(code)) == code));
    }

    #[test]
    fn two_sides_speak_the_newest_version_that_both_know() {
        let hello = |oldest, newest| Hello { oldest, newest, program: String::new() };
        assert_eq!(agree(&Hello::new("a test")), Some(VERSION));
        assert_eq!(agree(&hello(1, VERSION + 7)), Some(VERSION));
        assert_eq!(agree(&hello(VERSION + 1, VERSION + 7)), None);
        assert_eq!(agree(&hello(0, 0)), None);
    }
}

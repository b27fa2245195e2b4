//! Input and output, and clients that are slow or do not read at all.

use crate::common::{Containerd, Engine, IMAGE, Shim, finish, poll, wait_dead};
use crate::{GROUPED, SMALL, only_shim, private_memory};
use std::fs;
use std::io::Read as _;
use std::time::Duration;

#[test]
fn input_reaches_the_process_and_ends() {
    let containerd = Containerd::new(Shim::Own);
    let mut args = containerd.run_args(&["--rm"]);
    args.extend([IMAGE, "box", "sh", "-c", "cat; echo end"].map(str::to_owned));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let input = "line\n".repeat(50_000);
    let output = finish(containerd.command(&args), Some(input.as_bytes())).success();
    assert!(output.stdout == format!("{input}end\n"), "{} bytes", output.stdout.len());
}

#[test]
fn a_program_can_take_the_output() {
    let containerd = Containerd::new(Shim::Own);
    let (script, log) = (containerd.path("logger.sh"), containerd.path("taken"));
    let text = "exec 5>&-\necho \"$CONTAINER_NAMESPACE $CONTAINER_ID\" > \"$1\"\ncat <&3 >> \"$1\"\ncat <&4 >> \"$1\"\n";
    fs::write(&script, text).expect("a script");
    // Not executed itself: a child of another test may have it open for writing still.
    let uri = format!("binary:///bin/sh?{}={}", script.display(), log.display());
    let args = ["--detach", "--log-uri", &uri];
    containerd.run(&args, &[IMAGE, "box", "sh", "-c", "echo out; echo err >&2"]).success();
    containerd.wait_status("box", "STOPPED");
    let expected = format!("{} box\nout\nerr\n", containerd.name);
    poll("the output", || fs::read_to_string(&log).ok().filter(|text| *text == expected));
}

#[test]
fn a_program_that_cannot_be_executed_fails_the_creation() {
    let containerd = Containerd::new(Shim::Own);
    let file = containerd.path("data");
    fs::write(&file, "").expect("a file");
    let uri = format!("binary://{}", file.display());
    let refused = containerd.run(&["--detach", "--log-uri", &uri], &[IMAGE, "box", "true"]);
    let expected = format!("cannot execute '{}': permission denied", file.display());
    assert!(refused.code != 0 && refused.stderr.contains(&expected), "{refused:?}");
    poll("the shim to end", || containerd.shims().is_empty().then_some(()));
}

#[test]
fn a_reader_that_does_not_read_stops_only_its_own_container() {
    let containerd = Containerd::new(Shim::Own);
    // The answer of `ctr run` goes into a pipe that nobody reads.
    let mut args = containerd.run_args(&GROUPED);
    args.extend([IMAGE, "loud", "sh", "-c", "while :; do echo 0123456789; done"].map(str::to_owned));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut command = containerd.command(&args);
    let mut client = command.stdout(std::process::Stdio::piped()).spawn().expect("ctr runs");
    let mut first = [0; 10];
    client.stdout.as_mut().unwrap().read_exact(&mut first).expect("some output");
    let log = containerd.detached(&GROUPED, "quiet", "echo fine; sleep 600");
    let shim = only_shim(&containerd);
    poll("the other's output", || fs::read_to_string(&log).ok().filter(|t| t == "fine\n"));
    assert_eq!(containerd.exec("quiet", "one", "echo fine").success().stdout, "fine\n");
    // What it writes is kept nowhere: it waits.
    let (pid, _) = containerd.task("loud").expect("a task");
    let spent = || fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("its time");
    poll("it to wait", || {
        let before = spent();
        std::thread::sleep(Duration::from_millis(300));
        (spent() == before).then_some(())
    });
    let memory = private_memory(shim);
    assert!(memory <= SMALL, "{memory} KiB");
    containerd.ok(&["task", "kill", "--signal", "SIGKILL", "loud"]);
    containerd.wait_status("loud", "STOPPED");
    client.kill().expect("ctr ends");
    client.wait().expect("ctr ends");
    containerd.call(&["task", "delete", "loud"]);
    assert_eq!(containerd.task("loud"), None);
}

#[test]
fn a_slow_reader_misses_nothing_of_a_process_that_has_ended() {
    // Less than there is room for on the way to the reader, so that the process ends before a byte of it was read; more than `ctr`, which
    // stops to copy when it hears of the end, takes out of its FIFO.
    const LENGTH: usize = 200_000;
    let containerd = Containerd::new(Shim::Own);
    let script = format!("head -c {LENGTH} /dev/zero; while [ ! -e /end ]; do sleep 0.05; done; echo last");
    let mut args = containerd.run_args(&["--rm"]);
    args.extend([IMAGE, "box", "sh", "-c", &script].map(str::to_owned));
    let mut command = containerd.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut client = command.stdout(std::process::Stdio::piped()).spawn().expect("ctr runs");
    let (pid, _) = poll("the task to run", || containerd.task("box").filter(|task| task.1 == "RUNNING"));
    fs::write(format!("/proc/{pid}/root/end"), "").expect("a file in the container");
    wait_dead(pid);
    // Time for `ctr` to hear of the end, if it were told.
    std::thread::sleep(Duration::from_millis(500));
    let mut output = Vec::new();
    client.stdout.take().unwrap().read_to_end(&mut output).expect("the output");
    assert!(client.wait().expect("ctr ends").success());
    assert!(output.ends_with(b"\0last\n"), "the last of {} bytes is missing", output.len());
    assert_eq!(output.len(), LENGTH + b"last\n".len());
}

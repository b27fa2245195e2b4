//! Further processes in a running microVM.

use crate::common::{Runtime, finish};
use crate::microvm;

#[test]
fn exec_goes_into_the_guest() {
    let runtime = Runtime::new();
    let bundle = microvm(&runtime, "echo mine >/tmp/mark; sleep 600");
    runtime.detach(&bundle);
    let output = runtime.exec(&bundle.id, "uname -r; cat /tmp/mark; echo oops >&2; exit 3").exits(3);
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    assert_ne!(output.stdout.lines().next().expect("a release"), host.trim());
    assert!(output.stdout.ends_with("mine\n"), "{}", output.stdout);
    assert_eq!(output.stderr, "oops\n");
    let output = finish(runtime.command(&["exec", &bundle.id, "cat"]), Some(b"through\n")).success();
    assert_eq!(output.stdout, "through\n");
    runtime.call(&["exec", &bundle.id, "nonsense"]).fails_with(255, &["executable file not found in $PATH"]);
    let table = runtime.ok(&["ps", &bundle.id]).stdout;
    assert!(table.contains("sleep 600"), "{table}");
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}

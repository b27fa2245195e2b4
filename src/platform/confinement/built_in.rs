//! Our own profile: `calls.txt`, and the calls of which some uses are allowed.

use serde_json::{Value, json};

/// Every system call, and what containers may do with it.
const CALLS: &str = include_str!("calls.txt");
/// `CLONE_NEW*` of linux/sched.h, as far as clone(2) takes them: a process in new namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// Execution domains of linux/personality.h: Linux with 64 and 32 bits, each also under an old version's name, and the question
/// which one it is. The others turn protections off.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Sockets to the kernel's cryptography: linux/socket.h, `AF_ALG`.
const AF_ALG: u64 = 38;
/// Sockets to the hypervisor and its other guests: linux/socket.h, `AF_VSOCK`. 39 is between the two, and no container's.
const AF_VSOCK: u64 = 40;

/// The lines of [`CALLS`]: a word, and the names of calls.
fn lines() -> impl Iterator<Item = (&'static str, std::str::SplitWhitespace<'static>)> {
    CALLS.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words))
    })
}

/// The profile for containers with some capabilities.
pub(super) fn resolve(has: impl Fn(&str) -> bool, arch: &str) -> Value {
    let wanted = |class: &str| class == "allow" || (class.starts_with("CAP_") && has(class));
    let mut allowed: Vec<&str> =
        lines().filter(|(class, _)| wanted(class)).flat_map(|(_, names)| names).collect();
    allowed.sort_unstable();
    allowed.dedup();
    let namespaces = allowed.contains(&"unshare");
    let argument = |value: u64, operator: &str| json!([{"index": 0, "value": value, "op": operator}]);
    let some = |name: &str, args: Value| json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args});
    let mut rules = vec![json!({"names": allowed, "action": "SCMP_ACT_ALLOW"})];
    rules.extend(PERSONALITIES.map(|value| some("personality", argument(value, "SCMP_CMP_EQ"))));
    rules.push(some("socket", argument(AF_ALG, "SCMP_CMP_LT")));
    rules.push(some("socket", argument(AF_VSOCK, "SCMP_CMP_GT")));
    if namespaces {
        rules.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW"}));
    } else {
        let none = json!([{"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
        rules.push(some("clone", none));
        // Its flags are in memory: C libraries take clone(2) instead if it does not exist.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": architectures(arch),
        "syscalls": rules,
    })
}

/// The architecture, and the one whose programs it also runs. Not x32, which distributions do not build.
fn architectures(arch: &str) -> Vec<&'static str> {
    match arch {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "aarch64" => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => vec!["SCMP_ARCH_NATIVE"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// The calls of the machine's headers (Debian package linux-libc-dev).
    fn of_headers() -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for file in ["unistd_64.h", "unistd_32.h"] {
            let text = std::fs::read_to_string(format!("/usr/include/x86_64-linux-gnu/asm/{file}"))
                .or_else(|_| std::fs::read_to_string(format!("/usr/include/asm/{file}")))
                .expect("the headers of Linux");
            let name =
                |line: &str| Some(line.strip_prefix("#define __NR_")?.split_whitespace().next()?.to_owned());
            names.extend(text.lines().filter_map(name));
        }
        names
    }

    #[test]
    fn every_call_of_the_kernel_has_one_answer() {
        let mut answers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (class, names) in lines() {
            let known = matches!(class, "allow" | "arguments" | "refuse") || class.starts_with("CAP_");
            assert!(known, "{class}");
            names.for_each(|name| answers.entry(name).or_default().push(class));
        }
        for name in of_headers() {
            assert!(answers.contains_key(name.as_str()), "{name} is not in calls.txt");
        }
        for (name, classes) in answers {
            let several = classes.iter().all(|class| class.starts_with("CAP_"));
            assert!(classes.len() == 1 || several, "{name} is listed as {classes:?}");
        }
    }

    #[test]
    fn capabilities_bring_their_calls() {
        let allowed = |has: &[&str], name: &str| {
            let profile = resolve(|one| has.contains(&one), "x86_64");
            profile["syscalls"][0]["names"].as_array().unwrap().iter().any(|one| one == name)
        };
        for name in
            ["mount", "unshare", "setns", "bpf", "keyctl", "io_uring_setup", "kexec_load", "clone3", "chroot"]
        {
            assert!(!allowed(&[], name), "{name}");
        }
        for name in ["execve", "capset", "openat2", "mmap", "futex_time64"] {
            assert!(allowed(&[], name), "{name}");
        }
        assert!(allowed(&["CAP_SYS_ADMIN"], "mount") && allowed(&["CAP_SYS_ADMIN"], "clone3"));
        assert!(allowed(&["CAP_BPF"], "bpf") && !allowed(&["CAP_BPF"], "mount"));
        assert!(!allowed(&["CAP_SYS_ADMIN", "CAP_SYS_BOOT"], "kexec_load"));
    }
}

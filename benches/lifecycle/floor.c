/*
 * The floor of `run true`: only what the kernel must do for the container of this benchmark, by one program without a configuration,
 * checks, records, or messages. What a runtime takes beyond this is its own.
 *
 * It makes the cgroup, clones into it with all namespaces, brings up loopback, joins a keyring, attaches a device filter, mounts what the configuration of bundle.rs mounts,
 * makes the devices, masks paths, drops capabilities, loads the seccomp filter, executes /bin/true, waits for it, and removes the cgroup.
 *
 *     floor ROOTFS CGROUP [FILTER]      FILTER: a file of struct sock_filter
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

/* glibc's sys/mount.h and linux/mount.h exclude each other. */
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);
enum { NOSUID = 2, NODEV = 4, NOEXEC = 8, RDONLY = 1, REMOUNT = 32, BIND = 4096, REC = 16384, SLAVE = 1 << 19, DETACH = 2 };

#define TRY(call) ({ long result_ = (long)(call); if (result_ < 0) { perror(#call); _exit(125); } result_; })

struct clone3_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* A filter that refuses every device: the least that a rule for devices can be. */
static void filter_devices(int cgroup) {
    struct bpf_insn code[] = {
        { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1 },
        { .code = BPF_JMP | BPF_EXIT },
    };
    union bpf_attr load = { .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insns = (uintptr_t)code,
                            .insn_cnt = sizeof code / sizeof *code, .license = (uintptr_t)"Apache" };
    int program = TRY(syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load));
    union bpf_attr attach = { .target_fd = cgroup, .attach_bpf_fd = program, .attach_type = BPF_CGROUP_DEVICE };
    TRY(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach));
}

/* The loopback interface, which every runtime brings up, and a session keyring. */
static void surroundings(void) {
    int sock = TRY(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq loopback = { .ifr_name = "lo", .ifr_flags = IFF_UP };
    TRY(ioctl(sock, SIOCSIFFLAGS, &loopback));
    TRY(syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, "_ses.floor"));
    TRY(sethostname("bench", 5));
}

static void read_only(const char *path) {
    if (mount(path, path, NULL, BIND | REC, NULL) == 0) {
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
        TRY(syscall(SYS_mount_setattr, AT_FDCWD, path, 0, &attr, sizeof attr));
    }
}

static void devices(void) {
    static const struct { const char *name; int major, minor; } nodes[] = {
        { "dev/null", 1, 3 }, { "dev/zero", 1, 5 }, { "dev/full", 1, 7 },
        { "dev/random", 1, 8 }, { "dev/urandom", 1, 9 }, { "dev/tty", 5, 0 },
    };
    umask(0);
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
        TRY(mknod(nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
    umask(022);
    TRY(symlink("/proc/self/fd", "dev/fd"));
    TRY(symlink("/proc/self/fd/0", "dev/stdin"));
    TRY(symlink("/proc/self/fd/1", "dev/stdout"));
    TRY(symlink("/proc/self/fd/2", "dev/stderr"));
    TRY(symlink("pts/ptmx", "dev/ptmx"));
}

static void mounts(const char *rootfs, const char *cgroup) {
    TRY(mount(NULL, "/", NULL, REC | SLAVE, NULL));
    TRY(mount(rootfs, rootfs, NULL, BIND | REC, NULL));
    TRY(chdir(rootfs));
    TRY(mount("proc", "proc", "proc", 0, NULL));
    TRY(mount("tmpfs", "dev", "tmpfs", NOSUID, "mode=755,size=65536k"));
    TRY(mkdir("dev/pts", 0755));
    TRY(mkdir("dev/shm", 0755));
    TRY(mkdir("dev/mqueue", 0755));
    TRY(mount("devpts", "dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    TRY(mount("shm", "dev/shm", "tmpfs", NOSUID | NOEXEC | NODEV, "mode=1777,size=65536k"));
    TRY(mount("mqueue", "dev/mqueue", "mqueue", NOSUID | NOEXEC | NODEV, NULL));
    TRY(mount("sysfs", "sys", "sysfs", NOSUID | NOEXEC | NODEV | RDONLY, NULL));
    TRY(mount(cgroup, "sys/fs/cgroup", NULL, BIND, NULL));
    TRY(mount(NULL, "sys/fs/cgroup", NULL, BIND | REMOUNT | NOSUID | NOEXEC | NODEV | RDONLY, NULL));
    devices();
    TRY(syscall(SYS_pivot_root, ".", "."));
    TRY(umount2(".", DETACH));
    TRY(chdir("/"));
    struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
    TRY(syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &attr, sizeof attr));
}

/* Of the configuration's paths those that may exist: the others cost nothing. */
static void hide(void) {
    static const char *const locked[] = { "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger" };
    static const char *const files[] = { "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug" };
    static const char *const folders[] = { "/proc/acpi", "/proc/asound", "/sys/firmware", "/proc/scsi" };
    for (size_t i = 0; i < sizeof locked / sizeof *locked; i++)
        read_only(locked[i]);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (mount("/dev/null", files[i], NULL, BIND, NULL) < 0 && errno != ENOENT)
            TRY(-1);
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (mount("tmpfs", folders[i], "tmpfs", RDONLY | NOSUID | NOEXEC | NODEV, NULL) < 0 && errno != ENOENT)
            TRY(-1);
}

static void drop_privileges(const struct sock_fprog *filter) {
    const uint32_t kept = 1u << CAP_AUDIT_WRITE | 1u << CAP_KILL | 1u << CAP_NET_BIND_SERVICE;
    struct rlimit files = { 1024, 1024 };
    TRY(setrlimit(RLIMIT_NOFILE, &files));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (!(cap < 32 && kept >> cap & 1))
            prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2] = { { .effective = kept, .permitted = kept } };
    TRY(syscall(SYS_capset, &header, data));
    if (filter->len > 0)
        TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter));
}

static struct sock_fprog read_filter(const char *path) {
    static struct sock_filter code[BPF_MAXINSNS];
    int file = TRY(open(path, O_RDONLY | O_CLOEXEC));
    long size = TRY(read(file, code, sizeof code));
    return (struct sock_fprog){ .len = size / sizeof *code, .filter = code };
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 125;
    struct sock_fprog filter = argc > 3 ? read_filter(argv[3]) : (struct sock_fprog){ 0 };
    TRY(mkdir(argv[2], 0755));
    int cgroup = TRY(open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    filter_devices(cgroup);
    struct clone3_args args = {
        .flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | 0x200000000ULL /* CLONE_INTO_CGROUP */,
        .exit_signal = SIGCHLD,
        .cgroup = cgroup,
    };
    long child = TRY(syscall(SYS_clone3, &args, sizeof args));
    if (child == 0) {
        TRY(setsid());
        TRY(unshare(CLONE_NEWCGROUP));
        surroundings();
        mounts(argv[1], argv[2]);
        hide();
        drop_privileges(&filter);
        char *const program[] = { "true", NULL }, *const environment[] = { "PATH=/bin", NULL };
        TRY(execve("/bin/true", program, environment));
    }
    int status;
    TRY(waitpid(child, &status, 0));
    TRY(rmdir(argv[2]));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}

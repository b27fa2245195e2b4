/*
 * Which parts of a static program are executed: executed OUTPUT BEGIN END COMMAND...
 *
 * Runs the command instruction by instruction, with all processes that it makes, and appends the addresses in [BEGIN, END) that were
 * executed, at a grain of 16 bytes and in the order of their first time, one hexadecimal number a line. For tools/order.sh. Only addresses
 * count, so what other programs execute there is counted too; a program that is not position independent is elsewhere.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GRAIN = 16 };

static unsigned long begin, end;
static unsigned char *seen;
static FILE *output;

static void record(pid_t pid) {
    unsigned long at = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), NULL);
    if (at < begin || at >= end)
        return;
    unsigned long grain = (at - begin) / GRAIN;
    if (!seen[grain]) {
        seen[grain] = 1;
        fprintf(output, "%lx\n", begin + grain * GRAIN);
    }
}

int main(int argc, char **argv) {
    if (argc < 5)
        return 125;
    begin = strtoul(argv[2], NULL, 16);
    end = strtoul(argv[3], NULL, 16);
    seen = calloc((end - begin) / GRAIN + 1, 1);
    output = fopen(argv[1], "a");
    if (!seen || !output)
        return 125;
    pid_t first = fork();
    if (first == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        execvp(argv[4], argv + 4);
        _exit(127);
    }
    int status, code = 125;
    waitpid(first, &status, 0);
    ptrace(PTRACE_SETOPTIONS, first, NULL,
           PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
    ptrace(PTRACE_SINGLESTEP, first, NULL, NULL);
    /* Until the command itself has ended: a container that it leaves behind is killed with us. */
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0)
            break;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == first) {
                code = WIFEXITED(status) ? WEXITSTATUS(status) : 125;
                break;
            }
            continue;
        }
        int signal = WSTOPSIG(status);
        /* Steps and events are ours; so is the stop with which a new process begins. */
        if (signal == SIGTRAP || signal == SIGSTOP || status >> 16)
            signal = 0;
        record(pid);
        ptrace(PTRACE_SINGLESTEP, pid, NULL, signal);
    }
    fclose(output);
    return code;
}

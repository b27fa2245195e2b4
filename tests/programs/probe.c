// A WASI program that does one thing of many, as its first argument says, and prints what came of it.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static const char *result(int status) {
    return status == 0 ? "ok" : strerror(errno);
}

static int show(int argc, char **argv) {
    for (int n = 1; n < argc; n++)
        printf("arg %s\n", argv[n]);
    for (char **pair = environ; *pair; pair++)
        printf("env %s\n", *pair);
    return 0;
}

// read PATH | write PATH TEXT | list PATH | mkdir PATH | remove PATH | rename FROM TO | link TARGET PATH | stat PATH
static int files(const char *what, int argc, char **argv) {
    const char *path = argc > 2 ? argv[2] : "/";
    const char *other = argc > 3 ? argv[3] : "";
    if (strcmp(what, "read") == 0) {
        char buffer[4096];
        int fd = open(path, O_RDONLY);
        if (fd < 0)
            return printf("%s\n", strerror(errno)), 1;
        ssize_t length;
        while ((length = read(fd, buffer, sizeof buffer)) > 0)
            fwrite(buffer, 1, (size_t)length, stdout);
        return length < 0;
    }
    int status = 0;
    if (strcmp(what, "write") == 0) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        status = fd < 0 || write(fd, other, strlen(other)) < 0 || close(fd) < 0 ? -1 : 0;
    } else if (strcmp(what, "list") == 0) {
        DIR *directory = opendir(path);
        if (directory == NULL)
            return printf("%s\n", strerror(errno)), 1;
        struct dirent *entry;
        while ((entry = readdir(directory)) != NULL)
            printf("%s\n", entry->d_name);
        return 0;
    } else if (strcmp(what, "mkdir") == 0) {
        status = mkdir(path, 0755);
    } else if (strcmp(what, "remove") == 0) {
        status = remove(path);
    } else if (strcmp(what, "rename") == 0) {
        status = rename(path, other);
    } else if (strcmp(what, "link") == 0) {
        status = symlink(path, other);
    } else {
        struct stat stat_buffer;
        status = stat(path, &stat_buffer);
        if (status == 0)
            printf("size %lld ", (long long)stat_buffer.st_size);
    }
    printf("%s\n", result(status));
    return status != 0;
}

// Opens a path again and again, and tells how often what it read was not "inside".
static int race(const char *path, int rounds) {
    int opened = 0, escaped = 0;
    for (int n = 0; n < rounds; n++) {
        char buffer[16] = {0};
        int fd = open(path, O_RDONLY);
        if (fd < 0)
            continue;
        opened++;
        if (read(fd, buffer, sizeof buffer - 1) > 0 && strncmp(buffer, "inside", 6) != 0)
            escaped++;
        close(fd);
    }
    printf("opened %s escaped %d\n", opened > 0 ? "some" : "none", escaped);
    return 0;
}

static int clocks(void) {
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    usleep(20000);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long long passed = (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec;
    printf("slept %s\n", passed >= 20000000LL ? "enough" : "too little");
    printf("time %lld\n", (long long)time(NULL));
    return 0;
}

static int randomness(void) {
    uint64_t values[2];
    if (getentropy(values, sizeof values) != 0)
        return 1;
    printf("%016llx %016llx\n", (unsigned long long)values[0], (unsigned long long)values[1]);
    return 0;
}

// Waits for input, at most so many milliseconds.
static int wait_for_input(int milliseconds) {
    struct pollfd fds = {.fd = 0, .events = POLLIN};
    int ready = poll(&fds, 1, milliseconds);
    printf("ready %d\n", ready);
    return 0;
}

static int echo(void) {
    char line[1024];
    while (fgets(line, sizeof line, stdin) != NULL) {
        printf("got %s", line);
        fflush(stdout);
    }
    printf("end of input\n");
    return 0;
}

// Where the last block is: seen from outside, so that the compiler cannot leave it out.
static char *volatile last_block;

// Takes so many megabytes, one by one, and writes to them.
static int memory(int megabytes) {
    for (int n = 1; n <= megabytes; n++) {
        char *block = malloc(1 << 20);
        if (block == NULL)
            return printf("no more after %d\n", n - 1), 3;
        memset(block, n, 1 << 20);
        last_block = block;
    }
    printf("took %d\n", megabytes);
    return 0;
}

static int deep(volatile int level) {
    volatile char frame[1024];
    frame[0] = (char)level;
    return level < 0 ? 0 : deep(level + 1) + frame[0];
}

int main(int argc, char **argv) {
    // when PATH WHAT...: does that once there is such a file.
    for (; argc > 3 && strcmp(argv[1], "when") == 0; argc -= 2, argv += 2)
        while (access(argv[2], F_OK) != 0)
            usleep(50000);
    const char *what = argc > 1 ? argv[1] : "show";
    int number = argc > 2 ? atoi(argv[2]) : 0;
    if (strcmp(what, "show") == 0)
        return show(argc, argv);
    if (strcmp(what, "exit") == 0)
        exit(number);
    if (strcmp(what, "trap") == 0)
        __builtin_trap();
    if (strcmp(what, "deep") == 0)
        return deep(0);
    if (strcmp(what, "loop") == 0) {
        printf("looping\n");
        fflush(stdout);
        for (volatile int n = 0;; n++) {
        }
    }
    if (strcmp(what, "sleep") == 0) {
        printf("sleeping\n");
        fflush(stdout);
        return (int)sleep((unsigned)number);
    }
    if (strcmp(what, "clocks") == 0)
        return clocks();
    if (strcmp(what, "random") == 0)
        return randomness();
    if (strcmp(what, "poll") == 0)
        return wait_for_input(number);
    if (strcmp(what, "echo") == 0)
        return echo();
    if (strcmp(what, "memory") == 0)
        return memory(number);
    if (strcmp(what, "tty") == 0)
        return printf("tty %d %d %d\n", isatty(0), isatty(1), isatty(2)), 0;
    if (strcmp(what, "race") == 0)
        return race(argv[3], number);
    if (strcmp(what, "error") == 0)
        return fprintf(stderr, "to standard error\n"), 0;
    return files(what, argc, argv);
}

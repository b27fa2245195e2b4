// A WASI program that serves two connections on the socket that it is passed as descriptor 3: it answers what it reads with
// the text of a file before it.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what) {
    return fprintf(stderr, "%s: %s\n", what, strerror(errno)), 1;
}

static int ready(int fd) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return poll(&one, 1, 60000) == 1 && (one.revents & POLLIN) != 0;
}

int main(void) {
    char greeting[100];
    int file = open("/etc/greeting", O_RDONLY);
    ssize_t length = file < 0 ? -1 : read(file, greeting, sizeof greeting);
    if (length < 0)
        return fail("greeting");
    int type = 0;
    socklen_t size = sizeof type;
    if (getsockopt(3, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
        return fail("getsockopt");
    printf("type %d\n", type == SOCK_STREAM);
    for (int n = 0; n < 2; n++) {
        if (!ready(3))
            return fail("poll");
        int client = accept(3, NULL, NULL);
        if (client < 0)
            return fail("accept");
        char name[100];
        ssize_t got = ready(client) ? recv(client, name, sizeof name, 0) : -1;
        if (got < 0)
            return fail("recv");
        if (write(client, greeting, (size_t)length) != length || send(client, name, (size_t)got, 0) != got)
            return fail("send");
        if (shutdown(client, SHUT_RDWR) < 0 || close(client) < 0)
            return fail("close");
        if (read(client, name, 1) >= 0 || errno != EBADF)
            return fail("read");
    }
    printf("closed\n");
    return 0;
}

/* A bare HTTP server: what a server that did nothing but send the same bytes would reach on this machine.
 *
 * One thread, one epoll. A request is whatever ends with an empty line; its answer is one head and one part of a file, in turn
 * the next of FILE_ANSWERS. Nothing is parsed, looked up or checked.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FILE_ANSWERS = 64, CLIENTS_MAX = 1024 };

struct client {
    int64_t sent;
    /* Of the answer under way; -1: none is. */
    int64_t offset;
    /* Of its body in the file. */
};

static int64_t cpu_ns(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000LL +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000LL;
}

/* Sends what the kernel takes of an answer; 1: all of it has gone, 0: more later, -1: the client has. */
static int go_on(int fd, struct client *c, const char *head, int64_t head_length, int file, int64_t length, int by_sendfile,
                 uint8_t *buffer) {
    int64_t whole = head_length + length;
    while (c->sent < whole) {
        int64_t body_sent = c->sent - head_length;
        ssize_t sent;
        if (by_sendfile) {
            if (body_sent < 0)
                sent = send(fd, head + c->sent, head_length - c->sent, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
            else {
                off_t at = c->offset + body_sent;
                sent = sendfile(fd, file, &at, length - body_sent);
            }
        } else {
            int64_t first = 0;
            if (body_sent < 0) {
                first = head_length - c->sent;
                memcpy(buffer, head + c->sent, first);
                body_sent = 0;
            }
            if (pread(file, buffer + first, length - body_sent, c->offset + body_sent) != length - body_sent) return -1;
            sent = send(fd, buffer, first + length - body_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) return 0;
        if (sent <= 0) return -1;
        c->sent += sent;
    }
    c->sent = -1;
    return 1;
}

/* Answers `total` requests on a listening socket, which does not block; the processor time of this thread in ns, or -1. */
int64_t serve(int listener, const char *head, int64_t head_length, int file, int64_t length, int by_sendfile,
              const char *congestion, int64_t total) {
    static struct client clients[CLIENTS_MAX];
    int poll = epoll_create1(EPOLL_CLOEXEC), yes = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[128];
    uint8_t *buffer = malloc(head_length + length);
    int64_t began = cpu_ns(), asked = 0, answered = 0;
    if (poll < 0 || !buffer || epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event)) return -1;
    while (answered < total) {
        int count = epoll_wait(poll, events, 128, 60000);
        if (count <= 0 && errno != EINTR) break;
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd, done = 0;
            if (fd == listener) {
                int client = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (client < 0) continue;
                if (client >= CLIENTS_MAX) return -1;
                setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                if (*congestion && setsockopt(client, IPPROTO_TCP, TCP_CONGESTION, congestion, strlen(congestion))) return -1;
                clients[client].sent = -1;
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = client};
                epoll_ctl(poll, EPOLL_CTL_ADD, client, &event);
                continue;
            }
            struct client *c = clients + fd;
            int was_waiting = c->sent >= 0;
            if (!was_waiting) {
                char request[4096];
                ssize_t got = recv(fd, request, sizeof request, MSG_DONTWAIT);
                if (got <= 0) {
                    if (got == 0 || (errno != EAGAIN && errno != EINTR)) close(fd);
                    continue;
                }
                if (got < 4 || memcmp(request + got - 4, "\r\n\r\n", 4)) return -1;
                c->sent = 0;
                c->offset = asked++ % FILE_ANSWERS * length;
            }
            done = go_on(fd, c, head, head_length, file, length, by_sendfile, buffer);
            if (done < 0) return -1;
            answered += done;
            if (done == was_waiting) {
                event = (struct epoll_event){.events = done ? EPOLLIN : EPOLLOUT, .data.fd = fd};
                epoll_ctl(poll, EPOLL_CTL_MOD, fd, &event);
            }
        }
    }
    close(poll);
    free(buffer);
    return answered < total ? -1 : cpu_ns() - began;
}

/* The load of HTTP GETs: N connections that are kept, each in a thread, each asking for the next request of a list.
 *
 * Bodies are dropped in the kernel (MSG_TRUNC), so that a fast server is not measured by its client. Bodies of known length
 * and chunked ones are understood; an answer without either ends with its connection, which is then opened anew. Latency
 * runs from before the send to the last byte of the body; first byte, to the first one of the answer.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 65536, PART = 1024, ATTEMPTS = 3, STACK = 262144 };

struct load {
    const char *address; /* IPv4 */
    int32_t port;
    int32_t connection_count;
    int32_t request_count;
    int32_t window_bytes; /* receive buffer; 0: the system's */
    const uint8_t **requests;
    const int64_t *request_lengths;
    int64_t total;         /* how many to send altogether */
    int64_t end_ns;        /* no new one after that moment; 0: none */
    int64_t *latencies_ns; /* of each, in the order of sending; negative: it failed */
    int64_t *first_bytes_ns;
    atomic_llong next, body_bytes, failed_count, repeated_count;
    atomic_int last_status; /* of one that failed; -1: the connection */
};

struct client {
    struct load *load;
    int fd, start, end; /* of what is read ahead */
    uint8_t ahead[BUFFER];
};

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int dial(struct client *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(c->load->port)};
    int yes = 1;
    inet_pton(AF_INET, c->load->address, &to.sin_addr);
    c->start = c->end = 0;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) return 0;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (c->load->window_bytes)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &c->load->window_bytes, sizeof c->load->window_bytes);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) == 0) return 1;
    close(c->fd);
    c->fd = -1;
    return 0;
}

/* More bytes behind what is there. Little is asked for: what is read ahead is copied. */
static int more(struct client *c) {
    if (c->start) {
        memmove(c->ahead, c->ahead + c->start, c->end - c->start);
        c->end -= c->start;
        c->start = 0;
    }
    if (c->end + PART > BUFFER) return 0;
    for (;;) {
        ssize_t got = recv(c->fd, c->ahead + c->end, PART, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        c->end += got;
        return 1;
    }
}

static int discard(struct client *c, int64_t count) {
    int64_t have = c->end - c->start < count ? c->end - c->start : count;
    c->start += have;
    for (count -= have; count;) {
        ssize_t got = recv(c->fd, c->ahead, count < (1 << 20) ? count : 1 << 20, MSG_TRUNC | MSG_WAITALL);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        count -= got;
    }
    return 1;
}

/* A line's length with its end, read if need be; 0: failed. */
static int line(struct client *c) {
    int seen = 0;
    for (;;) {
        uint8_t *begin = c->ahead + c->start, *end = memchr(begin + seen, '\n', c->end - c->start - seen);
        if (end) return end - begin + 1;
        seen = c->end - c->start;
        if (!more(c)) return 0;
    }
}

/* One answer: its status; -1: the connection failed. `reusable`: whether another request may follow. */
static int answer(struct client *c, int64_t sent_ns, int64_t *first_ns, int64_t *size, int *reusable) {
    int64_t length = -1;
    int chunked = 0, status, count;
    if (c->start == c->end && !more(c)) return -1;
    *first_ns = now_ns() - sent_ns;
    if (!(count = line(c)) || count < 14) return -1;
    status = atoi((char *)c->ahead + c->start + 9);
    *reusable = c->ahead[c->start + 7] == '1';
    c->start += count;
    while ((count = line(c)) > 2) {
        char *p = (char *)c->ahead + c->start;
        p[count - 1] = 0;
        if (!strncasecmp(p, "content-length:", 15)) length = strtoll(p + 15, 0, 10);
        if (!strncasecmp(p, "transfer-encoding:", 18) && strcasestr(p, "chunked")) chunked = 1;
        if (!strncasecmp(p, "connection:", 11)) *reusable = !strcasestr(p, "close");
        c->start += count;
    }
    if (!count) return -1;
    c->start += count;
    *size = 0;
    if (chunked) {
        for (;;) {
            if (!(count = line(c))) return -1;
            int64_t chunk = strtoll((char *)c->ahead + c->start, 0, 16);
            c->start += count;
            *size += chunk;
            if (!discard(c, chunk)) return -1;
            if (!(count = line(c))) return -1;
            c->start += count;
            if (!chunk) return status;
        }
    }
    if (length < 0) {
        ssize_t got;
        *reusable = 0;
        *size = c->end - c->start;
        while ((got = recv(c->fd, c->ahead, 1 << 20, MSG_TRUNC)) > 0) *size += got;
        return got < 0 ? -1 : status;
    }
    *size = length;
    return discard(c, length) ? status : -1;
}

static int exchange(struct client *c, int64_t number, int64_t *size) {
    struct load *load = c->load;
    const uint8_t *request = load->requests[number % load->request_count];
    int64_t left = load->request_lengths[number % load->request_count], started = now_ns();
    int status = -1, reusable = 1;
    if (c->fd < 0 && !dial(c)) return -1;
    while (left) {
        ssize_t sent = send(c->fd, request, left, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) break;
        request += sent;
        left -= sent;
    }
    if (!left) status = answer(c, started, load->first_bytes_ns + number, size, &reusable);
    load->latencies_ns[number] = now_ns() - started;
    if (status < 0 || !reusable) {
        close(c->fd);
        c->fd = -1;
    }
    return status;
}

static void *work(void *argument) {
    struct client *c = argument;
    struct load *load = c->load;
    for (;;) {
        int64_t number = atomic_fetch_add(&load->next, 1), size = 0;
        if (number >= load->total || (load->end_ns && now_ns() >= load->end_ns)) break;
        int status = -1;
        for (int attempt = 0; status < 0 && attempt < ATTEMPTS; attempt++) {
            if (attempt) atomic_fetch_add(&load->repeated_count, 1);
            status = exchange(c, number, &size);
        }
        if (status < 200 || status > 299) {
            load->latencies_ns[number] = -1;
            atomic_fetch_add(&load->failed_count, 1);
            atomic_store(&load->last_status, status);
        } else
            atomic_fetch_add(&load->body_bytes, size);
    }
    return 0;
}

/* Runs the load; nanoseconds that it took, connections being open before the clock starts; -1: no connection. */
int64_t run(struct load *load) {
    int count = load->connection_count, running = 0, ready = 1;
    struct client *clients = calloc(count, sizeof *clients);
    pthread_t *threads = calloc(count, sizeof *threads);
    pthread_attr_t attributes;
    int64_t elapsed = -1;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    for (int i = 0; i < count; i++) {
        clients[i].load = load;
        ready = ready && dial(clients + i);
    }
    if (ready) {
        int64_t started = now_ns();
        while (running < count && !pthread_create(threads + running, &attributes, work, clients + running)) running++;
        for (int i = 0; i < running; i++) pthread_join(threads[i], 0);
        elapsed = now_ns() - started;
    }
    for (int i = 0; i < count; i++)
        if (clients[i].fd > 0) close(clients[i].fd);
    pthread_attr_destroy(&attributes);
    free(threads);
    free(clients);
    return running == count ? elapsed : -1;
}

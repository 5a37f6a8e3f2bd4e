/* A bare sender of stored instances: what a server that did nothing else would reach on this machine.
 *
 * Each association has one C-STORE outstanding, as a retrieval without an operations window has. After a message has gone out
 * the next data set is read from a file into the same place, as a server must that sends what it has stored.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FILE_INSTANCES = 64 };

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int64_t cpu_ns(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000LL +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000LL;
}

static int send_whole(int fd, const uint8_t *p, int64_t length) {
    while (length) {
        ssize_t sent = send(fd, p, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return 0;
        p += sent;
        length -= sent;
    }
    return 1;
}

/* The answer to a C-STORE-RQ, which is one small PDU. */
static int read_answer(int fd) {
    uint8_t reply[512];
    ssize_t have = 0, whole = 6;
    while (have < whole) {
        ssize_t got = recv(fd, reply + have, sizeof reply - have, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        have += got;
        if (have >= 6) whole = 6 + (reply[4] << 8 | reply[5]);
        if (whole > (ssize_t)sizeof reply) return 0;
    }
    return have == whole;
}

/* Reads the data set that begins at `offset` of a file between the headers of a message's PDUs, the first of which is the command. */
static int read_stored(uint8_t *message, int64_t length, int file, int64_t offset) {
    struct iovec gaps[256];
    int count = 0;
    int64_t at = 0, wanted = 0;
    while (at < length && count < 256) {
        int64_t pdu = 6 + ((int64_t)message[at + 2] << 24 | message[at + 3] << 16 | message[at + 4] << 8 | message[at + 5]);
        if (at) {
            gaps[count++] = (struct iovec){message + at + 12, pdu - 12};
            wanted += pdu - 12;
        }
        at += pdu;
    }
    return preadv(file, gaps, count, offset) == wanted;
}

/* Sends `count` messages of `length` bytes over `fds` and reads the answers; nanoseconds, or -1. `cpu` gets those of this thread. */
int64_t send_stored(const int *fds, int fds_count, uint8_t *const *messages, int64_t length, int file,
                    int64_t count, int64_t *cpu) {
    struct pollfd waiting[64];
    if (fds_count < 1 || fds_count > 64 || count < fds_count) return -1;
    int64_t began = now_ns(), cpu_began = cpu_ns(), sent = 0, answered = 0;
    for (int each = 0; each < fds_count; each++) {
        waiting[each] = (struct pollfd){fds[each], POLLIN, 0};
        if (!send_whole(fds[each], messages[each], length)) return -1;
        sent++;
    }
    while (answered < count) {
        if (poll(waiting, fds_count, 60000) <= 0) return -1;
        for (int each = 0; each < fds_count; each++) {
            if (!waiting[each].revents) continue;
            if (!read_answer(fds[each])) return -1;
            answered++;
            if (sent == count) continue;
            if (!send_whole(fds[each], messages[each], length)) return -1;
            sent++;
            if (!read_stored(messages[each], length, file, sent % FILE_INSTANCES * length)) return -1;
        }
    }
    *cpu = cpu_ns() - cpu_began;
    return now_ns() - began;
}

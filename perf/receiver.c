/* The receiving end of C-MOVE and C-GET loads: reads C-STORE-RQs, drops their data sets in the kernel, answers each at once.
 *
 * Compiled on first use by `perf.native` and called through ctypes, which lets the interpreter lock go: what this costs is
 * system calls, so that a fast server is not measured by its receiver. Everything else that comes (the final response, a
 * release) is handed back as it is.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { CLOSED = 0, COMMAND = 1, OTHER_PDU = 2, FAILED = 3 };
enum { BUFFER = 65536, PART = 1024 };

struct receiver {
    int32_t fd;
    int32_t other_length; /* of `other`: a command, or the body of a PDU */
    int32_t other_kind;   /* presentation context id, or PDU type */
    int32_t pdu_left;
    int64_t instance_count;
    int64_t data_set_bytes;
    int64_t first_command_ns;
    int64_t first_instance_ns;
    int32_t start, end; /* of what is read ahead */
    uint8_t ahead[BUFFER];
    uint8_t other[BUFFER];
};

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static uint32_t big32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

/* At least `count` (at most PART) bytes at ahead + start. Little more is asked for: what is read ahead is copied. */
static int need(struct receiver *r, int count) {
    if (r->end - r->start >= count) return 1;
    memmove(r->ahead, r->ahead + r->start, r->end - r->start);
    r->end -= r->start;
    r->start = 0;
    while (r->end < count) {
        ssize_t got = recv(r->fd, r->ahead + r->end, (count > PART ? count : PART) - r->end, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        r->end += got;
    }
    return 1;
}

static int discard(struct receiver *r, int64_t count) {
    int64_t have = r->end - r->start < count ? r->end - r->start : count;
    r->start += have;
    for (count -= have; count;) {
        ssize_t got = recv(r->fd, r->ahead, count < (1 << 20) ? count : 1 << 20, MSG_TRUNC | MSG_WAITALL);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        count -= got;
    }
    return 1;
}

/* The next PDV header: its fragment's length, context id and control; -1: another PDU, which is in `other`; -2: failed. */
static int64_t next_pdv(struct receiver *r, uint8_t *context_id, uint8_t *control) {
    if (!r->pdu_left) {
        if (!need(r, 6)) return -2;
        uint8_t *p = r->ahead + r->start;
        uint32_t length = big32(p + 2);
        r->start += 6;
        if (p[0] != 4) {
            r->other_kind = p[0];
            if (length > BUFFER - PART || !need(r, length)) return -2;
            memcpy(r->other, r->ahead + r->start, length);
            r->other_length = length;
            r->start += length;
            return -1;
        }
        r->pdu_left = length;
    }
    if (!need(r, 6)) return -2;
    uint8_t *p = r->ahead + r->start;
    int64_t length = (int64_t)big32(p) - 2;
    if (length < 0 || length + 6 > r->pdu_left) return -2;
    r->pdu_left -= length + 6;
    *context_id = p[4];
    *control = p[5];
    r->start += 6;
    return length;
}

/* Where the value of an element of group 0000 begins; 0: not there. */
static const uint8_t *find(const uint8_t *p, int size, int element, int *length) {
    for (int at = 0; at + 8 <= size; at += 8 + *length) {
        *length = p[at + 4] | p[at + 5] << 8 | p[at + 6] << 16;
        if (at + 8 + *length > size) return 0;
        if (!p[at] && !p[at + 1] && (p[at + 2] | p[at + 3] << 8) == element) return p + at + 8;
    }
    return 0;
}

static uint8_t *put(uint8_t *p, int element, const void *value, int length) {
    uint8_t head[8] = {0, 0, element & 0xFF, element >> 8, length & 0xFF, length >> 8, 0, 0};
    memcpy(p, head, 8);
    memcpy(p + 8, value, length);
    return p + 8 + length;
}

/* The C-STORE-RSP of success to a C-STORE-RQ, in one write. */
static int answer(struct receiver *r, uint8_t context_id, const uint8_t *command, int size) {
    uint8_t pdu[512], *p = pdu + 24;
    int class_length, uid_length, id_length;
    const uint8_t *class_uid = find(command, size, 0x0002, &class_length), *uid = find(command, size, 0x1000, &uid_length);
    const uint8_t *id = find(command, size, 0x0110, &id_length);
    if (!class_uid || !uid || !id || class_length > 66 || uid_length > 66 || id_length != 2) return 0;
    p = put(p, 0x0002, class_uid, class_length);
    p = put(p, 0x0100, "\x01\x80", 2);
    p = put(p, 0x0120, id, 2);
    p = put(p, 0x0800, "\x01\x01", 2);
    p = put(p, 0x0900, "\0\0", 2);
    p = put(p, 0x1000, uid, uid_length);
    int length = p - pdu;
    uint8_t group_length[4] = {(length - 24) & 0xFF, (length - 24) >> 8, 0, 0};
    put(pdu + 12, 0, group_length, 4);
    uint8_t head[12] = {4, 0, 0, 0, (length - 6) >> 8, (length - 6) & 0xFF, 0, 0, (length - 10) >> 8, (length - 10) & 0xFF,
                        context_id, 3};
    memcpy(pdu, head, 12);
    return send(r->fd, pdu, length, MSG_NOSIGNAL) == length;
}

/* Receives instances until something else comes, and says what. */
int receive(struct receiver *r) {
    for (;;) {
        uint8_t context_id, control;
        int64_t length;
        int size = 0, field_length;
        do {
            length = next_pdv(r, &context_id, &control);
            if (length == -1) return OTHER_PDU;
            if (length < 0 && r->start == r->end && !size && !r->pdu_left) return CLOSED;
            if (length < 0 || !(control & 1) || size + length > BUFFER - PART || !need(r, length)) return FAILED;
            memcpy(r->other + size, r->ahead + r->start, length);
            r->start += length;
            size += length;
        } while (!(control & 2));
        r->other_length = size;
        r->other_kind = context_id;
        const uint8_t *field = find(r->other, size, 0x0100, &field_length);
        if (!field || field_length != 2) return FAILED;
        if (field[0] != 1 || field[1] != 0) return COMMAND;
        if (!r->first_command_ns) r->first_command_ns = now_ns();
        uint8_t store_context_id = context_id;
        do {
            length = next_pdv(r, &context_id, &control);
            if (length < 0 || control & 1 || !discard(r, length)) return FAILED;
            r->data_set_bytes += length;
        } while (!(control & 2));
        if (!r->first_instance_ns) r->first_instance_ns = now_ns();
        r->instance_count++;
        if (!answer(r, store_context_id, r->other, size)) return FAILED;
    }
}

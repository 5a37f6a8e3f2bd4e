/* The payload of a record that is written to its file while it still comes: what a receiver calls, see ext/disk.pyx.
 *
 *     payload   | first bytes | whole pages, written already | received |
 *               ^ 0           ^ first                        ^ written
 *
 * Whole pages only: the kernel would have to read the rest of any other from the disk. A piece at a time, and the disk
 * begins with each at once. The first bytes, and those behind `written`, are written with the record's head.
 */
#ifndef FILMROOM_WRITE_AHEAD_H
#define FILMROOM_WRITE_AHEAD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

enum { WRITE_AHEAD_PAGE = 4096, WRITE_AHEAD_PIECE = 128 << 10 };

struct write_ahead {
    int fd;
    int is_over;
    const uint8_t *data; /* of the memory in which the payload begins; what comes after it is not for this */
    int64_t offset;      /* of the payload in the file */
    int64_t limit;       /* payload bytes that may be written */
    int64_t first;
    int64_t written;
};

/* The payload's first `count` bytes lie at `data`. Errors end it: who writes the record meets them again. */
static inline void write_ahead_received(struct write_ahead *ahead, const uint8_t *data, int64_t count) {
    int64_t end = count < ahead->limit ? count : ahead->limit;
    int64_t begin = ahead->written;
    if (ahead->is_over || end - begin < WRITE_AHEAD_PIECE)
        return;
    if (ahead->data == NULL)
        ahead->data = data;
    else if (ahead->data != data)
        return;
    end = ((ahead->offset + end) & ~(int64_t)(WRITE_AHEAD_PAGE - 1)) - ahead->offset;
    while (ahead->written < end) {
        ssize_t count_written =
            pwrite(ahead->fd, data + ahead->written, end - ahead->written, ahead->offset + ahead->written);
        if (count_written > 0) {
            ahead->written += count_written;
        } else if (count_written == 0 || errno != EINTR) {
            ahead->is_over = 1;
            ahead->written = ahead->first;
            return;
        }
    }
    /* It promises nothing; fdatasync reports what goes wrong. */
    sync_file_range(ahead->fd, ahead->offset + begin, end - begin, SYNC_FILE_RANGE_WRITE);
}

#endif

/* Faults at the n-th system call of a process, put between it and the C library (LD_PRELOAD). For tests only.
 *
 * The program under test is not changed; a test arms one fault by calling fault_arm in the process (ctypes), or none.
 * Calls are counted over all threads, so that enumerating n reaches each of them.
 *
 *     KILL    SIGKILL right before the call        TORN    half of a write, then SIGKILL
 *     ERRNO   fails with a number, once            ALWAYS  fails from the n-th on
 *     SHORT   half of a write, reported as such    EINTR is ERRNO with that number
 *
 * By environment, for a whole server:
 *     FAULTY_NO_SYNC=1      fsync, fdatasync and sync_file_range do nothing and say OK
 *     FAULTY_CLOCK=FILE     the wall clock is off by the nanoseconds (int64) that the first 8 bytes of FILE say
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum call { PWRITE, PWRITEV, FDATASYNC, FSYNC, WRITE_BACK, FALLOCATE, FTRUNCATE, RENAME, UNLINK, OPEN, CALLS };
enum action { NOTHING, KILL, ERRNO, ALWAYS, SHORT, TORN };

static struct {
    int call, action, number;
    long at;
    char prefix[512];
} fault = {-1, NOTHING, 0, 0, ""};
static long counts[CALLS];
static int fired;

/* Calls on names count below `prefix` only; those on descriptors all count. */
void fault_arm(int call, long at, int action, int number, const char *prefix) {
    memset(counts, 0, sizeof counts);
    fired = 0;
    fault.call = call;
    fault.at = at;
    fault.action = action;
    fault.number = number;
    strncpy(fault.prefix, prefix, sizeof fault.prefix - 1);
}

long fault_count(int call) { return counts[call]; }

int fault_fired(void) { return fired; }

static int on(enum call call) {
    long count = __atomic_add_fetch(&counts[call], 1, __ATOMIC_SEQ_CST);
    if (fault.call != (int)call || fault.action == NOTHING) return NOTHING;
    if (count != fault.at && !(fault.action == ALWAYS && count > fault.at)) return NOTHING;
    __atomic_store_n(&fired, 1, __ATOMIC_SEQ_CST);
    if (fault.action == KILL) kill(getpid(), SIGKILL);
    if (fault.action == ERRNO || fault.action == ALWAYS) {
        errno = fault.number;
        return ERRNO;
    }
    return fault.action;
}

static int watched(const char *path) { return fault.prefix[0] && !strncmp(path, fault.prefix, strlen(fault.prefix)); }

static int no_sync(void) {
    static int value = -1;
    if (value < 0) value = getenv("FAULTY_NO_SYNC") != NULL;
    return value;
}

/* Writes */

/* Who writes the index says so in DATA/index/writer, for people to read. It is no data: losing it stops nobody. */
static int is_a_note(int fd) {
    static const char name[] = "/index/writer";
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path);
    return length >= (ssize_t)sizeof name - 1 && !memcmp(path + length - (sizeof name - 1), name, sizeof name - 1);
}

static ssize_t write_at(int fd, const void *data, size_t length, off64_t offset) {
    switch (is_a_note(fd) ? NOTHING : on(PWRITE)) {
    case ERRNO: return -1;
    case SHORT: return syscall(SYS_pwrite64, fd, data, length > 1 ? length / 2 : length, offset);
    case TORN:
        syscall(SYS_pwrite64, fd, data, length / 2, offset);
        kill(getpid(), SIGKILL);
    }
    return syscall(SYS_pwrite64, fd, data, length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return write_at(fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return write_at(fd, data, length, offset); }

static ssize_t half(int fd, const struct iovec *parts, int count, off64_t offset) {
    size_t total = 0, left, done = 0;
    for (int i = 0; i < count; i++) total += parts[i].iov_len;
    left = total > 1 ? total / 2 : total;
    for (int i = 0; i < count && left; i++) {
        size_t take = parts[i].iov_len < left ? parts[i].iov_len : left;
        ssize_t wrote = syscall(SYS_pwrite64, fd, parts[i].iov_base, take, offset + done);
        if (wrote < 0) return done ? (ssize_t)done : -1;
        done += wrote;
        left -= wrote;
    }
    return done;
}

static ssize_t write_parts_at(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    switch (on(PWRITEV)) {
    case ERRNO: return -1;
    case SHORT: return half(fd, parts, count, offset);
    case TORN:
        half(fd, parts, count, offset);
        kill(getpid(), SIGKILL);
    }
    return syscall(SYS_pwritev2, fd, parts, (long)count, (long)offset, (long)(offset >> 32) >> 32, flags);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return write_parts_at(fd, parts, count, offset, 0);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return write_parts_at(fd, parts, count, offset, 0);
}
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    return write_parts_at(fd, parts, count, offset, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    return write_parts_at(fd, parts, count, offset, flags);
}

/* Syncs and sizes */

int fdatasync(int fd) { return on(FDATASYNC) ? -1 : no_sync() ? 0 : syscall(SYS_fdatasync, fd); }
int fsync(int fd) { return on(FSYNC) ? -1 : no_sync() ? 0 : syscall(SYS_fsync, fd); }
int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) {
    return on(WRITE_BACK) ? -1 : no_sync() ? 0 : syscall(SYS_sync_file_range, fd, offset, length, flags);
}
int fallocate(int fd, int mode, off_t offset, off_t length) {
    return on(FALLOCATE) ? -1 : syscall(SYS_fallocate, fd, mode, offset, length);
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }
int ftruncate(int fd, off_t length) { return on(FTRUNCATE) ? -1 : syscall(SYS_ftruncate, fd, length); }
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

/* Names */

int rename(const char *from, const char *to) {
    return watched(to) && on(RENAME) ? -1 : syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}
int unlink(const char *path) { return watched(path) && on(UNLINK) ? -1 : syscall(SYS_unlinkat, AT_FDCWD, path, 0); }

static int open_at(const char *path, int flags, mode_t mode) {
    return watched(path) && on(OPEN) ? -1 : syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return open_at(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return open_at(path, flags | O_LARGEFILE, mode);
}

/* The wall clock */

static int64_t clock_offset(void) {
    static const volatile int64_t *offset = NULL;
    static int tried = 0;
    if (!tried) {
        const char *path = getenv("FAULTY_CLOCK");
        int fd = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY) : -1;
        if (fd >= 0) {
            void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
            if (mapped != MAP_FAILED) offset = mapped;
            close(fd);
        }
        tried = 1;
    }
    return offset ? *offset : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) {
        int64_t shifted = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + clock_offset();
        now->tv_sec = shifted / 1000000000;
        now->tv_nsec = shifted % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *also) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (also) *also = exact.tv_sec;
    return exact.tv_sec;
}

"""Two Linux file calls that the `os` module lacks, sync_file_range(2) and fallocate(2), and a thread that syncs.

Their door is engine.storage.files. The calls release the GIL, take plain ints and raise OSError with errno. The kernel
checks offsets and lengths.

    SyncThread      loop: begin(fd) ──► thread: fdatasync(fd), never the GIL ──► eventfd ──► loop: finish()
"""

import os

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc


cdef extern from "<fcntl.h>" nogil:
    int c_sync_file_range "sync_file_range"(int fd, int64_t offset, int64_t length, unsigned int flags)
    int c_fallocate "fallocate"(int fd, int mode, int64_t offset, int64_t length)
    int FALLOC_FL_KEEP_SIZE
    unsigned int SYNC_FILE_RANGE_WRITE

cdef extern from "<unistd.h>" nogil:
    int c_fdatasync "fdatasync"(int fd)
    int c_close "close"(int fd)

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    int eventfd_read(int fd, uint64_t* value)
    int eventfd_write(int fd, uint64_t value)
    int EFD_CLOEXEC
    int EFD_NONBLOCK

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd* fds, unsigned long count, const timespec* timeout, const void* signals)
    short POLLIN

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t* signals)
    int pthread_sigmask(int how, const sigset_t* signals, sigset_t* before)
    int SIG_SETMASK

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t* semaphore, int shared, unsigned int value)
    int sem_destroy(sem_t* semaphore)
    int sem_post(sem_t* semaphore)
    int sem_wait(sem_t* semaphore)

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t* thread, const void* attributes, void* (*run)(void*) noexcept nogil, void* argument)
    int pthread_join(pthread_t thread, void** result)


cdef int _raise(int number) except -1:
    raise OSError(number, os.strerror(number))


def start_write_back(int fd, int64_t offset, int64_t length):
    """Ask the kernel to begin writing these dirty pages; does not wait, promises nothing, consumes no error."""
    cdef int result
    cdef int number = 0
    with nogil:
        result = c_sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE)
        if result != 0:
            number = errno
    if result != 0:
        _raise(number)


def allocate(int fd, int64_t offset, int64_t length, bint keep_size=False):
    """Reserve disk blocks that read as zeros, and grow the file to hold them unless `keep_size` (fallocate)."""
    cdef int result
    cdef int mode = FALLOC_FL_KEEP_SIZE if keep_size else 0
    cdef int number = 0
    with nogil:
        result = c_fallocate(fd, mode, offset, length)
        while result != 0 and errno == EINTR:
            result = c_fallocate(fd, mode, offset, length)
        if result != 0:
            number = errno
    if result != 0:
        _raise(number)


cdef struct Task:
    # Belongs to the loop between `finish` and `begin`, else to the thread. The semaphore and the eventfd order the
    # accesses of the two.
    sem_t wanted
    int event_fd
    int fd              # -1: end
    int error


cdef void* run_syncs(void* argument) noexcept nogil:
    cdef Task* task = <Task*>argument
    while True:
        while sem_wait(&task.wanted) != 0:
            pass  # EINTR
        if task.fd < 0:
            return NULL
        task.error = errno if c_fdatasync(task.fd) != 0 else 0
        eventfd_write(task.event_fd, 1)


cdef class SyncThread:
    """Syncs one file at a time in its own thread, which never takes the GIL. For one calling thread."""

    cdef Task* task
    cdef pthread_t thread
    cdef readonly bint is_running
    """Whether a sync has begun and `finish` has not been called."""

    def __cinit__(self):
        cdef sigset_t every, before
        cdef int number
        self.task = <Task*>malloc(sizeof(Task))
        if self.task == NULL:
            raise MemoryError
        self.task.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.task.event_fd < 0:
            number = errno
            self.drop_task()
            _raise(number)
        sem_init(&self.task.wanted, 0, 0)
        self.task.error = 0
        # Python's main thread handles signals.
        sigfillset(&every)
        pthread_sigmask(SIG_SETMASK, &every, &before)
        number = pthread_create(&self.thread, NULL, run_syncs, self.task)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if number != 0:
            c_close(self.task.event_fd)
            self.drop_task()
            _raise(number)

    def __dealloc__(self):
        self.end()

    cdef void drop_task(self) noexcept:
        free(self.task)
        self.task = NULL

    cdef void end(self) noexcept:
        if self.task == NULL:
            return
        if self.is_running:
            self.wait_us(-1, -1)
            self.is_running = False
        self.task.fd = -1
        sem_post(&self.task.wanted)
        with nogil:
            pthread_join(self.thread, NULL)
        sem_destroy(&self.task.wanted)
        c_close(self.task.event_fd)
        self.drop_task()

    cdef bint wait_us(self, int64_t timeout_us, int other_fd) noexcept:
        cdef pollfd[2] ready
        cdef timespec timeout
        cdef timespec* limit = NULL
        cdef int count
        ready[0].fd = self.task.event_fd
        ready[1].fd = other_fd
        ready[0].events = ready[1].events = POLLIN
        ready[0].revents = 0
        if timeout_us >= 0:
            timeout.tv_sec = timeout_us // 1000000
            timeout.tv_nsec = timeout_us % 1000000 * 1000
            limit = &timeout
        with nogil:
            while True:
                count = ppoll(ready, 2, limit, NULL)
                if count >= 0 or errno != EINTR or limit != NULL:
                    break
        return count > 0 and ready[0].revents != 0

    def fileno(self):
        """A descriptor that is readable when a sync has ended, until `finish`."""
        self.check_open()
        return self.task.event_fd

    def begin(self, int fd):
        """Starts fdatasync and does not wait. Keep `fd` open until `finish`."""
        self.check_open()
        if self.is_running:
            raise ValueError("a sync is under way")
        if fd < 0:
            raise ValueError("no descriptor")
        self.task.fd = fd
        self.is_running = True
        sem_post(&self.task.wanted)

    def wait(self, int64_t timeout_us, int other_fd=-1):
        """Waits for the end of the sync, for this many us (-1: without limit), or until `other_fd` is readable. Returns
        whether it has ended."""
        self.check_running()
        return self.wait_us(timeout_us, other_fd)

    def finish(self):
        """Waits for the sync; raises OSError if it failed."""
        cdef uint64_t count
        self.check_running()
        while eventfd_read(self.task.event_fd, &count) != 0:
            if errno != EAGAIN and errno != EINTR:
                _raise(errno)
            self.wait_us(-1, -1)
        self.is_running = False
        if self.task.error != 0:
            _raise(self.task.error)

    def close(self):
        """Waits for a running sync, and ends the thread. A second call does nothing."""
        self.end()

    cdef int check_open(self) except -1:
        if self.task == NULL:
            raise ValueError("the thread has ended")
        return 0

    cdef int check_running(self) except -1:
        self.check_open()
        if not self.is_running:
            raise ValueError("no sync has begun")
        return 0

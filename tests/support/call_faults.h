/* Calls on files, counted and made to fail, to be cut off by signals or to be the last: the header
 * replaces them for the whole program, beneath the library's own layer (base/os_calls.h), so one
 * source of a program includes it. */
#ifndef PARE_TESTS_SUPPORT_CALL_FAULTS_H
#define PARE_TESTS_SUPPORT_CALL_FAULTS_H

#include "support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* KILL: behind call number fault_at (from 1) of those that count. INTERRUPT: two of three calls
 * that may do so end with EINTR, and the third moves half of what it was given. */
enum { NEVER = 0, KILL, FAIL_ONCE, FAIL_FROM, INTERRUPT };
static int fault_kind, fault_errno;
static long fault_at;

/* Which calls count: a bit for each kind. */
enum {
    CALL_WRITE = 1,
    CALL_SYNC = 2,
    CALL_RENAME = 4,
    CALL_FOLDER = 8, /* mkdir */
    CALL_CHANGES = 15,
    CALL_OPEN = 16,
    CALL_READ = 32,
    CALL_RESIZE = 64,
    CALL_CLOSE = 128, /* of what was open for writing */
    CALL_LOCK = 256,
    CALL_ALL = 511
};
static unsigned fault_calls = CALL_CHANGES;

/* How many counted; processes that were forked count here, too. */
static atomic_long *n_calls;

static void call_faults_init(void) {
    n_calls =
        mmap(NULL, sizeof *n_calls, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(n_calls != MAP_FAILED);
}

static bool faulty(unsigned call) {
    if (!n_calls || !(fault_calls & call)) return false;
    long k = atomic_fetch_add(n_calls, 1) + 1;
    if (fault_kind == KILL && k > fault_at) raise(SIGKILL);
    bool fail = fault_kind == FAIL_ONCE ? k == fault_at : fault_kind == FAIL_FROM && k >= fault_at;
    if (fail) errno = fault_errno;
    return fail;
}

/* For calls that a signal may cut off. */
static bool stopped(unsigned call) {
    static atomic_long n;
    if (faulty(call)) return true;
    if (fault_kind != INTERRUPT || !(fault_calls & call)) return false;
    if (atomic_fetch_add(&n, 1) % 3 == 2) return false;
    errno = EINTR;
    return true;
}

static size_t part_of(size_t n) { return fault_kind == INTERRUPT && n > 1 ? n / 2 : n; }

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    return stopped(CALL_OPEN) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
ssize_t read(int fd, void *data, size_t n) {
    return stopped(CALL_READ) ? -1 : syscall(SYS_read, fd, data, part_of(n));
}
ssize_t pread(int fd, void *data, size_t n, off_t at) {
    return stopped(CALL_READ) ? -1 : syscall(SYS_pread64, fd, data, part_of(n), at);
}
ssize_t write(int fd, const void *data, size_t n) {
    if (fd <= 2) return syscall(SYS_write, fd, data, n);
    return stopped(CALL_WRITE) ? -1 : syscall(SYS_write, fd, data, part_of(n));
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    return stopped(CALL_WRITE) ? -1 : syscall(SYS_pwrite64, fd, data, part_of(n), at);
}
int ftruncate(int fd, off_t n) {
    return stopped(CALL_RESIZE) ? -1 : (int)syscall(SYS_ftruncate, fd, n);
}
int flock(int fd, int operation) {
    return stopped(CALL_LOCK) ? -1 : (int)syscall(SYS_flock, fd, operation);
}
/* A killed process loses nothing that it wrote: no need to wait for the disk. */
int fsync(int fd) { return (void)fd, stopped(CALL_SYNC) ? -1 : 0; }
/* Linux closes in any case. */
int close(int fd) {
    int flags = fcntl(fd, F_GETFL);
    bool fail = fd > 2 && flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && stopped(CALL_CLOSE);
    int error = errno, closed = (int)syscall(SYS_close, fd);
    if (fail) errno = error;
    return fail ? -1 : closed;
}
int rename(const char *from, const char *to) {
    return faulty(CALL_RENAME) ? -1 : (int)syscall(SYS_rename, from, to);
}
int mkdir(const char *path, mode_t mode) {
    return faulty(CALL_FOLDER) ? -1 : (int)syscall(SYS_mkdir, path, mode);
}

#endif

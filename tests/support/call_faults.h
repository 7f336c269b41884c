/* Calls that change files, counted and made to fail or to be the last: the header replaces them for
 * the whole program, so one source of a program includes it. */
#ifndef PARE_TESTS_SUPPORT_CALL_FAULTS_H
#define PARE_TESTS_SUPPORT_CALL_FAULTS_H

#include "support/test.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NEVER = 0, KILL, FAIL_ONCE, FAIL_FROM };
static int fault_kind, fault_errno;
static long fault_at;
static atomic_long n_calls;

static bool faulty(void) {
    if (fault_kind == NEVER) return false;
    long k = atomic_fetch_add(&n_calls, 1) + 1;
    if (fault_kind == KILL && k > fault_at) raise(SIGKILL);
    bool fail = fault_kind == FAIL_ONCE ? k == fault_at : fault_kind == FAIL_FROM && k >= fault_at;
    if (fail) errno = fault_errno;
    return fail;
}

ssize_t write(int fd, const void *data, size_t n) {
    return fd > 2 && faulty() ? -1 : syscall(SYS_write, fd, data, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    return faulty() ? -1 : syscall(SYS_pwrite64, fd, data, n, at);
}
/* A killed process loses nothing that it wrote: no need to wait for the disk. */
int fsync(int fd) { return (void)fd, faulty() ? -1 : 0; }
int rename(const char *from, const char *to) {
    return faulty() ? -1 : (int)syscall(SYS_rename, from, to);
}
int mkdir(const char *path, mode_t mode) {
    return faulty() ? -1 : (int)syscall(SYS_mkdir, path, mode);
}

#endif

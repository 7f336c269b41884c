#include "base/os_calls.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Linux moves at most 2 GiB at once. */
static size_t at_once(size_t n) { return n < ((size_t)1 << 30) ? n : (size_t)1 << 30; }

int pare_os_open(const char *path, int flags) {
    int fd;
    do fd = open(path, flags | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

int64_t pare_os_read_at(int fd, void *out, size_t n, uint64_t offset) {
    uint8_t *p = out;
    size_t done = 0;
    while (done < n) {
        ssize_t got = pread(fd, p + done, at_once(n - done), (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (int64_t)done;
}

/* Of one write: is there more to be done? A file that takes nothing without an error would be
 * offered the rest for ever. */
static bool goes_on(ssize_t written) {
    if (written == 0) errno = EIO;
    return written > 0 || (written < 0 && errno == EINTR);
}

int pare_os_write(int fd, const void *data, size_t n) {
    const uint8_t *p = data;
    for (size_t done = 0; done < n;) {
        ssize_t some = write(fd, p + done, at_once(n - done));
        if (!goes_on(some)) return -1;
        if (some > 0) done += (size_t)some;
    }
    return 0;
}

int pare_os_write_at(int fd, const void *data, size_t n, uint64_t offset) {
    const uint8_t *p = data;
    for (size_t done = 0; done < n;) {
        ssize_t some = pwrite(fd, p + done, at_once(n - done), (off_t)(offset + done));
        if (!goes_on(some)) return -1;
        if (some > 0) done += (size_t)some;
    }
    return 0;
}

int pare_os_sync(int fd) {
    int failed;
    do failed = fsync(fd);
    while (failed && errno == EINTR);
    return failed;
}

void pare_os_write_back(int fd) {
#ifdef SYNC_FILE_RANGE_WRITE
    (void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
#else
    (void)fd;
#endif
}

/* An interrupted close has closed on Linux: a second one could hit another thread's file. What was
 * written is safe by the sync before it. */
int pare_os_close(int fd) { return close(fd) != 0 && errno != EINTR ? -1 : 0; }

int pare_os_truncate(int fd, uint64_t size) {
    int failed;
    do failed = ftruncate(fd, (off_t)size);
    while (failed && errno == EINTR);
    return failed;
}

pare_status pare_os_open_folder_of(int *fd, const char *path, pare_error *err) {
    char *folder = pare_strdup(path);
    if (!folder) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
    char *slash = strrchr(folder, '/');
    if (slash == folder)
        slash[1] = '\0';
    else if (slash)
        *slash = '\0';
    *fd = pare_os_open(slash ? folder : ".", O_RDONLY | O_DIRECTORY);
    pare_free(folder);
    return *fd < 0 ? pare_os_fail_io(err, path, "open its folder") : PARE_OK;
}

pare_status pare_os_fail(pare_error *err, const char *path, const char *what) {
    if (errno == ENOMEM) return pare_fail(err, PARE_ERR_NOMEM, "%s: %s: out of memory", path, what);
    pare_status st = errno == ENOENT || errno == ENOTDIR || errno == EISDIR || errno == EACCES ||
                             errno == ELOOP || errno == ENAMETOOLONG
                         ? PARE_ERR_INPUT
                         : PARE_ERR_IO;
    return pare_fail(err, st, "%s: %s: %s", path, what, strerror(errno));
}

pare_status pare_os_fail_io(pare_error *err, const char *path, const char *what) {
    return pare_fail(err, PARE_ERR_IO, "%s: %s: %s", path, what, strerror(errno));
}

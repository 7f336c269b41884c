#include "base/os.h"

#include "base/memory.h"
#include "base/os_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static pare_status fail_memory(pare_error *err, const char *what) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", what);
}

static const char *kind_of(mode_t mode) {
    if (S_ISDIR(mode)) return "a folder";
    if (S_ISFIFO(mode)) return "a pipe";
    if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
    if (S_ISSOCK(mode)) return "a socket";
    return "not a regular file";
}

pare_status pare_file_open(pare_file *file, const char *path, pare_error *err) {
    *file = (pare_file){.fd = -1};
    /* O_NONBLOCK: opening a pipe without a writer must not wait; it has no effect on regular files
     */
    int fd = pare_os_open(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0) return pare_os_fail(err, path, "open");
    struct stat info;
    if (fstat(fd, &info) != 0) {
        pare_status st = pare_os_fail_io(err, path, "stat");
        close(fd);
        return st;
    }
    if (!S_ISREG(info.st_mode)) {
        close(fd);
        return pare_fail(err, PARE_ERR_INPUT, "%s: found %s, expected a regular file", path,
                         kind_of(info.st_mode));
    }
    char *copy = pare_strdup(path);
    if (!copy) {
        close(fd);
        return fail_memory(err, path);
    }
    *file = (pare_file){fd, (uint64_t)info.st_size, copy};
    return PARE_OK;
}

pare_status pare_file_read_at(const pare_file *file, void *out, size_t n, uint64_t offset,
                              pare_error *err) {
    int64_t got = pare_os_read_at(file->fd, out, n, offset);
    if (got < 0) return pare_os_fail_io(err, file->path, "read");
    if ((size_t)got == n) return PARE_OK;
    return pare_fail(err, PARE_ERR_IO, "%s: read: the file ended at byte %llu, expected %zu more",
                     file->path, (unsigned long long)offset + (unsigned long long)got,
                     n - (size_t)got);
}

void pare_file_close(pare_file *file) {
    if (!file || !file->path) return;
    close(file->fd);
    pare_free(file->path);
    *file = (pare_file){.fd = -1};
}

pare_status pare_file_read_all(char **out, size_t *size, const char *path, size_t max_size,
                               pare_error *err) {
    *out = NULL;
    *size = 0;
    pare_file file;
    PARE_TRY(pare_file_open(&file, path, err));
    pare_status st = PARE_OK;
    char *data = NULL;
    if (file.size > max_size)
        st = pare_fail(err, PARE_ERR_INPUT, "%s: found %llu bytes, expected at most %zu", path,
                       (unsigned long long)file.size, max_size);
    else if (!(data = pare_malloc((size_t)file.size + 1, 1)))
        st = fail_memory(err, path);
    else
        st = pare_file_read_at(&file, data, (size_t)file.size, 0, err);
    if (st == PARE_OK) {
        data[file.size] = '\0';
        *out = data;
        *size = (size_t)file.size;
    } else {
        pare_free(data);
    }
    pare_file_close(&file);
    return st;
}

pare_status pare_stdin_read_all(char **out, size_t *size, size_t max_size, pare_error *err) {
    *out = NULL;
    *size = 0;
    size_t n = 0, capacity = 65536;
    char *data = pare_malloc(capacity, 1);
    if (!data) return fail_memory(err, "standard input");
    for (;;) {
        if (n + 1 == capacity) {
            char *more = capacity < max_size * 2 ? pare_realloc(data, capacity *= 2, 1) : NULL;
            if (!more) {
                pare_free(data);
                return pare_fail(err, PARE_ERR_INPUT, "standard input: more than %zu bytes",
                                 max_size);
            }
            data = more;
        }
        ssize_t got = read(STDIN_FILENO, data + n, capacity - 1 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            pare_free(data);
            return pare_os_fail_io(err, "standard input", "read");
        }
        if (got == 0) break;
        n += (size_t)got;
    }
    if (n > max_size) {
        pare_free(data);
        return pare_fail(err, PARE_ERR_INPUT,
                         "standard input: found %zu bytes, expected at most %zu", n, max_size);
    }
    data[n] = '\0';
    *out = data;
    *size = n;
    return PARE_OK;
}

/* --- files that appear when complete --- */

enum { WRITER_BUFFER = 1 << 20, WRITE_BACK = 8 << 20 /* bytes on their way to the disk at once */ };

pare_status pare_writer_open(pare_writer *w, const char *path, pare_error *err) {
    return pare_writer_open_over(w, path, NULL, err);
}

pare_status pare_writer_open_over(pare_writer *w, const char *path, const char *spare,
                                  pare_error *err) {
    *w = (pare_writer){.fd = -1};
    if (pare_path_is_folder(path))
        return pare_fail(err, PARE_ERR_INPUT, "%s: found a folder, expected a file name", path);
    w->path = pare_strdup(path);
    w->temporary = pare_asprintf("%s.tmp-%ld", path, (long)getpid());
    w->buffer = pare_malloc(WRITER_BUFFER, 1);
    if (!w->path || !w->temporary || !w->buffer) {
        pare_writer_discard(w);
        return fail_memory(err, path);
    }
    pare_stale_discard(path);
    w->over = spare && pare_path_rename(spare, w->temporary);
    w->fd = pare_os_open(w->temporary, O_RDWR | O_CREAT | (w->over ? 0 : O_TRUNC));
    if (w->fd < 0) {
        pare_status st = pare_os_fail(err, path, "create");
        if (!w->over) { /* there is nothing to remove */
            pare_free(w->temporary);
            w->temporary = NULL;
        }
        pare_writer_discard(w);
        return st;
    }
    return PARE_OK;
}

static pare_status write_out(pare_writer *w, const void *data, size_t n, pare_error *err) {
    if (pare_os_write(w->fd, data, n) != 0) return pare_os_fail_io(err, w->path, "write");
    w->waiting += n;
    if (w->waiting < WRITE_BACK) return PARE_OK;
    w->waiting = 0;
    pare_os_write_back(w->fd);
    return PARE_OK;
}

static pare_status writer_flush(pare_writer *w, pare_error *err) {
    size_t n = w->buffered;
    w->buffered = 0;
    return write_out(w, w->buffer, n, err);
}

pare_status pare_writer_write(pare_writer *w, const void *data, size_t n, pare_error *err) {
    w->offset += n;
    if (n >= WRITER_BUFFER - w->buffered) {
        PARE_TRY(writer_flush(w, err));
        if (n >= WRITER_BUFFER) return write_out(w, data, n, err);
    }
    if (n) memcpy(w->buffer + w->buffered, data, n);
    w->buffered += n;
    return PARE_OK;
}

pare_status pare_writer_pad(pare_writer *w, size_t n, pare_error *err) {
    static const uint8_t zeros[4096];
    for (; n; n -= n < sizeof zeros ? n : sizeof zeros)
        PARE_TRY(pare_writer_write(w, zeros, n < sizeof zeros ? n : sizeof zeros, err));
    return PARE_OK;
}

pare_status pare_writer_write_at(pare_writer *w, const void *data, size_t n, uint64_t offset,
                                 pare_error *err) {
    PARE_TRY(writer_flush(w, err));
    return pare_os_write_at(w->fd, data, n, offset) == 0 ? PARE_OK
                                                         : pare_os_fail_io(err, w->path, "write");
}

pare_status pare_writer_commit(pare_writer *w, pare_error *err) {
    pare_status st = writer_flush(w, err);
    if (st == PARE_OK && w->over && pare_os_truncate(w->fd, w->offset) != 0)
        st = pare_os_fail_io(err, w->path, "truncate");
    /* after a failed fsync the data may be lost although a second one succeeds: never try again */
    if (st == PARE_OK && pare_os_sync(w->fd) != 0) st = pare_os_fail_io(err, w->path, "sync");
    if (pare_os_close(w->fd) != 0 && st == PARE_OK) st = pare_os_fail_io(err, w->path, "close");
    w->fd = -1;
    int folder = -1;
    if (st == PARE_OK) st = pare_os_open_folder_of(&folder, w->path, err);
    if (st == PARE_OK && rename(w->temporary, w->path) != 0)
        st = pare_os_fail_io(err, w->path, "rename");
    if (st == PARE_OK) {
        pare_free(w->temporary);
        w->temporary = NULL;
        if (pare_os_sync(folder) != 0) {
            st = pare_os_fail_io(err, w->path, "sync of its folder");
            unlink(w->path);
        }
    }
    if (folder >= 0) close(folder);
    pare_writer_discard(w);
    return st;
}

void pare_writer_discard(pare_writer *w) {
    if (!w || (!w->path && !w->temporary && !w->buffer)) return;
    if (w->fd >= 0) close(w->fd);
    if (w->temporary) unlink(w->temporary);
    pare_free(w->path);
    pare_free(w->temporary);
    pare_free(w->buffer);
    *w = (pare_writer){.fd = -1};
}

/* --- locks --- */

/* Who holds it, as the holder wrote: "process 12 on name", for messages and to know the machine. A
 * loss of power may cut it short: without its line end it says nothing. */
static void holder_text(char *out, size_t n) {
    char host[200] = "";
    if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
    snprintf(out, n, "process %ld on %s\n", (long)getpid(), host);
}

/* *free: nobody on this machine holds it. */
static pare_status lock_here(bool *free, int fd, const char *path, pare_error *err) {
    int failed;
    do failed = flock(fd, LOCK_EX | LOCK_NB);
    while (failed && errno == EINTR);
    *free = !failed;
    return failed && errno != EWOULDBLOCK ? pare_os_fail_io(err, path, "lock") : PARE_OK;
}

/* Errors: what the file says of its holder cannot be read: another machine's may hold it. */
static pare_status take(pare_lock *lock, const char *path, pare_error *err) {
    char said[256] = "", mine[256];
    holder_text(mine, sizeof mine);
    int64_t n = pare_os_read_at(lock->fd, said, sizeof said - 1, 0);
    if (n < 0) return pare_os_fail_io(err, path, "read");
    said[n] = '\0';
    if (!strchr(said, '\n')) said[0] = '\0';
    const char *their_host = strstr(said, " on "), *my_host = strstr(mine, " on ");
    bool free_here;
    PARE_TRY(lock_here(&free_here, lock->fd, path, err));
    if (!free_here || (their_host && strcmp(their_host, my_host) != 0)) {
        said[strcspn(said, "\n")] = '\0';
        return pare_fail(err, PARE_ERR_ARG, "%s: found it held by %s, expected nobody%s", path,
                         said[0] ? said : "another process",
                         free_here ? " (if that process is gone, remove the file)" : "");
    }
    if (pare_os_truncate(lock->fd, 0) != 0 ||
        pare_os_write_at(lock->fd, mine, strlen(mine), 0) != 0)
        return pare_os_fail_io(err, path, "write");
    return PARE_OK;
}

pare_status pare_lock_take(pare_lock *lock, const char *path, pare_error *err) {
    lock->fd = pare_os_open(path, O_RDWR | O_CREAT);
    if (lock->fd < 0) return pare_os_fail(err, path, "open");
    pare_status st = take(lock, path, err);
    if (st != PARE_OK) {
        close(lock->fd); /* nothing of another's line is taken away */
        lock->fd = -1;
    }
    return st;
}

void pare_lock_release(pare_lock *lock) {
    if (lock->fd < 0) return;
    (void)pare_os_truncate(lock->fd, 0);
    close(lock->fd);
    lock->fd = -1;
}

double pare_now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t pare_wall_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec;
}

#include "base/os.h"

#include "base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

static pare_status fail_errno(pare_error *err, const char *path, const char *what) {
    if (errno == ENOMEM) return pare_fail(err, PARE_ERR_NOMEM, "%s: %s: out of memory", path, what);
    pare_status st = errno == ENOENT || errno == ENOTDIR || errno == EISDIR || errno == EACCES ||
                             errno == ELOOP || errno == ENAMETOOLONG
                         ? PARE_ERR_INPUT
                         : PARE_ERR_IO;
    return pare_fail(err, st, "%s: %s: %s", path, what, strerror(errno));
}

static pare_status fail_io(pare_error *err, const char *path, const char *what) {
    return pare_fail(err, PARE_ERR_IO, "%s: %s: %s", path, what, strerror(errno));
}

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
    int fd;
    /* O_NONBLOCK: opening a pipe without a writer must not wait; it has no effect on regular files
     */
    do fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return fail_errno(err, path, "open");
    struct stat info;
    if (fstat(fd, &info) != 0) {
        pare_status st = fail_io(err, path, "stat");
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
    uint8_t *p = out;
    while (n) {
        size_t want = n < ((size_t)1 << 30) ? n : (size_t)1 << 30;
        ssize_t got = pread(file->fd, p, want, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_io(err, file->path, "read");
        if (got == 0)
            return pare_fail(err, PARE_ERR_IO,
                             "%s: read: the file ended at byte %llu, expected %zu more", file->path,
                             (unsigned long long)offset, n);
        p += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return PARE_OK;
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
            return fail_io(err, "standard input", "read");
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

enum { WRITER_BUFFER = 1 << 20 };

static pare_status write_fully(int fd, const char *path, const uint8_t *p, size_t n,
                               pare_error *err) {
    while (n) {
        ssize_t done = write(fd, p, n < ((size_t)1 << 30) ? n : (size_t)1 << 30);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return fail_io(err, path, "write");
        p += done;
        n -= (size_t)done;
    }
    return PARE_OK;
}

/* The folder that holds `path`, opened before a rename: afterwards only its sync may fail. */
static pare_status open_folder_of(int *fd, const char *path, pare_error *err) {
    char *folder = pare_strdup(path);
    if (!folder) return fail_memory(err, path);
    char *slash = strrchr(folder, '/');
    if (slash == folder)
        slash[1] = '\0';
    else if (slash)
        *slash = '\0';
    *fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    pare_free(folder);
    return *fd < 0 ? fail_io(err, path, "open its folder") : PARE_OK;
}

pare_status pare_writer_open(pare_writer *w, const char *path, pare_error *err) {
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
    do w->fd = open(w->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    while (w->fd < 0 && errno == EINTR);
    if (w->fd < 0) {
        pare_status st = fail_errno(err, path, "create");
        pare_free(w->temporary);
        w->temporary = NULL;
        pare_writer_discard(w);
        return st;
    }
    return PARE_OK;
}

static pare_status writer_flush(pare_writer *w, pare_error *err) {
    size_t n = w->buffered;
    w->buffered = 0;
    return write_fully(w->fd, w->path, w->buffer, n, err);
}

pare_status pare_writer_write(pare_writer *w, const void *data, size_t n, pare_error *err) {
    w->offset += n;
    if (n >= WRITER_BUFFER - w->buffered) {
        PARE_TRY(writer_flush(w, err));
        if (n >= WRITER_BUFFER) return write_fully(w->fd, w->path, data, n, err);
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
    const uint8_t *p = data;
    while (n) {
        ssize_t done = pwrite(w->fd, p, n, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return fail_io(err, w->path, "write");
        p += done;
        n -= (size_t)done;
        offset += (uint64_t)done;
    }
    return PARE_OK;
}

pare_status pare_writer_commit(pare_writer *w, pare_error *err) {
    pare_status st = writer_flush(w, err);
    /* after a failed fsync the data may be lost although a second one succeeds: never try again */
    if (st == PARE_OK && fsync(w->fd) != 0) st = fail_io(err, w->path, "sync");
    if (close(w->fd) != 0 && st == PARE_OK) st = fail_io(err, w->path, "close");
    w->fd = -1;
    int folder = -1;
    if (st == PARE_OK) st = open_folder_of(&folder, w->path, err);
    if (st == PARE_OK && rename(w->temporary, w->path) != 0) st = fail_io(err, w->path, "rename");
    if (st == PARE_OK) {
        pare_free(w->temporary);
        w->temporary = NULL;
        if (fsync(folder) != 0) {
            st = fail_io(err, w->path, "sync of its folder");
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

/* --- folders that appear when complete --- */

/* rmdir succeeds on an empty folder only: what a user keeps there is never replaced. */
static pare_status make_way(const char *path, pare_error *err) {
    if (!pare_path_exists(path)) return PARE_OK;
    if (!pare_path_is_folder(path))
        return pare_fail(err, PARE_ERR_INPUT, "%s: found a file, expected a new or empty folder",
                         path);
    if (rmdir(path) == 0) return PARE_OK;
    if (errno == ENOTEMPTY || errno == EEXIST)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found a folder with files, expected a new or empty folder", path);
    return fail_io(err, path, "remove the empty folder");
}

pare_status pare_folder_check(const char *path, pare_error *err) {
    if (!pare_path_is_folder(path)) return make_way(path, err);
    DIR *dir = opendir(path);
    if (!dir) return fail_errno(err, path, "open");
    size_t n = 0;
    while (readdir(dir)) n++; /* "." and ".." are always there */
    closedir(dir);
    if (n <= 2) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: found a folder with files, expected a new or empty folder", path);
}

/* Temporary folders that processes which are gone left beside `path` (n bytes of it). */
static void discard_stale(const char *path, size_t n) {
    size_t base = n;
    while (base > 0 && path[base - 1] != '/') base--;
    char *folder = base ? pare_strndup(path, base) : pare_strdup(".");
    DIR *dir = folder ? opendir(folder) : NULL;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char *end;
        if (strncmp(e->d_name, path + base, n - base) != 0 ||
            strncmp(e->d_name + n - base, ".tmp-", 5) != 0)
            continue;
        long pid = strtol(e->d_name + n - base + 5, &end, 10);
        if (*end || pid <= 0 || kill((pid_t)pid, 0) == 0 || errno != ESRCH) continue;
        char *stale = pare_path_join(folder, e->d_name);
        pare_folder_discard(stale);
        pare_free(stale);
    }
    if (dir) closedir(dir);
    pare_free(folder);
}

pare_status pare_folder_begin(char **temporary, const char *path, pare_error *err) {
    *temporary = NULL;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    char *name = pare_asprintf("%.*s.tmp-%ld", (int)n, path, (long)getpid());
    if (!name) return fail_memory(err, path);
    pare_status st = make_way(path, err);
    if (st == PARE_OK) {
        discard_stale(path, n);
        pare_folder_discard(name);
        if (mkdir(name, 0777) != 0) st = fail_errno(err, path, "create");
    }
    if (st != PARE_OK) {
        pare_free(name);
        return st;
    }
    *temporary = name;
    return PARE_OK;
}

pare_status pare_folder_commit(const char *temporary, const char *path, pare_error *err) {
    PARE_TRY(make_way(path, err));
    int fd = open(temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0) close(fd);
    if (!synced) return fail_io(err, path, "sync");
    char *clean = pare_strdup(path);
    if (!clean) return fail_memory(err, path);
    size_t n = strlen(clean);
    while (n > 1 && clean[n - 1] == '/') clean[--n] = '\0';
    int folder = -1;
    pare_status st = open_folder_of(&folder, clean, err);
    if (st == PARE_OK && rename(temporary, clean) != 0) st = fail_io(err, path, "rename");
    if (st == PARE_OK && fsync(folder) != 0) st = fail_io(err, path, "sync of its folder");
    if (folder >= 0) close(folder);
    pare_free(clean);
    return st;
}

/* Removes what is in a folder and closes it; links are not followed. */
static void empty_folder(DIR *dir) {
    for (struct dirent *e; (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            unlinkat(dirfd(dir), e->d_name, 0) == 0)
            continue;
        int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *inner = fd >= 0 ? fdopendir(fd) : NULL;
        if (inner)
            empty_folder(inner);
        else if (fd >= 0)
            close(fd);
        unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR);
    }
    closedir(dir);
}

void pare_folder_discard(const char *temporary) {
    DIR *dir = temporary ? opendir(temporary) : NULL;
    if (!dir) return;
    empty_folder(dir);
    rmdir(temporary);
}

pare_status pare_disk_free(uint64_t *bytes, const char *path, pare_error *err) {
    struct statvfs info;
    const char *slash = strrchr(path, '/');
    char *folder = slash ? pare_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : NULL;
    if (slash && !folder) return fail_memory(err, path);
    int failed = statvfs(folder ? folder : ".", &info);
    pare_free(folder);
    if (failed) return fail_errno(err, path, "free space");
    *bytes = (uint64_t)info.f_bavail * info.f_frsize;
    return PARE_OK;
}

/* --- locks --- */

/* Who holds it, as the holder wrote: "process 12 on name", for messages and to know the machine. A
 * loss of power may cut it short: without its line end it says nothing. */
static void holder_text(char *out, size_t n) {
    char host[200] = "";
    if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
    snprintf(out, n, "process %ld on %s\n", (long)getpid(), host);
}

pare_status pare_lock_take(pare_lock *lock, const char *path, pare_error *err) {
    lock->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock->fd < 0) return fail_errno(err, path, "open");
    char said[256] = "", mine[256];
    holder_text(mine, sizeof mine);
    ssize_t n = pread(lock->fd, said, sizeof said - 1, 0);
    said[n > 0 ? n : 0] = '\0';
    if (!strchr(said, '\n')) said[0] = '\0';
    const char *their_host = strstr(said, " on "), *my_host = strstr(mine, " on ");
    bool free_here = flock(lock->fd, LOCK_EX | LOCK_NB) == 0;
    if (!free_here || (their_host && strcmp(their_host, my_host) != 0)) {
        close(lock->fd);
        lock->fd = -1;
        said[strcspn(said, "\n")] = '\0';
        return pare_fail(err, PARE_ERR_ARG, "%s: found it held by %s, expected nobody%s", path,
                         said[0] ? said : "another process",
                         free_here ? " (if that process is gone, remove the file)" : "");
    }
    if (ftruncate(lock->fd, 0) != 0 ||
        pwrite(lock->fd, mine, strlen(mine), 0) != (ssize_t)strlen(mine)) {
        pare_status st = fail_io(err, path, "write");
        pare_lock_release(lock);
        return st;
    }
    return PARE_OK;
}

void pare_lock_release(pare_lock *lock) {
    if (lock->fd < 0) return;
    (void)!ftruncate(lock->fd, 0);
    close(lock->fd);
    lock->fd = -1;
}

/* --- paths --- */

bool pare_same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool pare_path_exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

bool pare_path_is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static int64_t nanoseconds(struct timespec t) {
    return (int64_t)t.tv_sec * 1000000000 + (int64_t)t.tv_nsec;
}

pare_status pare_path_stamp(pare_file_stamp *stamp, const char *path, pare_error *err) {
    struct stat info;
    if (stat(path, &info) != 0) return fail_errno(err, path, "stat");
#ifdef __APPLE__
    struct timespec modified = info.st_mtimespec, changed = info.st_ctimespec;
#else
    struct timespec modified = info.st_mtim, changed = info.st_ctim;
#endif
    *stamp = (pare_file_stamp){(uint64_t)info.st_dev, (uint64_t)info.st_ino, (uint64_t)info.st_size,
                               nanoseconds(modified), nanoseconds(changed)};
    return PARE_OK;
}

/* One folder; what is written into it is safe only when its own name is. */
static pare_status make_one(const char *path, pare_error *err) {
    if (mkdir(path, 0777) != 0) return errno == EEXIST ? PARE_OK : fail_errno(err, path, "create");
    int above;
    PARE_TRY(open_folder_of(&above, path, err));
    pare_status st = fsync(above) == 0 ? PARE_OK : fail_io(err, path, "sync of its folder");
    close(above);
    return st;
}

pare_status pare_folder_make(const char *path, pare_error *err) {
    char *name = pare_strdup(path);
    if (!name) return fail_memory(err, path);
    pare_status st = PARE_OK;
    for (char *p = name + (*name == '/');; p++) {
        if (*p && *p != '/') continue;
        char end = *p;
        *p = '\0';
        st = make_one(name, err);
        *p = end;
        if (!end || st != PARE_OK) break;
    }
    if (st == PARE_OK && !pare_path_is_folder(name))
        st = pare_fail(err, PARE_ERR_INPUT, "%s: found a file, expected a folder", path);
    pare_free(name);
    return st;
}

void pare_path_remove(const char *path) { (void)unlink(path); }

char *pare_path_resolve(const char *path) {
    char *real = realpath(path, NULL);
    char *copy = real ? pare_strdup(real) : NULL;
    free(real);
    return copy;
}

char *pare_path_join(const char *folder, const char *name) {
    size_t n = strlen(folder);
    return pare_asprintf("%s%s%s", folder, n && folder[n - 1] == '/' ? "" : "/", name);
}

pare_status pare_file_move(const char *to, const char *from, pare_error *err) {
    int folder;
    PARE_TRY(open_folder_of(&folder, to, err));
    pare_status st = rename(from, to) == 0 ? PARE_OK : fail_io(err, to, "rename");
    if (st == PARE_OK && fsync(folder) != 0) st = fail_io(err, to, "sync of its folder");
    close(folder);
    return st;
}

pare_status pare_file_copy(const char *to, const char *from, pare_error *err) {
    char *data;
    size_t n;
    PARE_TRY(pare_file_read_all(&data, &n, from, (size_t)1 << 30, err));
    pare_writer w;
    pare_status st = pare_writer_open(&w, to, err);
    if (st == PARE_OK) st = pare_writer_write(&w, data, n, err);
    if (st == PARE_OK) st = pare_writer_commit(&w, err);
    pare_writer_discard(&w);
    pare_free(data);
    return st;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

pare_status pare_folder_list(char ***names, size_t *n, const char *path, pare_error *err) {
    *names = NULL;
    *n = 0;
    DIR *dir = opendir(path);
    if (!dir) return fail_errno(err, path, "open folder");
    char **list = NULL;
    size_t count = 0, capacity = 0;
    pare_status st = PARE_OK;
    for (struct dirent *e; st == PARE_OK && (e = readdir(dir));) {
        struct stat info;
        if (fstatat(dirfd(dir), e->d_name, &info, 0) != 0 || !S_ISREG(info.st_mode)) continue;
        if (count == capacity) {
            capacity = capacity ? capacity * 2 : 16;
            char **more = pare_realloc(list, capacity, sizeof *list);
            if (!more) {
                st = fail_memory(err, path);
                break;
            }
            list = more;
        }
        list[count] = pare_strdup(e->d_name);
        if (list[count])
            count++;
        else
            st = fail_memory(err, path);
    }
    closedir(dir);
    if (st != PARE_OK) {
        for (size_t i = 0; i < count; i++) pare_free(list[i]);
        pare_free(list);
        return st;
    }
    if (count) qsort(list, count, sizeof *list, compare_names);
    *names = list;
    *n = count;
    return PARE_OK;
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

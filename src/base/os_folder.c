#include "base/os.h"

#include "base/memory.h"
#include "base/os_calls.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static pare_status fail_memory(pare_error *err, const char *what) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", what);
}

static char *without_slash(const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    return pare_strndup(path, n);
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
    return pare_os_fail_io(err, path, "remove the empty folder");
}

static pare_status check_empty(const char *path, pare_error *err) {
    DIR *dir = opendir(path);
    if (!dir) return pare_os_fail(err, path, "open");
    size_t n = 0;
    while (readdir(dir)) n++; /* "." and ".." are always there */
    closedir(dir);
    if (n <= 2) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: found a folder with files, expected a new or empty folder", path);
}

/* A rename takes the place of a folder, not of a link to one and not of another file system. */
static pare_status check_place(const char *path, pare_error *err) {
    char *clean = without_slash(path), *above = clean ? pare_path_join(clean, "..") : NULL;
    struct stat here, there;
    const char *found = NULL;
    bool known = above && lstat(clean, &here) == 0 && stat(above, &there) == 0;
    if (known && S_ISLNK(here.st_mode))
        found = "a link to a folder";
    else if (known && here.st_dev != there.st_dev)
        found = "a folder on which a file system is mounted";
    pare_free(clean);
    if (!above) return fail_memory(err, path);
    pare_free(above);
    if (!found) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT, "%s: found %s, expected a new or empty folder", path,
                     found);
}

/* "." and ".." are names that nothing can be renamed to. */
static pare_status check_name(const char *path, pare_error *err) {
    char *clean = without_slash(path);
    if (!clean) return fail_memory(err, path);
    const char *slash = strrchr(clean, '/'), *name = slash ? slash + 1 : clean;
    bool good = *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
    pare_free(clean);
    if (good) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT, "%s: expected the name of a new or empty folder", path);
}

pare_status pare_folder_check(const char *path, pare_error *err) {
    if (!pare_path_is_folder(path)) {
        PARE_TRY(check_name(path, err));
        return make_way(path, err);
    }
    PARE_TRY(check_empty(path, err));
    PARE_TRY(check_name(path, err));
    return check_place(path, err);
}

void pare_stale_discard(const char *path) {
    size_t n = strlen(path), base = n;
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
        if (stale && unlink(stale) != 0) pare_folder_discard(stale);
        pare_free(stale);
    }
    if (dir) closedir(dir);
    pare_free(folder);
}

pare_status pare_folder_begin(char **temporary, const char *path, pare_error *err) {
    *temporary = NULL;
    char *clean = without_slash(path),
         *name = clean ? pare_asprintf("%s.tmp-%ld", clean, (long)getpid()) : NULL;
    if (!name) {
        pare_free(clean);
        return fail_memory(err, path);
    }
    pare_status st = make_way(path, err);
    if (st == PARE_OK) {
        pare_stale_discard(clean);
        pare_folder_discard(name);
        if (mkdir(name, 0777) != 0) st = pare_os_fail(err, path, "create");
    }
    pare_free(clean);
    if (st != PARE_OK) {
        pare_free(name);
        return st;
    }
    *temporary = name;
    return PARE_OK;
}

static pare_status sync_folder(const char *folder, const char *path, pare_error *err) {
    int fd = pare_os_open(folder, O_RDONLY | O_DIRECTORY);
    if (fd < 0) return pare_os_fail_io(err, path, "open");
    pare_status st = pare_os_sync(fd) == 0 ? PARE_OK : pare_os_fail_io(err, path, "sync");
    close(fd);
    return st;
}

/* path: without a slash at its end. */
static pare_status publish(const char *temporary, const char *path, pare_error *err) {
    int above;
    PARE_TRY(sync_folder(temporary, path, err));
    PARE_TRY(pare_os_open_folder_of(&above, path, err));
    pare_status st = rename(temporary, path) == 0 ? PARE_OK : pare_os_fail_io(err, path, "rename");
    if (st == PARE_OK && pare_os_sync(above) != 0) {
        st = pare_os_fail_io(err, path, "sync of its folder");
        pare_folder_discard(path); /* as a file that is not sure to stay: pare_writer_commit */
    }
    close(above);
    return st;
}

pare_status pare_folder_commit(const char *temporary, const char *path, pare_error *err) {
    char *clean = without_slash(path);
    pare_status st = clean ? make_way(path, err) : fail_memory(err, path);
    if (st == PARE_OK) st = publish(temporary, clean, err);
    if (st != PARE_OK) pare_folder_discard(temporary);
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
    char *folder = without_slash(path);
    if (!folder) return fail_memory(err, path);
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = '\0';
    int failed = statvfs(slash ? folder : ".", &info);
    pare_free(folder);
    if (failed) return pare_os_fail(err, path, "free space");
    *bytes = (uint64_t)info.f_bavail * info.f_frsize;
    return PARE_OK;
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
    if (stat(path, &info) != 0) return pare_os_fail(err, path, "stat");
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
    if (mkdir(path, 0777) != 0)
        return errno == EEXIST ? PARE_OK : pare_os_fail(err, path, "create");
    int above;
    PARE_TRY(pare_os_open_folder_of(&above, path, err));
    pare_status st =
        pare_os_sync(above) == 0 ? PARE_OK : pare_os_fail_io(err, path, "sync of its folder");
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

bool pare_path_rename(const char *from, const char *to) { return rename(from, to) == 0; }

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
    PARE_TRY(pare_os_open_folder_of(&folder, to, err));
    pare_status st = rename(from, to) == 0 ? PARE_OK : pare_os_fail_io(err, to, "rename");
    if (st == PARE_OK && pare_os_sync(folder) != 0)
        st = pare_os_fail_io(err, to, "sync of its folder");
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
    if (!dir) return pare_os_fail(err, path, "open folder");
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

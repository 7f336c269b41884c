/* The one layer for all calls on files and time. Every function retries EINTR and short transfers
 * itself (os_calls.h), so that a caller sees done or failed. */
#ifndef PARE_SRC_BASE_OS_H
#define PARE_SRC_BASE_OS_H

#include "base/error.h"

#include <stdio.h>

typedef struct pare_file {
    int fd; /* -1 = closed */
    uint64_t size;
    char *path; /* owned, for messages */
} pare_file;

/* Opens a regular file for reading and takes its size. A folder, FIFO or device is refused
 * (PARE_ERR_INPUT). */
pare_status pare_file_open(pare_file *file, const char *path, pare_error *err);

/* Reads exactly n bytes at offset; a file that has become shorter gives PARE_ERR_IO. Thread-safe.
 */
pare_status pare_file_read_at(const pare_file *file, void *out, size_t n, uint64_t offset,
                              pare_error *err);
void pare_file_close(pare_file *file);

/* The whole file in memory with a NUL after it (not counted in *size). Refuses more than max_size
 * bytes. Free with pare_free. */
pare_status pare_file_read_all(char **out, size_t *size, const char *path, size_t max_size,
                               pare_error *err);

/* All of standard input, as pare_file_read_all. */
pare_status pare_stdin_read_all(char **out, size_t *size, size_t max_size, pare_error *err);

/* A file that appears under its name only when it is complete: written to a temporary in the same
 * folder, then fsync, rename, fsync of the folder. */
typedef struct pare_writer {
    int fd;
    char *path, *temporary; /* owned */
    uint64_t offset;        /* bytes written so far */
    uint8_t *buffer;        /* owned */
    size_t buffered;
    size_t waiting; /* bytes written that have not been sent to the disk */
    bool over;      /* an older file, which may be longer */
} pare_writer;

pare_status pare_writer_open(pare_writer *w, const char *path, pare_error *err);
/* The same into the room of a file in the same folder that nobody needs any more and that is gone
 * then: no pages are taken and none given back. Where there is none, as pare_writer_open. */
pare_status pare_writer_open_over(pare_writer *w, const char *path, const char *spare,
                                  pare_error *err);
pare_status pare_writer_write(pare_writer *w, const void *data, size_t n, pare_error *err);
/* Writes n zero bytes. */
pare_status pare_writer_pad(pare_writer *w, size_t n, pare_error *err);
/* Overwrites n bytes at an offset that was already written (a header filled in at the end). */
pare_status pare_writer_write_at(pare_writer *w, const void *data, size_t n, uint64_t offset,
                                 pare_error *err);
/* Syncs and renames. On failure nothing stands under the name and the temporary is gone. */
pare_status pare_writer_commit(pare_writer *w, pare_error *err);
/* Drops the temporary; does nothing after a commit or on a zeroed writer. */
void pare_writer_discard(pare_writer *w);

/* A folder that appears under its name only when it is complete: files are written into *temporary
 * (owned by the caller, pare_free), then the folder is synced and renamed. An existing folder at
 * `path` is refused unless it is empty, and where none can take its place: a link to a folder, the
 * root of a file system. When the commit fails, nothing stands under the name and the
 * temporary is gone. */
pare_status pare_folder_check(const char *path, pare_error *err); /* would it be refused? */
pare_status pare_folder_begin(char **temporary, const char *path, pare_error *err);
pare_status pare_folder_commit(const char *temporary, const char *path, pare_error *err);
void pare_folder_discard(const char *temporary);
/* Removes what processes that are gone left of unfinished files and folders of that name beside it
 * (path.tmp-PID). pare_folder_begin and pare_writer_open call it. */
void pare_stale_discard(const char *path);

/* Bytes free for this user on the file system that `path` is or will be on. */
pare_status pare_disk_free(uint64_t *bytes, const char *path, pare_error *err);

/* A file that one process holds at a time; the system gives it back when the process ends. */
typedef struct pare_lock {
    int fd; /* -1 = not held */
} pare_lock;
/* Errors: PARE_ERR_ARG (held by another process, of this machine or of another: the message names
 * it), PARE_ERR_IO. */
pare_status pare_lock_take(pare_lock *lock, const char *path, pare_error *err);
void pare_lock_release(pare_lock *lock);

/* True when both paths name the same existing file or folder (device and inode). */
bool pare_same_file(const char *a, const char *b);
bool pare_path_exists(const char *path);
bool pare_path_is_folder(const char *path);

/* What tells that a file may have changed. */
typedef struct pare_file_stamp {
    uint64_t device, inode, size;
    int64_t modified_ns, changed_ns; /* since 1970 */
} pare_file_stamp;
pare_status pare_path_stamp(pare_file_stamp *stamp, const char *path, pare_error *err);

/* Makes a folder and those above it; one that is there is no error. */
pare_status pare_folder_make(const char *path, pare_error *err);

/* Removes a file; one that does not exist is no error. */
void pare_path_remove(const char *path);
/* Gives a file another name, replacing what has it, where a loss of power may undo it; false: it
 * was not done. */
bool pare_path_rename(const char *from, const char *to);

/* The path without links and "..", absolute; NULL when it does not exist or memory is out. Free
 * with pare_free. */
char *pare_path_resolve(const char *path);

/* "a/b"; free with pare_free. */
char *pare_path_join(const char *folder, const char *name);

/* Renames a complete file to its name on the same file system and syncs the folder. */
pare_status pare_file_move(const char *to, const char *from, pare_error *err);

/* Copies a small file (<= 1 GiB) atomically. */
pare_status pare_file_copy(const char *to, const char *from, pare_error *err);

/* Names of the regular files in a folder, sorted by bytes; *names and each name by pare_free. */
pare_status pare_folder_list(char ***names, size_t *n, const char *path, pare_error *err);

/* Seconds of a monotonic clock. */
double pare_now_s(void);

/* Seconds since 1970, UTC. */
int64_t pare_wall_s(void);

#endif

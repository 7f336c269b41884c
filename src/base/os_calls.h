/* System calls on files as os.c and os_folder.c make them: each is done or has failed. What a
 * signal cut off goes on, and what was moved in part moves on. The tests put faults beneath
 * (tests/support/call_faults.h). */
#ifndef PARE_SRC_BASE_OS_CALLS_H
#define PARE_SRC_BASE_OS_CALLS_H

#include "base/error.h"

/* A descriptor, or -1 with errno. The file is made with mode 0666 where flags say so. */
int pare_os_open(const char *path, int flags);

/* Reads up to n bytes at offset, fewer only where the file ends; the number, or -1 with errno. */
int64_t pare_os_read_at(int fd, void *out, size_t n, uint64_t offset);

/* Writes n bytes, at the descriptor's place or at an offset; 0, or -1 with errno. */
int pare_os_write(int fd, const void *data, size_t n);
int pare_os_write_at(int fd, const void *data, size_t n, uint64_t offset);

/* 0, or -1 with errno: after that what was written may be lost, although another sync succeeds. */
int pare_os_sync(int fd);

/* What was written begins its way to the disk, so that a sync has less to wait for. Nothing waits
 * for it here and nothing may fail; where a system has no such call, nothing happens. */
void pare_os_write_back(int fd);

/* 0, or -1 with errno: what was written may be lost. The descriptor is gone either way. */
int pare_os_close(int fd);

int pare_os_truncate(int fd, uint64_t size);

/* The folder that holds `path`, opened before a rename: afterwards only its sync may fail. */
pare_status pare_os_open_folder_of(int *fd, const char *path, pare_error *err);

/* "PATH: WHAT: " and errno's text: PARE_ERR_INPUT where the path is to blame, PARE_ERR_NOMEM, else
 * PARE_ERR_IO. */
pare_status pare_os_fail(pare_error *err, const char *path, const char *what);
/* The same, always PARE_ERR_IO. */
pare_status pare_os_fail_io(pare_error *err, const char *path, const char *what);

#endif

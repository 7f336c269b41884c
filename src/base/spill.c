#include "base/spill.h"

#include "base/memory.h"
#include "base/os_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

static size_t mapping_bytes(const pare_spill *s) {
    size_t bytes = s->n * sizeof *s->data + 64; /* readable past the end, as pare_big_alloc */
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

static int open_nameless(const char *folder) {
    int fd = pare_os_open(folder, O_TMPFILE | O_RDWR);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) return fd;
    char *path = pare_asprintf("%s/spill-XXXXXX", folder); /* a file system without such files */
    fd = path ? mkstemp(path) : -1;
    if (fd >= 0) unlink(path);
    pare_free(path);
    return fd;
}

/* Takes the room at once: later a full disk would be a signal. 0 or an errno. */
static int reserve(int fd, size_t bytes) {
    int failed;
    do failed = posix_fallocate(fd, 0, (off_t)bytes);
    while (failed == EINTR);
    return failed;
}

static pare_status map_file(pare_spill *s, const char *folder, pare_error *err) {
    size_t bytes = mapping_bytes(s);
    int fd = open_nameless(folder), failed = fd < 0 ? errno : 0;
    if (!failed) failed = reserve(fd, bytes);
    void *p = failed ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!failed && p == MAP_FAILED) failed = errno;
    if (fd >= 0) pare_os_close(fd); /* the mapping holds it; nothing that must last is in it */
    if (failed)
        return pare_fail(err, PARE_ERR_IO, "%s: a file of %zu bytes for activations: %s", folder,
                         bytes, strerror(failed));
    s->data = p;
    s->in_file = true;
    return PARE_OK;
}

pare_status pare_spill_make(pare_spill *s, size_t n, const char *folder, pare_error *err) {
    size_t bytes;
    *s = (pare_spill){.n = n};
    if (!pare_mul_size(&bytes, n, sizeof *s->data) || bytes > SIZE_MAX / 2)
        return pare_fail(err, PARE_ERR_NOMEM, "activations: found %zu values, expected fewer", n);
    if (folder) return map_file(s, folder, err);
    s->data = pare_big_alloc(bytes);
    return s->data ? PARE_OK
                   : pare_fail(err, PARE_ERR_NOMEM, "activations: %zu bytes of memory", bytes);
}

void pare_spill_free(pare_spill *s) {
    if (s->data && s->in_file)
        munmap(s->data, mapping_bytes(s));
    else if (s->data)
        pare_big_free(s->data, s->n * sizeof *s->data);
    *s = (pare_spill){0};
}

void pare_spill_rest(const pare_spill *s, size_t first, size_t count) {
    if (!s->in_file) return;
    size_t begin = first * sizeof *s->data / PAGE * PAGE,
           end = (first + count) * sizeof *s->data / PAGE * PAGE;
    if (first + count >= s->n) end = mapping_bytes(s);
    /* of a shared mapping: the file keeps what was written */
    if (begin < end) (void)madvise((uint8_t *)s->data + begin, end - begin, MADV_DONTNEED);
}

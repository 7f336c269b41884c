/* Files and standard input as the verbs read them; time and memory of this process. */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

enum { MAX_TEXT_BYTES = 1 << 30 };

static pare_status read_stream(cli *c, char **text, size_t *n, FILE *f, const char *name) {
    size_t capacity = 1 << 16, used = 0;
    char *data = malloc(capacity + 1);
    while (data) {
        size_t got = fread(data + used, 1, capacity - used, f);
        used += got;
        if (got == 0 && ferror(f) && errno == EINTR && !cli_signal()) {
            clearerr(f);
            continue;
        }
        if (used < capacity) break;
        if (capacity >= MAX_TEXT_BYTES) {
            free(data);
            return cli_fail(c, PARE_ERR_INPUT, "%s: found more than 1 GiB of text, expected less",
                            name);
        }
        char *more = realloc(data, capacity * 2 + 1);
        if (!more) free(data);
        data = more;
        capacity *= 2;
    }
    if (!data) return cli_fail(c, PARE_ERR_NOMEM, "%s: out of memory", name);
    if (ferror(f)) {
        free(data);
        if (cli_signal()) return cli_fail(c, PARE_ERR_INTERRUPTED, "interrupted");
        return cli_fail(c, PARE_ERR_IO, "%s: %s", name, strerror(errno));
    }
    data[used] = '\0';
    *text = data;
    *n = used;
    return PARE_OK;
}

pare_status cli_read(cli *c, char **text, size_t *n, const char *path) {
    *text = NULL;
    *n = 0;
    if (!path || strcmp(path, "-") == 0) return read_stream(c, text, n, stdin, "standard input");
    struct stat info;
    FILE *f = fopen(path, "rb");
    if (!f) {
        bool absent = errno == ENOENT || errno == ENOTDIR;
        return cli_fail(c, absent ? PARE_ERR_INPUT : PARE_ERR_IO, "%s: %s", path, strerror(errno));
    }
    pare_status st = PARE_OK;
    if (fstat(fileno(f), &info) == 0 && S_ISDIR(info.st_mode))
        st = cli_fail(c, PARE_ERR_INPUT, "%s: found a folder, expected a text file", path);
    if (st == PARE_OK) st = read_stream(c, text, n, f, path);
    fclose(f);
    return st;
}

pare_status cli_read_line(cli *c, char **line, size_t *n) {
    size_t capacity = 0;
    *line = NULL;
    *n = 0;
    ssize_t got = getline(line, &capacity, stdin);
    if (got >= 0) {
        while (got > 0 && ((*line)[got - 1] == '\n' || (*line)[got - 1] == '\r'))
            (*line)[--got] = '\0';
        *n = (size_t)got;
        return PARE_OK;
    }
    free(*line);
    *line = NULL;
    if (cli_signal()) return cli_fail(c, PARE_ERR_INTERRUPTED, "interrupted");
    if (ferror(stdin)) return cli_fail(c, PARE_ERR_IO, "standard input: %s", strerror(errno));
    return PARE_OK;
}

uint64_t cli_peak_rss(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
    return (uint64_t)usage.ru_maxrss;
#else
    return (uint64_t)usage.ru_maxrss * 1024;
#endif
}

double cli_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

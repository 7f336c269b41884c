/* A folder for targets that need files: made at the first call, its fixed files written once, one
 * file rewritten for each input. It stays behind only when the target crashes. */
#ifndef PARE_FUZZ_FOLDER_H
#define PARE_FUZZ_FOLDER_H

#include "seeds.h"

#include <fcntl.h>
#include <unistd.h>

static char fuzz_folder[256], fuzz_files[4][300];
static unsigned fuzz_n_files;

static void fuzz_remove_folder(void) {
    for (unsigned i = 0; i < fuzz_n_files; i++) unlink(fuzz_files[i]);
    rmdir(fuzz_folder);
}

/* True the first time: then the fixed files are to be written. */
static int fuzz_folder_begin(void) {
    if (fuzz_folder[0]) return 0;
    const char *base = getenv("TMPDIR");
    snprintf(fuzz_folder, sizeof fuzz_folder, "%s/pare-fuzz-XXXXXX", base && *base ? base : "/tmp");
    FUZZ_CHECK(mkdtemp(fuzz_folder));
    atexit(fuzz_remove_folder);
    return 1;
}

static const char *fuzz_write(const char *name, const void *data, size_t n) {
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder, name);
    unsigned known = 0;
    while (known < fuzz_n_files && strcmp(fuzz_files[known], path) != 0) known++;
    if (known == fuzz_n_files) memcpy(fuzz_files[fuzz_n_files++], path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    FUZZ_CHECK(fd >= 0 && write(fd, data, n) == (ssize_t)n && close(fd) == 0);
    return path;
}

#endif

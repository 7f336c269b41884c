/* Power loss (robustness row F2), by replay. A run of every method of the registry writes down the
 * calls that change files; then the machine "loses power" behind a call: what was fsynced is there,
 * of the rest a choice: nothing, all, or some of it, in any order and files torn. On the files that
 * are left the same command goes on and ends with the bytes of an undisturbed run, repeats no block
 * that was finished, and until then nothing or an old file stands under the output's name.
 *
 * What counts as safe is what POSIX promises and no more: a file's bytes behind its own fsync, its
 * name behind an fsync of the folder that holds it. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "pare/compress.h"
#include "pare/methods.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SEED = 20240607, MAX_NODES = 512, MAX_ENTRIES = 64, MAX_FDS = 256, SECTOR = 512 };

/* ---- the calls, written down; the library is linked against these ---- */

enum { OPEN, WRITE, TRUNCATE, SYNC, RENAME, MAKE_FOLDER, REMOVE };

typedef struct call {
    int kind, fd, flags;
    int64_t at;
    size_t n; /* bytes behind this: written ones, or a path; of RENAME two, each with its NUL */
} call;

static char disk[600]; /* the folder whose calls count */
static uint8_t *log_bytes;
static size_t log_size, log_capacity;
static bool recording;

static bool counts(const char *path) {
    size_t n = strlen(disk);
    return recording && strncmp(path, disk, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static void note(call c, const void *data, size_t n, const void *more, size_t n_more) {
    c.n = n + n_more;
    if (log_size + sizeof c + c.n > log_capacity) {
        log_capacity = 2 * (log_size + sizeof c + c.n);
        log_bytes = realloc(log_bytes, log_capacity);
        if (!log_bytes) abort();
    }
    memcpy(log_bytes + log_size, &c, sizeof c);
    if (n) memcpy(log_bytes + log_size + sizeof c, data, n);
    if (n_more) memcpy(log_bytes + log_size + sizeof c + n, more, n_more);
    log_size += sizeof c + c.n;
}

static void note_path(int kind, const char *path) {
    if (counts(path)) note((call){.kind = kind}, path, strlen(path) + 1, NULL, 0);
}

/* The path behind a descriptor; of another folder: not noted. */
static bool is_ours(int fd) {
    char link[64], path[1024];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = recording ? readlink(link, path, sizeof path - 1) : -1;
    if (n < 0) return false;
    path[n] = '\0';
    return counts(path);
}

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0 && counts(path))
        note((call){.kind = OPEN, .fd = fd, .flags = flags}, path, strlen(path) + 1, NULL, 0);
    return fd;
}
ssize_t write(int fd, const void *data, size_t n) {
    bool ours = is_ours(fd);
    off_t at = ours ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t done = syscall(SYS_write, fd, data, n);
    if (ours && done > 0)
        note((call){.kind = WRITE, .fd = fd, .at = at}, data, (size_t)done, NULL, 0);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    ssize_t done = syscall(SYS_pwrite64, fd, data, n, at);
    if (done > 0 && is_ours(fd))
        note((call){.kind = WRITE, .fd = fd, .at = at}, data, (size_t)done, NULL, 0);
    return done;
}
int ftruncate(int fd, off_t n) {
    if (is_ours(fd)) note((call){.kind = TRUNCATE, .fd = fd, .at = n}, NULL, 0, NULL, 0);
    return (int)syscall(SYS_ftruncate, fd, n);
}
int fsync(int fd) {
    if (is_ours(fd)) note((call){.kind = SYNC, .fd = fd}, NULL, 0, NULL, 0);
    return 0;
}
int rename(const char *from, const char *to) {
    int failed = (int)syscall(SYS_rename, from, to);
    if (!failed && counts(from))
        note((call){.kind = RENAME}, from, strlen(from) + 1, to, strlen(to) + 1);
    return failed;
}
int mkdir(const char *path, mode_t mode) {
    int failed = (int)syscall(SYS_mkdir, path, mode);
    if (!failed) note_path(MAKE_FOLDER, path);
    return failed;
}
int unlink(const char *path) {
    int failed = (int)syscall(SYS_unlink, path);
    if (!failed) note_path(REMOVE, path);
    return failed;
}
int rmdir(const char *path) {
    int failed = (int)syscall(SYS_rmdir, path);
    if (!failed) note_path(REMOVE, path);
    return failed;
}
int unlinkat(int folder, const char *name, int flags) {
    char link[64], path[1024];
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link, path, sizeof path - 300);
    int failed = (int)syscall(SYS_unlinkat, folder, name, flags);
    if (failed || n < 0) return failed;
    snprintf(path + n, sizeof path - (size_t)n, "/%s", name);
    note_path(REMOVE, path);
    return failed;
}

/* ---- runs ---- */

static char model[600], text[600];

/* Runs in a process of its own; 100 + blocks that it took over, or the exit code of a failure. to:
 * where its calls are written down, or NULL. */
static int run_apart(const char *recipe, const char *out, const char *to) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        pare_error err = {0};
        pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
        const pare_compress_options o = {.model = model,
                                         .out = out,
                                         .recipe = recipe,
                                         .calib = text,
                                         .calib_samples = 2,
                                         .calib_ctx = 16};
        pare_compress_report *report = NULL;
        recording = to != NULL;
        pare_status st = pare_compress(&report, rt, &o, &err);
        recording = false;
        int fd = to ? open(to, O_WRONLY | O_CREAT | O_TRUNC, 0666) : -1;
        if (to && write(fd, log_bytes, log_size) != (ssize_t)log_size) _exit(99);
        if (st != PARE_OK) fprintf(stderr, "%s\n", err.message);
        _exit(st == PARE_OK ? 100 + (int)pare_compress_result(report)->n_resumed
                            : pare_status_exit_code(st));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- the disk as the calls leave it ---- */

typedef struct bytes {
    uint8_t *p;
    size_t n;
} bytes;

/* A change of a folder: `set` now is node `to`, `gone` is no more; either may be "". */
typedef struct change {
    char set[80], gone[80];
    int to;
} change;

typedef struct entry {
    char name[80];
    int node;
} entry;

/* A file or folder: as the running system sees it, and what is safe. */
typedef struct node {
    bool folder;
    bytes now, safe;
    bool dirty; /* they may differ */
    entry entries[MAX_ENTRIES], safe_entries[MAX_ENTRIES];
    size_t n_entries, n_safe;
    change pending[MAX_ENTRIES]; /* since the folder's last fsync */
    size_t n_pending;
} node;

static node *nodes; /* [MAX_NODES]; 0 is the disk */
static int n_nodes, fds[MAX_FDS];

static void copy_bytes(bytes *to, const bytes *from) {
    to->p = realloc(to->p, from->n + 1);
    assert_non_null(to->p);
    if (from->n) memcpy(to->p, from->p, from->n);
    to->n = from->n;
}

static int find(const entry *e, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(e[i].name, name) == 0) return (int)i;
    return -1;
}

static void apply(entry *e, size_t *n, const change *c) {
    int at = *c->gone ? find(e, *n, c->gone) : -1;
    if (at >= 0) e[at] = e[--*n];
    if (!*c->set) return;
    at = find(e, *n, c->set);
    if (at < 0) {
        at = (int)(*n)++;
        assert_true(*n <= MAX_ENTRIES);
        snprintf(e[at].name, sizeof e[at].name, "%s", c->set);
    }
    e[at].node = c->to;
}

static void change_folder(int folder, const char *set, int to, const char *gone) {
    node *d = &nodes[folder];
    assert_true(d->n_pending < MAX_ENTRIES);
    change *c = &d->pending[d->n_pending++];
    *c = (change){.to = to};
    snprintf(c->set, sizeof c->set, "%s", set);
    snprintf(c->gone, sizeof c->gone, "%s", gone);
    apply(d->entries, &d->n_entries, c);
}

/* The folder that holds a path under `disk`, and the name in it ("" for the disk itself). */
static int parent_of(const char *path, char name[80]) {
    int at = 0;
    path += strlen(disk);
    *name = '\0';
    while (*path == '/') {
        if (*name) {
            int k = find(nodes[at].entries, nodes[at].n_entries, name);
            assert_true(k >= 0);
            at = nodes[at].entries[k].node;
        }
        size_t n = strcspn(++path, "/");
        snprintf(name, 80, "%.*s", (int)n, path);
        path += n;
    }
    return at;
}

static int look_up(const char *path) {
    char name[80];
    int folder = parent_of(path, name);
    if (!*name) return folder;
    int k = find(nodes[folder].entries, nodes[folder].n_entries, name);
    return k < 0 ? -1 : nodes[folder].entries[k].node;
}

static int make_node(const char *path, bool folder) {
    char name[80];
    int in = parent_of(path, name);
    assert_true(n_nodes < MAX_NODES);
    nodes[n_nodes].folder = folder;
    change_folder(in, name, n_nodes, "");
    return n_nodes++;
}

static void resize(bytes *b, size_t n) {
    b->p = realloc(b->p, n + 1);
    assert_non_null(b->p);
    if (n > b->n) memset(b->p + b->n, 0, n - b->n);
    b->n = n;
}

static void sync_node(node *x) {
    if (!x->folder) {
        copy_bytes(&x->safe, &x->now);
        x->dirty = false;
        return;
    }
    memcpy(x->safe_entries, x->entries, sizeof x->entries);
    x->n_safe = x->n_entries;
    x->n_pending = 0;
}

static void do_call(const call *c, const void *data) {
    const char *path = data;
    char from[80], to[80];
    int at, folder, target;
    switch (c->kind) {
    case OPEN:
        at = look_up(path);
        if (at < 0) at = make_node(path, false);
        if (c->flags & O_TRUNC) {
            resize(&nodes[at].now, 0);
            nodes[at].dirty = true;
        }
        assert_true(c->fd < MAX_FDS);
        fds[c->fd] = at;
        break;
    case WRITE:
        at = fds[c->fd];
        if ((size_t)c->at + c->n > nodes[at].now.n) resize(&nodes[at].now, (size_t)c->at + c->n);
        memcpy(nodes[at].now.p + c->at, data, c->n);
        nodes[at].dirty = true;
        break;
    case TRUNCATE:
        resize(&nodes[fds[c->fd]].now, (size_t)c->at);
        nodes[fds[c->fd]].dirty = true;
        break;
    case SYNC:
        sync_node(&nodes[fds[c->fd]]);
        break;
    case RENAME:
        at = look_up(path);
        folder = parent_of(path, from);
        target = parent_of(path + strlen(path) + 1, to);
        change_folder(target, to, at, target == folder ? from : "");
        if (target != folder) change_folder(folder, "", 0, from); /* one may be lost, or both */
        break;
    case MAKE_FOLDER:
        make_node(path, true);
        break;
    default:
        folder = parent_of(path, from);
        change_folder(folder, "", 0, from);
    }
}

static void clear_disk(void) {
    for (int i = 0; i < n_nodes; i++) {
        free(nodes[i].now.p);
        free(nodes[i].safe.p);
    }
    memset(nodes, 0, (size_t)n_nodes * sizeof *nodes);
    nodes[0].folder = true;
    n_nodes = 1;
}

/* ---- what a loss of power leaves ---- */

/* NOTHING and EVERYTHING of what is not safe; NAMES: folders are as they were, bytes are not;
 * SOME: each change of a folder or not, each file torn somehow. */
enum { NOTHING, EVERYTHING, NAMES, SOME, N_LOSSES };

static uint32_t n_random;

static uint32_t roll(uint32_t below) {
    uint32_t r[4];
    pare_philox(r, SEED, 0xF2, n_random++);
    return r[0] % below;
}

/* The file's bytes after the loss. */
static bytes torn(const node *x, int loss) {
    bytes b = {0};
    if (loss == EVERYTHING) {
        copy_bytes(&b, &x->now);
        return b;
    }
    copy_bytes(&b, &x->safe);
    if (loss != SOME || !x->dirty) return b;
    uint32_t kind = roll(4);
    size_t n = x->now.n;
    if (kind == 0) return b;
    resize(&b, n);        /* the size is there; what is not written is zeros or as before */
    if (kind == 2 && n) { /* written up to here */
        size_t written = roll((uint32_t)n + 1), least = x->safe.n < n ? x->safe.n : n;
        memcpy(b.p, x->now.p, written);
        b.n = written > least ? written : least;
    }
    if (kind == 3) /* sectors in any order */
        for (size_t i = 0; i < n; i += SECTOR)
            if (roll(2)) memcpy(b.p + i, x->now.p + i, n - i < SECTOR ? n - i : SECTOR);
    return b;
}

static void write_out(int at, const char *path, int loss) {
    const node *x = &nodes[at];
    if (!x->folder) {
        bytes b = torn(x, loss);
        FILE *f = fopen(path, "wb");
        assert_true(f && fwrite(b.p, 1, b.n, f) == b.n && fclose(f) == 0);
        free(b.p);
        return;
    }
    entry entries[MAX_ENTRIES];
    size_t n = x->n_safe;
    memcpy(entries, x->safe_entries, sizeof entries);
    for (size_t i = 0; i < x->n_pending; i++)
        if (loss == EVERYTHING || loss == NAMES || (loss == SOME && roll(2)))
            apply(entries, &n, &x->pending[i]);
    assert_int_equal(mkdir(path, 0777), 0);
    for (size_t i = 0; i < n; i++) {
        char inner[900];
        snprintf(inner, sizeof inner, "%s/%s", path, entries[i].name);
        write_out(entries[i].node, inner, loss);
    }
}

/* ---- the test ---- */

/* A run with its calls. */
typedef struct record {
    const char *recipe;
    char out[700], expected[65], before[65]; /* before: hash of what stood there; "" nothing */
    uint8_t *log;
    size_t size, n_calls;
    size_t n_first; /* manifests before the first block's */
} record;

/* Manifests made known by the first n calls: a rename to its name, and the folder's fsync. */
static size_t count_manifests(const record *r, size_t n) {
    const uint8_t *p = r->log;
    size_t count = 0;
    bool renamed = false;
    for (size_t i = 0; i < n; i++) {
        call c;
        memcpy(&c, p, sizeof c);
        const char *to = (const char *)p + sizeof c;
        if (c.kind == RENAME) {
            to += strlen(to) + 1;
            const char *name = strrchr(to, '/');
            renamed = name && strcmp(name, "/manifest") == 0;
        } else if (c.kind == SYNC && renamed) {
            count++;
            renamed = false;
        }
        p += sizeof c + c.n;
    }
    return count;
}

/* The disk behind the first n calls; what stood there before is safe. */
static void replay(const record *r, const bytes *old, size_t n) {
    const uint8_t *p = r->log;
    clear_disk();
    if (old->p) {
        int at = make_node(r->out, false);
        copy_bytes(&nodes[at].now, old);
        sync_node(&nodes[at]);
        sync_node(&nodes[0]);
    }
    for (size_t i = 0; i < n; i++) {
        call c;
        memcpy(&c, p, sizeof c);
        do_call(&c, p + sizeof c);
        p += sizeof c + c.n;
    }
}

static void count_calls(record *r) {
    for (size_t at = 0; at < r->size; r->n_calls++) {
        call c;
        memcpy(&c, r->log + at, sizeof c);
        at += sizeof c + c.n;
    }
    r->n_first = count_manifests(r, r->n_calls) - TINY_LAYERS;
}

static void assert_alone(const char *out) {
    DIR *d = opendir(disk);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (*e->d_name != '.' && strcmp(e->d_name, strrchr(out, '/') + 1) != 0)
            fail_msg("%s is left", e->d_name);
    closedir(d);
}

static void lose_power(const record *r, const bytes *old, size_t n, int loss) {
    replay(r, old, n);
    test_remove(disk);
    write_out(0, disk, loss);
    bool there = pare_path_exists(r->out), whole = false;
    if (there) {
        const char *found = test_hash(r->out);
        whole = strcmp(found, r->expected) == 0;
        if (!whole && strcmp(found, r->before) != 0)
            fail_msg("%s, call %zu of %zu, loss %d: neither the old nor the new output", r->recipe,
                     n, r->n_calls, loss);
    }
    size_t manifests = count_manifests(r, n);
    int finished = manifests > r->n_first ? (int)(manifests - r->n_first) : 0;
    if (whole) test_remove(r->out); /* a folder with files is never written over */
    int code = run_apart(r->recipe, r->out, NULL);
    if (code < 100)
        fail_msg("%s, call %zu of %zu, loss %d: no resume, exit code %d", r->recipe, n, r->n_calls,
                 loss, code);
    if (!whole && code - 100 < finished)
        fail_msg("%s, call %zu of %zu, loss %d: took over %d blocks of %d finished", r->recipe, n,
                 r->n_calls, loss, code - 100, finished);
    if (strcmp(test_hash(r->out), r->expected) != 0)
        fail_msg("%s, call %zu of %zu, loss %d: other bytes", r->recipe, n, r->n_calls, loss);
    assert_alone(r->out);
}

static record record_run(const char *recipe, const char *name, const bytes *old) {
    record r = {.recipe = recipe};
    char *log = NULL, to[700];
    snprintf(r.out, sizeof r.out, "%s/%s", disk, name);
    snprintf(to, sizeof to, "%s", test_path("calls"));
    test_remove(disk);
    assert_int_equal(mkdir(disk, 0777), 0);
    if (old->p) {
        FILE *f = fopen(r.out, "wb");
        assert_true(f && fwrite(old->p, 1, old->n, f) == old->n && fclose(f) == 0);
        snprintf(r.before, sizeof r.before, "%s", test_hash(r.out));
    }
    assert_int_equal(run_apart(recipe, r.out, to), 100);
    snprintf(r.expected, sizeof r.expected, "%s", test_hash(r.out));
    assert_ok(pare_file_read_all(&log, &r.size, to, 1 << 28, err));
    r.log = (uint8_t *)log;
    count_calls(&r);
    replay(&r, old, r.n_calls); /* the record tells all: it ends with the same files */
    test_remove(disk);
    write_out(0, disk, EVERYTHING);
    assert_string_equal(test_hash(r.out), r.expected);
    assert_alone(r.out);
    return r;
}

/* `losses` places of the run, spread evenly, each with the next kind of loss. */
static void interrupted(const char *recipe, const char *name, const bytes *old, size_t losses) {
    record r = record_run(recipe, name, old);
    assert_true(r.n_calls > 40);
    if (losses > r.n_calls) losses = r.n_calls;
    for (size_t i = 0; i < losses; i++) {
        size_t first = i * r.n_calls / losses, next = (i + 1) * r.n_calls / losses;
        lose_power(&r, old, first + 1 + roll((uint32_t)(next - first)), (int)roll(N_LOSSES));
    }
    pare_free(r.log);
}

static size_t n_losses(void) { return test_is_slow() ? 4 : 12; }

static void every_method(void **state) {
    (void)state;
    for (size_t m = 0; pare_step_method_at(m); m++)
        interrupted(pare_method_name(pare_step_method_at(m)), "out", &(bytes){0}, n_losses());
}

/* A file takes the place of an older one: that one or the new one is there, always. */
static void over_an_old_file(void **state) {
    (void)state;
    static uint8_t text_of[] = "an older file";
    bytes old = {text_of, sizeof text_of};
    interrupted("wanda:sparsity=0.5 + q8_0", "out.gguf", &old, 2 * n_losses());
}

int main(void) {
    snprintf(model, sizeof model, "%s", tiny_model("tiny", NULL));
    char words[4000];
    for (size_t i = 0; i < sizeof words; i++) words[i] = (char)('a' + i * i * 31 % 26);
    snprintf(text, sizeof text, "%s", test_write("calib.txt", words, sizeof words));
    snprintf(disk, sizeof disk, "%s", test_path("disk"));
    nodes = calloc(MAX_NODES, sizeof *nodes);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_method),
                                       cmocka_unit_test(over_an_old_file)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    clear_disk();
    free(nodes);
    return failed;
}

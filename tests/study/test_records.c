/* Records: what is added comes back, filters, hashes and their cache, files that are no database,
 * two processes. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/hash.h"
#include "pare/study.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utime.h>

static pare_record *sample(void) {
    static const pare_record_layer layers[] = {
        {"blk.0.attn_q.weight", "f32", "q4_k", 4096, 16384, 2304, 4.5, 0.25, 0.0625, 0.5, NAN},
        {"odd \"name\" <&>\n", NULL, "", 1, 2, 3, NAN, 0, INFINITY, 0, NAN}};
    static const pare_record_task tasks[] = {{.name = "piqa",
                                              .n = 100,
                                              .acc = 0.7,
                                              .acc_stderr = 0.045,
                                              .acc_norm = 0.71,
                                              .acc_norm_stderr = 0.044,
                                              .ppl = NAN,
                                              .crc32 = "0123abcd",
                                              .bos = 1,
                                              .diff = -0.01,
                                              .gained = 3,
                                              .lost = 4}};
    static const char *const fallbacks[] = {"a: kept", "b: wider"};
    pare_record *r;
    assert_ok(pare_record_new(&r, "compress", NULL, err));
    r->model = "/m/model.gguf";
    r->recipe = "wanda:sparsity=2:4 + q4_k";
    r->seed = -3;
    r->ppl = 19.925;
    r->n_scored = 20470;
    r->layers = layers;
    r->n_layers = 2;
    r->tasks = tasks;
    r->n_tasks = 1;
    r->fallbacks = fallbacks;
    r->n_fallbacks = 2;
    static const pare_record_point curve[] = {{0, NAN, 5.5, NAN, NAN, 0},
                                              {10, 5.25, NAN, 1e-3, 0.5, 0}};
    r->curve = curve;
    r->n_curve = 2;
    static const pare_record_site sites[] = {{.layer = 11,
                                              .site = "ffn_down",
                                              .top1 = 3569,
                                              .median = 0.06,
                                              .channel = 1229,
                                              .attention_first = NAN}};
    r->sites = sites;
    r->n_sites = 1;
    return r;
}

static pare_records *open_new(const char *name) {
    pare_records *db;
    assert_ok(pare_records_open(&db, test_path(name), true, err));
    return db;
}

static void add_sample(pare_records *db) {
    pare_record *r = sample();
    assert_ok(pare_records_add(db, r, err));
    pare_record_free(r);
}

static void round_trip(void **state) {
    (void)state;
    pare_records *db = open_new("round.db");
    pare_record *r = sample();
    assert_ok(pare_records_add(db, r, err));
    assert_int_equal(r->id, 1);
    assert_true(r->time > 1600000000);
    pare_record_list list;
    pare_record_query q = {.details = true};
    assert_ok(pare_records_list(&list, db, &q, err));
    assert_int_equal(list.n, 1);
    char *a, *b;
    assert_ok(pare_record_json(&a, r, true, err));
    assert_ok(pare_record_json(&b, list.items[0], true, err));
    assert_string_equal(a, b); /* Inf and NaN are null on both sides */
    assert_non_null(strstr(a, "\"ppl\":19.925"));
    assert_non_null(strstr(a, "\"error\":null"));
    assert_non_null(strstr(a, "\"curve\":[{\"step\":0,\"loss\":null,\"val_loss\":5.5"));
    assert_non_null(strstr(a, "\"sites\":[{\"layer\":11,\"site\":\"ffn_down\",\"top1\":3569.0"));
    assert_non_null(strstr(a, "odd \\\"name\\\" <&>\\n"));
    pare_text_free(a);
    pare_text_free(b);
    pare_record_list_free(&list);
    pare_record_free(r);
    pare_records_close(db);
}

/* Ids are never given twice, also not after the last record was removed. */
static void removal(void **state) {
    (void)state;
    pare_records *db = open_new("remove.db");
    add_sample(db);
    add_sample(db);
    assert_ok(pare_records_remove(db, 2, err));
    assert_fails(pare_records_remove(db, 2, err), PARE_ERR_INPUT, "found no record 2");
    pare_record *r = sample();
    assert_ok(pare_records_add(db, r, err));
    assert_int_equal(r->id, 3);
    pare_record_free(r);
    pare_records_close(db);
}

static void filters(void **state) {
    (void)state;
    pare_records *db = open_new("filter.db");
    add_sample(db);
    pare_record *r = sample();
    r->ppl = (double)NAN;
    r->recipe = "Q8_0";
    r->verb = "eval";
    assert_ok(pare_records_add(db, r, err));
    pare_record_free(r);
    const struct {
        const char *filter;
        size_t n;
        int64_t first;
    } cases[] = {{"verb=eval", 1, 2},
                 {"verb!=eval", 1, 1},
                 {"recipe~q8", 1, 2},
                 {"ppl<20", 1, 1},
                 {"ppl>20", 0, 0},
                 {"ppl!=19.925", 1, 2},
                 {"id=2", 1, 2},
                 {"model=model.gguf", 2, 2},
                 {"model=/m/model.gguf", 2, 2},
                 {"model=odel.gguf", 0, 0},
                 {"out=x", 0, 0},
                 {"out!=x", 2, 2},
                 {"seed=-3", 2, 2},
                 {"recipe=", 0, 0},
                 {"model~", 2, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pare_record_list list;
        pare_record_query q = {&cases[i].filter, 1, 0, false};
        assert_ok(pare_records_list(&list, db, &q, err));
        if (list.n != cases[i].n || (list.n && list.items[0]->id != cases[i].first))
            fail_msg("%s: found %zu records", cases[i].filter, list.n);
        pare_record_list_free(&list);
    }
    const char *bad[] = {"pppl=1", "ppl", "ppl=x", "ppl=", "verb<a", "id~1", "!", "=", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pare_record_list list;
        pare_record_query q = {&bad[i], 1, 0, false};
        assert_fails(pare_records_list(&list, db, &q, err), PARE_ERR_ARG, "filter: found");
        assert_int_equal(list.n, 0);
    }
    pare_record_list list;
    pare_record_query newest = {.limit = 1};
    assert_ok(pare_records_list(&list, db, &newest, err));
    assert_int_equal(list.n, 1);
    assert_int_equal(list.items[0]->id, 2);
    pare_record_list_free(&list);
    pare_records_close(db);
}

/* --- files that are no database of ours --- */

static void run_sql(const char *path, const char *sql) {
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void refused(const char *path, pare_status status, const char *told) {
    pare_records *db;
    for (int create = 0; create < 2; create++) {
        assert_fails(pare_records_open(&db, path, create, err), status, told);
        assert_null(db);
    }
}

static void no_database(void **state) {
    (void)state;
    const char text[] =
        "this is a text, and long enough to be looked at as a database header ......"
        "................................................................";
    refused(test_write("text.db", text, sizeof text), PARE_ERR_INPUT, "found no database");
    mkdir(test_path("folder.db"), 0755);
    refused(test_path("folder.db"), PARE_ERR_INPUT, "found a folder");
    run_sql(test_path("foreign.db"), "CREATE TABLE t (x); INSERT INTO t VALUES (1)");
    refused(test_path("foreign.db"), PARE_ERR_INPUT, "another program");
    pare_records *db = open_new("newer.db");
    pare_records_close(db);
    run_sql(test_path("newer.db"), "PRAGMA user_version = 2");
    refused(test_path("newer.db"), PARE_ERR_UNSUPPORTED, "found version 2");
    assert_fails(pare_records_open(&db, test_path("absent.db"), false, err), PARE_ERR_INPUT,
                 "found nothing");
    assert_ok(pare_records_open(&db, test_path("a/b/new.db"), true, err));
    pare_records_close(db);
}

/* Cut and overwritten databases: an error or a result, never a crash. */
static void damaged(void **state) {
    (void)state;
    pare_records *db = open_new("whole.db");
    for (int i = 0; i < 40; i++) add_sample(db);
    pare_records_close(db);
    FILE *f = fopen(test_path("whole.db"), "rb");
    static unsigned char bytes[1 << 20], copy[1 << 20];
    size_t n = fread(bytes, 1, sizeof bytes, f), failures = 0;
    fclose(f);
    assert_in_range(n, 8192, sizeof bytes - 1);
    for (size_t i = 0; i < 200; i++) {
        memcpy(copy, bytes, n);
        size_t len = i < 50 ? n * i / 50 : n;
        for (size_t k = 0; i >= 50 && k < 64; k++)
            copy[(i * 7919 + k * 104729 + (k < 8 ? 0 : i * k)) % n] ^=
                (unsigned char)(k * 37 + i + 1);
        const char *path = test_write("damaged.db", copy, len);
        pare_error err = {0};
        pare_status st = pare_records_open(&db, path, true, &err);
        pare_record_list list = {0};
        pare_record_query q = {.details = true};
        if (st == PARE_OK) st = pare_records_list(&list, db, &q, &err);
        pare_record *r = sample();
        if (st == PARE_OK) st = pare_records_add(db, r, &err);
        failures += st != PARE_OK;
        if (st != PARE_OK && (!err.message[0] || err.status != st)) fail_msg("no message");
        pare_record_free(r);
        pare_record_list_free(&list);
        pare_records_close(db);
    }
    assert_in_range(failures, 20, 200); /* a file cut to nothing is a new database */
}

/* A column that an older pare did not have is added; one that a newer has is left alone. */
static void other_columns(void **state) {
    (void)state;
    pare_records *db = open_new("columns.db");
    add_sample(db);
    pare_records_close(db);
    run_sql(test_path("columns.db"), "DROP TABLE curve; ALTER TABLE record DROP COLUMN kl_mean; "
                                     "ALTER TABLE record ADD COLUMN later TEXT");
    pare_record_list list;
    assert_ok(pare_records_open(&db, test_path("columns.db"), false, err));
    const pare_record_query all = {.details = true};
    assert_ok(pare_records_list(&list, db, &all, err));
    assert_true(isnan(list.items[0]->kl_mean));
    assert_true(list.items[0]->n_curve == 0 && list.items[0]->n_layers == 2);
    pare_record_list_free(&list);
    pare_records_close(db);
    db = open_new("columns.db");
    pare_record *r = sample();
    r->kl_mean = 0.5;
    assert_ok(pare_records_add(db, r, err));
    pare_record_free(r);
    assert_ok(pare_records_list(&list, db, &all, err));
    assert_true(list.items[0]->kl_mean == 0.5);
    assert_int_equal(list.items[0]->n_curve, 2);
    pare_record_list_free(&list);
    pare_records_close(db);
}

static void read_only(void **state) {
    (void)state;
    pare_records *db = open_new("readonly.db");
    add_sample(db);
    pare_records_close(db);
    const char *path = test_path("readonly.db");
    chmod(path, 0444);
    if (access(path, W_OK) == 0) skip(); /* root writes anyway */
    assert_fails(pare_records_open(&db, path, true, err), PARE_ERR_IO, "read-only");
    assert_ok(pare_records_open(&db, path, false, err));
    pare_records_close(db);
}

static void locked(void **state) {
    (void)state;
    pare_records *db = open_new("locked.db");
    sqlite3 *other;
    sqlite3_open(test_path("locked.db"), &other);
    assert_int_equal(sqlite3_exec(other, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
    pare_record *r = sample();
    assert_fails(pare_records_add(db, r, err), PARE_ERR_IO, "locked by another process");
    assert_int_equal(r->id, 0);
    sqlite3_exec(other, "COMMIT", NULL, NULL, NULL);
    assert_ok(pare_records_add(db, r, err));
    sqlite3_close(other);
    pare_record_free(r);
    pare_records_close(db);
}

/* Four processes make the database and add to it at the same time: every record is there, whole. */
static void processes(void **state) {
    (void)state;
    enum { PROCESSES = 4, EACH = 25 };
    pid_t pids[PROCESSES];
    for (size_t p = 0; p < PROCESSES; p++) {
        pids[p] = fork();
        if (pids[p]) continue;
        pare_records *db;
        bool ok = pare_records_open(&db, test_path("many.db"), true, NULL) == PARE_OK;
        for (int i = 0; ok && i < EACH; i++) {
            pare_record *r = sample();
            r->seed = (int64_t)p;
            ok = pare_records_add(db, r, NULL) == PARE_OK;
            pare_record_free(r);
        }
        _exit(!ok);
    }
    for (size_t p = 0; p < PROCESSES; p++) {
        int status;
        waitpid(pids[p], &status, 0);
        assert_int_equal(status, 0);
    }
    pare_records *db = open_new("many.db");
    pare_record_list list;
    pare_record_query q = {.details = true};
    assert_ok(pare_records_list(&list, db, &q, err));
    assert_int_equal(list.n, PROCESSES * EACH);
    for (size_t i = 0; i < list.n; i++) assert_int_equal(list.items[i]->n_layers, 2);
    pare_record_list_free(&list);
    pare_records_close(db);
}

/* --- hashes --- */

static void file_hash(void **state) {
    (void)state;
    pare_content c;
    const char *path = test_write("abc", "abc", 3);
    assert_ok(pare_content_hash(&c, NULL, NULL, path, err));
    assert_string_equal(c.sha256,
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(c.bytes, 3);
    assert_fails(pare_content_hash(&c, NULL, NULL, test_path("absent"), err), PARE_ERR_INPUT,
                 "absent");
}

/* SHA-256 of the lines that `sha256sum * ` would print. */
static void folder_hash(void **state) {
    (void)state;
    mkdir(test_path("model"), 0755);
    test_write("model/b", "abc", 3);
    test_write("model/a", "", 0);
    test_write("model/README.md", "card", 4);
    test_write("model/.hidden", "x", 1);
    pare_content c;
    assert_ok(pare_content_hash(&c, NULL, NULL, test_path("model"), err));
    assert_int_equal(c.n_files, 2);
    assert_int_equal(c.bytes, 3);
    const char lines[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n"
                         "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b\n";
    const char *path = test_write("lines", lines, sizeof lines - 1);
    pare_content same;
    assert_ok(pare_content_hash(&same, NULL, NULL, path, err));
    assert_string_equal(c.sha256, same.sha256);
}

/* The parts of a split file count in their order, whichever folder they are in. */
static void parts_hash(void **state) {
    (void)state;
    mkdir(test_path("x"), 0755);
    mkdir(test_path("y"), 0755);
    test_write("x/m-00001-of-00002.gguf", "one", 3);
    test_write("x/m-00002-of-00002.gguf", "two", 3);
    test_write("y/m-00001-of-00002.gguf", "one", 3);
    pare_content a, b;
    assert_ok(pare_content_hash(&a, NULL, NULL, test_path("x/m-00001-of-00002.gguf"), err));
    assert_int_equal(a.n_files, 2);
    assert_fails(pare_content_hash(&b, NULL, NULL, test_path("y/m-00001-of-00002.gguf"), err),
                 PARE_ERR_INPUT, "m-00002-of-00002.gguf");
    test_write("y/m-00002-of-00002.gguf", "two", 3);
    assert_ok(pare_content_hash(&b, NULL, NULL, test_path("y/m-00001-of-00002.gguf"), err));
    assert_string_equal(a.sha256, b.sha256);
}

/* What the cache says is taken for a file that looks unchanged; verify reads it all the same. */
static void cached_hash(void **state) {
    (void)state;
    pare_records *db = open_new("cache.db");
    const char *path = test_write("cached", "abc", 3);
    pare_content c;
    assert_ok(pare_content_hash(&c, NULL, db, path, err)); /* too young to be kept */
    sqlite3 *sql;
    sqlite3_open(test_path("cache.db"), &sql);
    sqlite3_stmt *s;
    sqlite3_prepare_v2(sql, "SELECT count(*) FROM file_hash", -1, &s, NULL);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(s, 0), 0);
    sqlite3_finalize(s);
    struct stat info;
    stat(path, &info);
    char insert[400], fake[65];
    memset(fake, 'f', 64);
    fake[64] = '\0';
    snprintf(insert, sizeof insert,
             "INSERT INTO file_hash VALUES (%llu, %llu, 3, %lld, %lld, '%s')",
             (unsigned long long)info.st_dev, (unsigned long long)info.st_ino,
             (long long)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec,
             (long long)info.st_ctim.tv_sec * 1000000000 + info.st_ctim.tv_nsec, fake);
    assert_int_equal(sqlite3_exec(sql, insert, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(sql);
    assert_ok(pare_content_hash(&c, NULL, db, path, err));
    assert_string_equal(c.sha256, fake);

    pare_record *r = sample();
    r->model = path;
    r->model_sha256 = fake;
    pare_record_check checks[PARE_RECORD_FILES];
    size_t n;
    assert_ok(pare_record_verify(checks, &n, r, NULL, err));
    assert_int_equal(n, 1);
    assert_int_equal(checks[0].state, PARE_CHECK_CHANGED);
    pare_record_free(r);

    test_write("cached", "abcd", 4); /* changed: the cache does not hold */
    assert_ok(pare_content_hash(&c, NULL, db, path, err));
    assert_string_not_equal(c.sha256, fake);
    pare_records_close(db);
}

static void complete(void **state) {
    (void)state;
    const char *folder = tiny_model("complete", NULL);
    char card[1200];
    snprintf(card, sizeof card, "complete/README.md");
    const char text[] = "---\ntags: [x]\nlicense: mit\n---\nlicense: other\n";
    test_write(card, text, sizeof text - 1);
    pare_record *r;
    assert_ok(pare_record_new(&r, "eval", NULL, err));
    r->model = folder;
    r->text = "-";
    assert_ok(pare_record_complete(r, NULL, NULL, err));
    assert_string_equal(r->arch, "llama");
    assert_string_equal(r->licence, "mit");
    assert_int_equal(strlen(r->model_sha256), 64);
    assert_null(r->text_sha256);
    assert_true(r->n_params > 10000 && r->out_bytes == 4 * r->n_params);
    assert_true(r->bits_per_weight == 32);
    pare_record_check checks[PARE_RECORD_FILES];
    size_t n;
    assert_ok(pare_record_verify(checks, &n, r, NULL, err));
    assert_int_equal(n, 2);
    assert_int_equal(checks[0].state, PARE_CHECK_SAME);
    assert_int_equal(checks[1].state, PARE_CHECK_UNKNOWN);
    pare_record_free(r);
}

static void default_path(void **state) {
    (void)state;
    char path[256];
    setenv("PARE_RECORDS", "/r/x.db", 1);
    assert_ok(pare_records_default_path(path, sizeof path, err));
    assert_string_equal(path, "/r/x.db");
    assert_fails(pare_records_default_path(path, 5, err), PARE_ERR_ARG, "longer than 5");
    unsetenv("PARE_RECORDS");
    setenv("XDG_DATA_HOME", "/d", 1);
    assert_ok(pare_records_default_path(path, sizeof path, err));
    assert_string_equal(path, "/d/pare/records.db");
    setenv("XDG_DATA_HOME", "relative", 1);
    setenv("HOME", "/h", 1);
    assert_ok(pare_records_default_path(path, sizeof path, err));
    assert_string_equal(path, "/h/.local/share/pare/records.db");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),   cmocka_unit_test(removal),
        cmocka_unit_test(filters),      cmocka_unit_test(no_database),
        cmocka_unit_test(damaged),      cmocka_unit_test(other_columns),
        cmocka_unit_test(read_only),    cmocka_unit_test(locked),
        cmocka_unit_test(processes),    cmocka_unit_test(file_hash),
        cmocka_unit_test(folder_hash),  cmocka_unit_test(parts_hash),
        cmocka_unit_test(cached_hash),  cmocka_unit_test(complete),
        cmocka_unit_test(default_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

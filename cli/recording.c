/* Records as the verbs make and read them. */
#include "recording.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static bool is_none(const char *path) { return strcmp(path, "none") == 0; }

/* Where records are: the option, or the default. */
static pare_status records_path(cli *c, char *path, size_t size, const char *records) {
    if (!records) return pare_records_default_path(path, size, &c->err);
    if ((size_t)snprintf(path, size, "%s", records) < size) return PARE_OK;
    return cli_fail(c, PARE_ERR_ARG, "--records: the path is longer than %zu bytes", size);
}

pare_record *cli_record_begin(cli *c) {
    pare_record *r = NULL;
    pare_error err = {0};
    if (pare_record_new(&r, c->verb->name, c->rt, &err) != PARE_OK)
        cli_warn(c, "no record: %s", err.message);
    return r;
}

/* The database for a run's record; NULL where there is to be none, or it cannot be used. */
static pare_records *open_for_run(cli *c, const char *records) {
    char path[4096];
    pare_records *db = NULL;
    pare_error kept = c->err, err = {0};
    pare_status st = records_path(c, path, sizeof path, records);
    if (st != PARE_OK) err = c->err;
    c->err = kept;
    if (st == PARE_OK && is_none(path)) return NULL;
    if (st == PARE_OK) st = pare_records_open(&db, path, true, &err);
    if (st != PARE_OK) cli_warn(c, "no record: %s", err.message);
    return db;
}

static bool is_folder(const char *path) {
    struct stat info;
    return path && stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

int64_t cli_record_end(cli *c, pare_record *r, const char *records) {
    if (!r) return 0;
    pare_error err = {0};
    pare_records *db = open_for_run(c, records);
    bool card = is_folder(r->out);
    r->peak_rss_bytes = (int64_t)cli_peak_rss();
    if ((db || card) && pare_record_complete(r, c->rt, db, &err) != PARE_OK)
        cli_warn(c, "the record is incomplete: %s", err.message);
    if (db && pare_records_add(db, r, &err) != PARE_OK) cli_warn(c, "no record: %s", err.message);
    if (card && pare_model_card_write(r->out, r, &err) != PARE_OK)
        cli_warn(c, "no model card: %s", err.message);
    int64_t id = r->id;
    pare_records_close(db);
    pare_record_free(r);
    return id;
}

json_t *cli_record_id(int64_t id) { return id ? json_integer((json_int_t)id) : json_null(); }

pare_status cli_records_open(cli *c, pare_records **db, const char *records, bool write) {
    char path[4096];
    *db = NULL;
    pare_status st = records_path(c, path, sizeof path, records);
    if (st != PARE_OK) return st;
    if (is_none(path))
        return cli_fail(c, PARE_ERR_ARG, "records: found 'none', expected a database");
    if (!records && access(path, F_OK) != 0) return PARE_OK;
    return pare_records_open(db, path, write, &c->err);
}

json_t *cli_record_json(const pare_record *r, bool details) {
    char *text = NULL;
    if (pare_record_json(&text, r, details, NULL) != PARE_OK) return NULL;
    json_t *o = json_loads(text, JSON_ALLOW_NUL, NULL);
    pare_text_free(text);
    return o;
}

const char *cli_date(int64_t time) {
    static char ring[4][32];
    static unsigned next;
    char *out = ring[next++ % 4];
    struct tm parts;
    time_t t = (time_t)time;
    if (!gmtime_r(&t, &parts) || !strftime(out, sizeof ring[0], "%Y-%m-%d %H:%M", &parts))
        snprintf(out, sizeof ring[0], "?");
    return out;
}

const char *cli_base_name(const char *path) {
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path ? path : "";
}

/* The database of records: SQLite, one file, made from the tables of record_columns.h.
 *
 *   record     one row a run
 *   layer      record, i, then the fields of pare_record_layer
 *   task       record, i, then the fields of pare_record_task
 *   curve      record, i, then the fields of pare_record_point
 *   site       record, i, then the fields of pare_record_site
 *   fallback   record, i, line
 *   file_hash  device, inode, size, times -> SHA-256
 *
 * application_id says that the file is ours, user_version how it is built. Columns that an older
 * pare did not know are added when a newer one writes; reading goes by the columns' names. So the
 * version changes only when old programs would read nonsense. A rollback journal, one transaction a
 * record, and a wait of a few seconds for a lock: two processes at once are fine. */
#include "study/records.h"
#include "study/record_columns.h"

#include "base/memory.h"
#include "io/common.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    APPLICATION_ID = 0x70617265, /* "pare" */
    SCHEMA_VERSION = 1,
    BUSY_MS = 4000,
    MAX_CELL_BYTES = 16 << 20 /* of one value: a damaged file must not ask for more */
};

struct pare_records {
    sqlite3 *db;
    char *path;
};

static const char *const sql_types[] = {"TEXT", "INTEGER", "INTEGER", "REAL"};

/* --- errors --- */

static pare_status fail_sql(const pare_records *r, const char *what, pare_error *err) {
    int code = sqlite3_errcode(r->db) & 0xFF;
    const char *why = sqlite3_errmsg(r->db);
    switch (code) {
    case SQLITE_NOTADB:
        return pare_fail(err, PARE_ERR_INPUT, "%s: found no database, expected records of pare",
                         r->path);
    case SQLITE_CORRUPT:
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: the database is damaged (%s)", r->path, what,
                         why);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return pare_fail(err, PARE_ERR_IO, "%s: %s: locked by another process", r->path, what);
    case SQLITE_NOMEM:
        return pare_fail(err, PARE_ERR_NOMEM, "%s: %s: out of memory", r->path, what);
    case SQLITE_ERROR: /* a table or column that should be there is not */
    case SQLITE_MISMATCH:
    case SQLITE_CONSTRAINT:
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found other tables than pare's (%s)",
                         r->path, what, why);
    default:
        return pare_fail(err, PARE_ERR_IO, "%s: %s: %s", r->path, what, why);
    }
}

static pare_status execute(pare_records *r, const char *sql, const char *what, pare_error *err) {
    return sqlite3_exec(r->db, sql, NULL, NULL, NULL) == SQLITE_OK ? PARE_OK
                                                                   : fail_sql(r, what, err);
}

static pare_status prepare(pare_records *r, sqlite3_stmt **s, const char *sql, const char *what,
                           pare_error *err) {
    return sqlite3_prepare_v2(r->db, sql, -1, s, NULL) == SQLITE_OK ? PARE_OK
                                                                    : fail_sql(r, what, err);
}

/* One integer: a pragma, a count. */
static pare_status query_int(pare_records *r, int64_t *out, const char *sql, pare_error *err) {
    sqlite3_stmt *s = NULL;
    PARE_TRY(prepare(r, &s, sql, "open", err));
    pare_status st = PARE_OK;
    if (sqlite3_step(s) == SQLITE_ROW)
        *out = sqlite3_column_int64(s, 0);
    else
        st = fail_sql(r, "open", err);
    sqlite3_finalize(s);
    return st;
}

/* SQL that is put together; a failed allocation is told when it is used. */
static pare_status execute_buffer(pare_records *r, pare_buffer *sql, const char *what,
                                  pare_error *err) {
    pare_buffer_add(sql, "", 1);
    pare_status st = sql->failed ? pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", r->path)
                                 : execute(r, (const char *)sql->data, what, err);
    pare_buffer_free(sql);
    return st;
}

/* --- opening --- */

static void print_columns(pare_buffer *sql, const pare_column *table, bool types) {
    for (const pare_column *c = table; c->name; c++)
        pare_buffer_print(sql, "%s\"%s\"%s%s", c == table ? "" : ", ", c->name, types ? " " : "",
                          types ? sql_types[c->type] : "");
}

static pare_status create_tables(pare_records *r, pare_error *err) {
    pare_buffer sql = {0};
    pare_buffer_print(&sql, "CREATE TABLE IF NOT EXISTS record "
                            "(\"id\" INTEGER PRIMARY KEY AUTOINCREMENT, ");
    print_columns(&sql, pare_record_columns + 1, true);
    pare_buffer_print(&sql, "); CREATE TABLE IF NOT EXISTS layer (record INTEGER, i INTEGER, ");
    print_columns(&sql, pare_layer_columns, true);
    pare_buffer_print(&sql, ", PRIMARY KEY (record, i)) WITHOUT ROWID; "
                            "CREATE TABLE IF NOT EXISTS task (record INTEGER, i INTEGER, ");
    print_columns(&sql, pare_task_columns, true);
    pare_buffer_print(&sql, ", PRIMARY KEY (record, i)) WITHOUT ROWID; "
                            "CREATE TABLE IF NOT EXISTS curve (record INTEGER, i INTEGER, ");
    print_columns(&sql, pare_point_columns, true);
    pare_buffer_print(&sql, ", PRIMARY KEY (record, i)) WITHOUT ROWID; "
                            "CREATE TABLE IF NOT EXISTS site (record INTEGER, i INTEGER, ");
    print_columns(&sql, pare_site_columns, true);
    pare_buffer_print(&sql,
                      ", PRIMARY KEY (record, i)) WITHOUT ROWID; "
                      "CREATE TABLE IF NOT EXISTS fallback (record INTEGER, i INTEGER, line TEXT, "
                      "PRIMARY KEY (record, i)) WITHOUT ROWID; "
                      "CREATE TABLE IF NOT EXISTS file_hash (device INTEGER, inode INTEGER, "
                      "size INTEGER, modified_ns INTEGER, changed_ns INTEGER, sha256 TEXT, "
                      "PRIMARY KEY (device, inode)) WITHOUT ROWID; "
                      "PRAGMA application_id = %d; PRAGMA user_version = %d;",
                      APPLICATION_ID, SCHEMA_VERSION);
    return execute_buffer(r, &sql, "create", err);
}

/* Adds columns that an older pare did not know. */
static pare_status add_columns(pare_records *r, const char *table, const pare_column *columns,
                               pare_error *err) {
    for (const pare_column *c = columns; c->name; c++) {
        sqlite3_stmt *s = NULL;
        PARE_TRY(prepare(r, &s, "SELECT 1 FROM pragma_table_info(?) WHERE name = ?", "open", err));
        sqlite3_bind_text(s, 1, table, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 2, c->name, -1, SQLITE_STATIC);
        int found = sqlite3_step(s);
        sqlite3_finalize(s);
        if (found == SQLITE_ROW) continue;
        pare_buffer sql = {0};
        pare_buffer_print(&sql, "ALTER TABLE %s ADD COLUMN \"%s\" %s", table, c->name,
                          sql_types[c->type]);
        PARE_TRY(execute_buffer(r, &sql, "add a column", err));
    }
    return PARE_OK;
}

static pare_status bring_up_to_date(pare_records *r, pare_error *err) {
    if (sqlite3_db_readonly(r->db, "main") == 1)
        return pare_fail(err, PARE_ERR_IO, "%s: the file is read-only", r->path);
    PARE_TRY(execute(r, "BEGIN IMMEDIATE", "open", err));
    pare_status st = create_tables(r, err); /* an older pare did not know all of them */
    if (st == PARE_OK) st = add_columns(r, "record", pare_record_columns, err);
    if (st == PARE_OK) st = add_columns(r, "layer", pare_layer_columns, err);
    if (st == PARE_OK) st = add_columns(r, "task", pare_task_columns, err);
    if (st == PARE_OK) st = add_columns(r, "curve", pare_point_columns, err);
    if (st == PARE_OK) st = add_columns(r, "site", pare_site_columns, err);
    if (st == PARE_OK) st = execute(r, "COMMIT", "open", err);
    if (st != PARE_OK) (void)execute(r, "ROLLBACK", "open", NULL);
    return st;
}

/* Ours, and of a version that is known. A file without any table is taken for a new one. */
static pare_status check_schema(pare_records *r, bool *empty, pare_error *err) {
    int64_t id = 0, version = 0, tables = 0;
    PARE_TRY(query_int(r, &tables, "SELECT count(*) FROM sqlite_master", err));
    PARE_TRY(query_int(r, &id, "PRAGMA application_id", err));
    PARE_TRY(query_int(r, &version, "PRAGMA user_version", err));
    *empty = tables == 0 && id == 0 && version == 0;
    if (*empty) return PARE_OK;
    if (id != APPLICATION_ID)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found a database of another program, expected records of pare",
                         r->path);
    if (version < 1 || version > SCHEMA_VERSION)
        return pare_fail(
            err, PARE_ERR_UNSUPPORTED,
            "%s: found version %lld of the records, expected %d: a newer pare wrote it", r->path,
            (long long)version, SCHEMA_VERSION);
    return PARE_OK;
}

static pare_status make_folder_of(const char *path, pare_error *err) {
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path) return PARE_OK;
    char *folder = pare_strndup(path, (size_t)(slash - path));
    if (!folder) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
    pare_status st = pare_folder_make(folder, err);
    pare_free(folder);
    return st;
}

static pare_status open_database(pare_records *r, bool create, pare_error *err) {
    if (pare_path_is_folder(r->path))
        return pare_fail(err, PARE_ERR_INPUT, "%s: found a folder, expected records of pare",
                         r->path);
    if (create)
        PARE_TRY(make_folder_of(r->path, err));
    else if (!pare_path_exists(r->path))
        return pare_fail(err, PARE_ERR_INPUT, "%s: found nothing, expected records of pare",
                         r->path);
    int flags = create ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY;
    if (sqlite3_open_v2(r->path, &r->db, flags | SQLITE_OPEN_FULLMUTEX, NULL) != SQLITE_OK)
        return r->db ? fail_sql(r, "open", err)
                     : pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", r->path);
    sqlite3_busy_timeout(r->db, BUSY_MS);
    sqlite3_limit(r->db, SQLITE_LIMIT_LENGTH, MAX_CELL_BYTES);
    sqlite3_db_config(r->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(r->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(r->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(r->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    (void)execute(r, "PRAGMA cell_size_check = ON", "open", NULL);
    bool empty;
    PARE_TRY(check_schema(r, &empty, err));
    if (create) return bring_up_to_date(r, err);
    if (empty)
        return pare_fail(err, PARE_ERR_INPUT, "%s: found no tables, expected records of pare",
                         r->path);
    return PARE_OK;
}

pare_status pare_records_open(pare_records **out, const char *path, bool create, pare_error *err) {
    *out = NULL;
    pare_records *r = pare_calloc(1, sizeof *r);
    if (r) r->path = pare_strdup(path);
    pare_status st = r && r->path ? open_database(r, create, err)
                                  : pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
    if (st == PARE_OK)
        *out = r;
    else
        pare_records_close(r);
    return st;
}

void pare_records_close(pare_records *r) {
    if (!r) return;
    sqlite3_close(r->db);
    pare_free(r->path);
    pare_free(r);
}

const char *pare_records_path(const pare_records *r) { return r->path; }

pare_status pare_records_default_path(char *path, size_t size, pare_error *err) {
    const char *own = getenv("PARE_RECORDS"), *data = getenv("XDG_DATA_HOME"),
               *home = getenv("HOME");
    int n;
    if (own && *own)
        n = snprintf(path, size, "%s", own);
    else if (data && *data == '/') /* a relative one is to be ignored */
        n = snprintf(path, size, "%s/pare/records.db", data);
    else if (home && *home)
        n = snprintf(path, size, "%s/.local/share/pare/records.db", home);
    else
        return pare_fail(err, PARE_ERR_ARG, "records: found neither $PARE_RECORDS nor $HOME");
    if (n < 0 || (size_t)n >= size)
        return pare_fail(err, PARE_ERR_ARG, "records: the path is longer than %zu bytes", size);
    return PARE_OK;
}

/* --- writing --- */

static int bind(sqlite3_stmt *s, int at, const pare_column *c, const void *item) {
    if (!pare_column_known(c, item)) return sqlite3_bind_null(s, at);
    if (c->type == PARE_COLUMN_TEXT)
        return sqlite3_bind_text(s, at, pare_column_text(c, item), -1, SQLITE_STATIC);
    if (c->type == PARE_COLUMN_REAL) return sqlite3_bind_double(s, at, pare_column_real(c, item));
    return sqlite3_bind_int64(s, at, pare_column_int(c, item));
}

/* Inserts n items of a table; those of a record's lists begin with its id and their number. */
static pare_status insert(pare_records *r, const char *name, const pare_column *table,
                          const void *items, size_t n, size_t size, int64_t record,
                          pare_error *err) {
    if (!n) return PARE_OK;
    pare_buffer sql = {0};
    pare_buffer_print(&sql, "INSERT INTO %s (%s", name, record ? "record, i, " : "");
    print_columns(&sql, table, false);
    pare_buffer_print(&sql, ") VALUES (%s?", record ? "?, ?, " : "");
    for (const pare_column *c = table + 1; c->name; c++) pare_buffer_print(&sql, ", ?");
    pare_buffer_add(&sql, ")", 2);
    sqlite3_stmt *s = NULL;
    pare_status st = sql.failed ? pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", r->path)
                                : prepare(r, &s, (const char *)sql.data, "add", err);
    pare_buffer_free(&sql);
    for (size_t i = 0; st == PARE_OK && i < n; i++) {
        int at = 1;
        if (record) {
            sqlite3_bind_int64(s, at++, record);
            sqlite3_bind_int64(s, at++, (int64_t)i);
        }
        for (const pare_column *c = table; c->name; c++)
            if (bind(s, at++, c, (const char *)items + i * size) != SQLITE_OK)
                st = fail_sql(r, "add", err);
        if (st == PARE_OK && sqlite3_step(s) != SQLITE_DONE) st = fail_sql(r, "add", err);
        sqlite3_reset(s);
    }
    sqlite3_finalize(s);
    return st;
}

/* A line of text as a table of one column. */
typedef struct text_line {
    const char *line;
} text_line;
static const pare_column line_columns[] = {{"line", PARE_COLUMN_TEXT, offsetof(text_line, line)},
                                           {0}};

static pare_status add(pare_records *r, pare_record *record, int64_t *id, pare_error *err) {
    PARE_TRY(insert(r, "record", pare_record_columns + 1, record, 1, sizeof *record, 0, err));
    *id = sqlite3_last_insert_rowid(r->db);
    PARE_TRY(insert(r, "layer", pare_layer_columns, record->layers, record->n_layers,
                    sizeof *record->layers, *id, err));
    PARE_TRY(insert(r, "task", pare_task_columns, record->tasks, record->n_tasks,
                    sizeof *record->tasks, *id, err));
    PARE_TRY(insert(r, "curve", pare_point_columns, record->curve, record->n_curve,
                    sizeof *record->curve, *id, err));
    PARE_TRY(insert(r, "site", pare_site_columns, record->sites, record->n_sites,
                    sizeof *record->sites, *id, err));
    return insert(r, "fallback", line_columns, record->fallbacks, record->n_fallbacks,
                  sizeof *record->fallbacks, *id, err);
}

pare_status pare_records_add(pare_records *r, pare_record *record, pare_error *err) {
    int64_t id = 0, time = record->time;
    if (!time) record->time = pare_wall_s();
    PARE_TRY(execute(r, "BEGIN IMMEDIATE", "add", err));
    pare_status st = add(r, record, &id, err);
    if (st == PARE_OK) st = execute(r, "COMMIT", "add", err);
    if (st == PARE_OK) {
        record->id = id;
        return PARE_OK;
    }
    (void)execute(r, "ROLLBACK", "add", NULL);
    record->time = time;
    return st;
}

pare_status pare_records_remove(pare_records *r, int64_t id, pare_error *err) {
    static const char *const from[] = {"record WHERE id",   "layer WHERE record",
                                       "task WHERE record", "curve WHERE record",
                                       "site WHERE record", "fallback WHERE record"};
    int n = 0;
    PARE_TRY(execute(r, "BEGIN IMMEDIATE", "remove", err));
    pare_status st = PARE_OK;
    for (size_t i = 0; st == PARE_OK && i < sizeof from / sizeof *from; i++) {
        char sql[80];
        snprintf(sql, sizeof sql, "DELETE FROM %s = %lld", from[i], (long long)id);
        st = execute(r, sql, "remove", err);
        if (i == 0) n = sqlite3_changes(r->db);
    }
    if (st == PARE_OK && n == 0)
        st = pare_fail(err, PARE_ERR_INPUT, "%s: found no record %lld", r->path, (long long)id);
    if (st == PARE_OK) st = execute(r, "COMMIT", "remove", err);
    if (st != PARE_OK) (void)execute(r, "ROLLBACK", "remove", NULL);
    return st;
}

/* --- filters --- */

typedef struct filter {
    const pare_column *column;
    char op; /* '=', '!', '~', '<', '>' */
    const char *value;
    double number;
} filter;

static pare_status unknown_key(const char *text, size_t n, pare_error *err) {
    pare_buffer keys = {0};
    for (const pare_column *c = pare_record_columns; c->name; c++)
        pare_buffer_print(&keys, "%s%s", c->name, c[1].name ? ", " : "");
    pare_status st = pare_fail(err, PARE_ERR_ARG, "filter: found key '%.*s', expected one of %.*s",
                               pare_clip(text, n, 60), text, keys.failed ? 0 : (int)keys.n,
                               keys.data ? (const char *)keys.data : "");
    pare_buffer_free(&keys);
    return st;
}

static pare_status parse_filter(filter *f, const char *text, pare_error *err) {
    size_t n = strcspn(text, "=!~<>");
    f->op = text[n];
    bool unequal = f->op == '!';
    if (!f->op || (unequal && text[n + 1] != '='))
        return pare_fail(err, PARE_ERR_ARG,
                         "filter: found '%.*s', expected KEY=VALUE, KEY!=VALUE, KEY~PART, KEY<N or "
                         "KEY>N",
                         pare_clip(text, strlen(text), 60), text);
    f->column = pare_column_find(pare_record_columns, text, n);
    if (!f->column) return unknown_key(text, n, err);
    f->value = text + n + 1 + unequal;
    bool is_text = f->column->type == PARE_COLUMN_TEXT;
    if (is_text && f->op != '<' && f->op != '>') return PARE_OK;
    char *end;
    f->number = strtod(f->value, &end);
    if (is_text || f->op == '~' || end == f->value || *end)
        return pare_fail(err, PARE_ERR_ARG, "filter: found '%.*s', expected %s",
                         pare_clip(text, strlen(text), 60), text,
                         is_text        ? "=, != or ~ for a text"
                         : f->op == '~' ? "=, !=, < or > for a number"
                                        : "a number");
    return PARE_OK;
}

static bool text_matches(const filter *f, const char *text) {
    if (f->op == '~') return text && strcasestr(text, f->value);
    const char *slash = text ? strrchr(text, '/') : NULL;
    bool same =
        text && (strcmp(text, f->value) == 0 || (slash && strcmp(slash + 1, f->value) == 0));
    return f->op == '=' ? same : !same;
}

static bool matches(const filter *f, const pare_record *r) {
    const pare_column *c = f->column;
    if (c->type == PARE_COLUMN_TEXT) return text_matches(f, pare_column_text(c, r));
    if (!pare_column_known(c, r)) return f->op == '!';
    double v = c->type == PARE_COLUMN_REAL ? pare_column_real(c, r) : (double)pare_column_int(c, r);
    switch (f->op) {
    case '=':
        return v == f->number;
    case '!':
        return v != f->number;
    case '<':
        return v < f->number;
    default:
        return v > f->number;
    }
}

/* --- reading --- */

/* Fills an item from the row's columns of the same names. Strings are owned by `owner`. */
static bool read_row(sqlite3_stmt *s, const pare_column *table, void *item, pare_record *owner) {
    pare_columns_clear(table, item);
    for (int i = 0; i < sqlite3_column_count(s); i++) {
        const char *name = sqlite3_column_name(s, i);
        const pare_column *c = name ? pare_column_find(table, name, strlen(name)) : NULL;
        if (!c || sqlite3_column_type(s, i) == SQLITE_NULL) continue;
        char *at = (char *)item + c->offset;
        if (c->type == PARE_COLUMN_REAL) {
            *(double *)(void *)at = sqlite3_column_double(s, i);
        } else if (c->type != PARE_COLUMN_TEXT) {
            *(int64_t *)(void *)at = sqlite3_column_int64(s, i);
        } else {
            const char *text = (const char *)sqlite3_column_text(s, i);
            char *copy =
                text ? pare_record_strndup(owner, text, (size_t)sqlite3_column_bytes(s, i)) : NULL;
            if (!copy) return false;
            *(const char **)(void *)at = copy;
        }
    }
    return true;
}

/* All items of one of a record's lists. */
static pare_status read_list(pare_records *r, void **items, size_t *n, const char *name,
                             const pare_column *table, size_t size, pare_record *record,
                             pare_error *err) {
    char sql[120];
    int64_t count = 0, there = 0;
    snprintf(sql, sizeof sql, "SELECT count(*) FROM sqlite_master WHERE name = '%s'", name);
    PARE_TRY(query_int(r, &there, sql, err)); /* an older pare did not know all tables */
    snprintf(sql, sizeof sql, "SELECT count(*) FROM %s WHERE record = %lld", name,
             (long long)record->id);
    if (there) PARE_TRY(query_int(r, &count, sql, err));
    *n = 0;
    if (!count) return PARE_OK;
    *items = pare_record_calloc(record, (size_t)count, size);
    sqlite3_stmt *s = NULL;
    snprintf(sql, sizeof sql, "SELECT * FROM %s WHERE record = %lld ORDER BY i", name,
             (long long)record->id);
    PARE_TRY(prepare(r, &s, sql, "read", err));
    int code = SQLITE_ROW;
    bool enough = *items != NULL;
    while (enough && *n < (size_t)count && (code = sqlite3_step(s)) == SQLITE_ROW)
        if ((enough = read_row(s, table, (char *)*items + *n * size, record))) ++*n;
    pare_status st = PARE_OK;
    if (!enough)
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", r->path);
    else if (code != SQLITE_ROW && code != SQLITE_DONE)
        st = fail_sql(r, "read", err);
    sqlite3_finalize(s);
    return st;
}

static pare_status read_details(pare_records *r, pare_record *record, pare_error *err) {
    void *layers = NULL, *tasks = NULL, *curve = NULL, *sites = NULL, *fallbacks = NULL;
    PARE_TRY(read_list(r, &layers, &record->n_layers, "layer", pare_layer_columns,
                       sizeof *record->layers, record, err));
    record->layers = layers;
    PARE_TRY(read_list(r, &tasks, &record->n_tasks, "task", pare_task_columns,
                       sizeof *record->tasks, record, err));
    record->tasks = tasks;
    PARE_TRY(read_list(r, &curve, &record->n_curve, "curve", pare_point_columns,
                       sizeof *record->curve, record, err));
    record->curve = curve;
    PARE_TRY(read_list(r, &sites, &record->n_sites, "site", pare_site_columns,
                       sizeof *record->sites, record, err));
    record->sites = sites;
    PARE_TRY(read_list(r, &fallbacks, &record->n_fallbacks, "fallback", line_columns,
                       sizeof(text_line), record, err));
    record->fallbacks = fallbacks; /* a text_line is one pointer */
    return PARE_OK;
}

static pare_status append(pare_record_list *list, size_t *capacity, pare_record *record,
                          pare_error *err) {
    if (list->n == *capacity) {
        size_t more = *capacity ? 2 * *capacity : 64;
        pare_record **items = pare_realloc(list->items, more, sizeof(pare_record *));
        if (!items) return pare_fail(err, PARE_ERR_NOMEM, "records: out of memory");
        list->items = items;
        *capacity = more;
    }
    list->items[list->n++] = record;
    return PARE_OK;
}

/* One row, kept when all filters hold. */
static pare_status take_row(pare_records *r, pare_record_list *list, size_t *capacity,
                            sqlite3_stmt *s, const filter *filters, size_t n_filters,
                            pare_error *err) {
    pare_record *record;
    PARE_TRY(pare_record_blank(&record, err));
    pare_status st = read_row(s, pare_record_columns, record, record)
                         ? PARE_OK
                         : pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", r->path);
    bool keep = st == PARE_OK;
    for (size_t i = 0; keep && i < n_filters; i++) keep = matches(&filters[i], record);
    if (keep && (st = append(list, capacity, record, err)) == PARE_OK) return PARE_OK;
    pare_record_free(record);
    return st;
}

static pare_status read_all(pare_records *r, pare_record_list *list, const filter *filters,
                            const pare_record_query *q, pare_error *err) {
    sqlite3_stmt *s = NULL;
    size_t capacity = 0;
    int code = SQLITE_ROW;
    PARE_TRY(prepare(r, &s, "SELECT * FROM record ORDER BY id DESC", "read", err));
    pare_status st = PARE_OK;
    while (st == PARE_OK && (!q->limit || list->n < q->limit) &&
           (code = sqlite3_step(s)) == SQLITE_ROW)
        st = take_row(r, list, &capacity, s, filters, q->n_filters, err);
    if (st == PARE_OK && code != SQLITE_ROW && code != SQLITE_DONE) st = fail_sql(r, "read", err);
    sqlite3_finalize(s);
    for (size_t i = 0; st == PARE_OK && q->details && i < list->n; i++)
        st = read_details(r, list->items[i], err);
    return st;
}

pare_status pare_records_list(pare_record_list *out, pare_records *r,
                              const pare_record_query *query, pare_error *err) {
    static const pare_record_query all = {0};
    const pare_record_query *q = query ? query : &all;
    *out = (pare_record_list){0};
    filter *filters = pare_calloc(q->n_filters, sizeof *filters);
    if (!filters) return pare_fail(err, PARE_ERR_NOMEM, "records: out of memory");
    pare_status st = PARE_OK;
    for (size_t i = 0; st == PARE_OK && i < q->n_filters; i++)
        st = parse_filter(&filters[i], q->filters[i], err);
    if (st == PARE_OK) st = read_all(r, out, filters, q, err);
    pare_free(filters);
    if (st != PARE_OK) pare_record_list_free(out);
    return st;
}

void pare_record_list_free(pare_record_list *list) {
    if (!list) return;
    for (size_t i = 0; i < list->n; i++) pare_record_free(list->items[i]);
    pare_free(list->items);
    *list = (pare_record_list){0};
}

/* --- the cache of hashes --- */

bool pare_records_find_hash(pare_records *r, const pare_file_stamp *f, char sha256[65]) {
    sqlite3_stmt *s = NULL;
    if (!r || prepare(r, &s,
                      "SELECT sha256 FROM file_hash WHERE device = ? AND inode = ? AND size = ? "
                      "AND modified_ns = ? AND changed_ns = ? AND length(sha256) = 64",
                      "read", NULL) != PARE_OK)
        return false;
    sqlite3_bind_int64(s, 1, (int64_t)f->device);
    sqlite3_bind_int64(s, 2, (int64_t)f->inode);
    sqlite3_bind_int64(s, 3, (int64_t)f->size);
    sqlite3_bind_int64(s, 4, f->modified_ns);
    sqlite3_bind_int64(s, 5, f->changed_ns);
    bool found = sqlite3_step(s) == SQLITE_ROW && sqlite3_column_bytes(s, 0) == 64;
    if (found) snprintf(sha256, 65, "%s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    return found;
}

void pare_records_keep_hash(pare_records *r, const pare_file_stamp *f, const char *sha256) {
    sqlite3_stmt *s = NULL;
    if (!r || sqlite3_db_readonly(r->db, "main") != 0 ||
        prepare(r, &s, "INSERT OR REPLACE INTO file_hash VALUES (?, ?, ?, ?, ?, ?)", "add", NULL) !=
            PARE_OK)
        return;
    sqlite3_bind_int64(s, 1, (int64_t)f->device);
    sqlite3_bind_int64(s, 2, (int64_t)f->inode);
    sqlite3_bind_int64(s, 3, (int64_t)f->size);
    sqlite3_bind_int64(s, 4, f->modified_ns);
    sqlite3_bind_int64(s, 5, f->changed_ns);
    sqlite3_bind_text(s, 6, sha256, -1, SQLITE_STATIC);
    (void)sqlite3_step(s);
    sqlite3_finalize(s);
}

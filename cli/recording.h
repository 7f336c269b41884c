/* What the verbs that make or read records share. */
#ifndef PARE_CLI_RECORDING_H
#define PARE_CLI_RECORDING_H

#include "cli.h"

#include "pare/study.h"

#define CLI_RECORDS_HELP                                                                           \
    "database of records (default $PARE_RECORDS, else ~/.local/share/pare/records.db); none = no " \
    "record"

/* An empty record of this verb; NULL with a warning when memory is out. */
pare_record *cli_record_begin(cli *c);
/* Completes the record, adds it to the database that --records names (NULL = the default), writes
 * the model card of its output where that is a folder, and frees it (NULL: nothing is done). The
 * id, or 0: no failure here costs a run its result, it is told in a warning. */
int64_t cli_record_end(cli *c, pare_record *r, const char *records);
/* The id as JSON; 0 is null. */
json_t *cli_record_id(int64_t id);

/* Opens the database for reading, or with write for changing it. *db is NULL where the default one
 * does not exist: there are no records yet. */
pare_status cli_records_open(cli *c, pare_records **db, const char *records, bool write);
/* A record as JSON; NULL when memory is out. */
json_t *cli_record_json(const pare_record *r, bool details);
/* Seconds since 1970 -> "2026-01-31 08:05" UTC; static ring of buffers. */
const char *cli_date(int64_t time);
/* The last part of a path; "" for NULL. */
const char *cli_base_name(const char *path);

#endif

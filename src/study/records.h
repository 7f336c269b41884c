/* The database of records from inside: the cache of hashes. */
#ifndef PARE_SRC_STUDY_RECORDS_H
#define PARE_SRC_STUDY_RECORDS_H

#include "base/os.h"
#include "pare/study.h"

/* Whether the hash of a file with that stamp is known. A database that fails knows none. */
bool pare_records_find_hash(pare_records *db, const pare_file_stamp *stamp, char sha256[65]);
/* Keeps a hash; a failure has no effect. */
void pare_records_keep_hash(pare_records *db, const pare_file_stamp *stamp, const char *sha256);

#endif

/* Large arrays of values that may lie in a file, so that memory holds only what is at work. */
#ifndef PARE_SRC_BASE_SPILL_H
#define PARE_SRC_BASE_SPILL_H

#include "base/error.h"

typedef struct pare_spill {
    float *data; /* [n], zeros at first */
    size_t n;
    bool in_file;
} pare_spill;

/* folder NULL: in memory, as pare_big_alloc. Else in a file there that has no name (it is gone with
 * the process, whatever ends it) and whose room on the disk is taken at once. Zero-initialise; free
 * with pare_spill_free. Errors: PARE_ERR_NOMEM, PARE_ERR_IO. */
pare_status pare_spill_make(pare_spill *s, size_t n, const char *folder, pare_error *err);
void pare_spill_free(pare_spill *s);

/* data[first .. first + count) is not at work for now: what lies in a file leaves memory and keeps
 * its values. */
void pare_spill_rest(const pare_spill *s, size_t first, size_t count);

#endif

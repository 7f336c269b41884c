/* The runtime's inside: options as settled, and the calls that report progress and test for
 * interruption. */
#ifndef PARE_SRC_BASE_RUNTIME_H
#define PARE_SRC_BASE_RUNTIME_H

#include "base/error.h"

struct pare_runtime {
    pare_options options; /* n_threads and isa are settled */
    double last_progress_s;
    struct pare_team *team; /* owned */
};

/* Reports progress (throttled, always when done == total). Only from the thread that called the
 * library. */
void pare_progress(pare_runtime *rt, const char *stage, double done, double total,
                   const char *unit);

/* Hands one line to the warning callback. */
__attribute__((format(printf, 2, 3))) void pare_warn(pare_runtime *rt, const char *format, ...);

/* PARE_ERR_INTERRUPTED with a message when the cancel flag is set, else PARE_OK. */
pare_status pare_check_cancel(const pare_runtime *rt, pare_error *err);

#endif

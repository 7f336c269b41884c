/* Errors inside the library: how a failure is written and passed on. */
#ifndef PARE_SRC_BASE_ERROR_H
#define PARE_SRC_BASE_ERROR_H

#include "pare/base.h"

/* Writes the message (control bytes become '?', since file contents are echoed in it) and returns
 * `status`. err may be NULL. Only the first failure is kept where a caller cleans up: pass NULL
 * there. */
__attribute__((format(printf, 3, 4))) pare_status pare_fail(pare_error *err, pare_status status,
                                                            const char *format, ...);

/* Puts "PREFIX: " before a message that a lower layer wrote, e.g. the file's name. Returns err's
 * status. */
__attribute__((format(printf, 2, 3))) pare_status pare_fail_prefix(pare_error *err,
                                                                   const char *format, ...);

#ifdef __clang_analyzer__
/* clang-tidy sees one file at a time; without this it follows paths on which a failure is PARE_OK.
 */
static inline pare_status pare_not_ok(pare_status status) {
    if (status == PARE_OK) __builtin_unreachable();
    return status;
}
#define pare_fail(...) pare_not_ok(pare_fail(__VA_ARGS__))
#define pare_fail_prefix(...) pare_not_ok(pare_fail_prefix(__VA_ARGS__))
#endif

/* Forwards a failure when nothing is held. */
#define PARE_TRY(call)                                                                             \
    do {                                                                                           \
        pare_status pare_try_status_ = (call);                                                     \
        if (pare_try_status_ != PARE_OK) return pare_try_status_;                                  \
    } while (0)

#endif

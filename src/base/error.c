#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* defined here: without what clang-tidy is told about them */
#undef pare_fail
#undef pare_fail_prefix

const char *pare_status_name(pare_status status) {
    switch (status) {
    case PARE_OK:
        return "PARE_OK";
    case PARE_ERR_ARG:
        return "PARE_ERR_ARG";
    case PARE_ERR_INPUT:
        return "PARE_ERR_INPUT";
    case PARE_ERR_UNSUPPORTED:
        return "PARE_ERR_UNSUPPORTED";
    case PARE_ERR_IO:
        return "PARE_ERR_IO";
    case PARE_ERR_NOMEM:
        return "PARE_ERR_NOMEM";
    case PARE_ERR_INTERRUPTED:
        return "PARE_ERR_INTERRUPTED";
    case PARE_ERR_INTERNAL:
        return "PARE_ERR_INTERNAL";
    }
    return "unknown status";
}

int pare_status_exit_code(pare_status status) {
    switch (status) {
    case PARE_OK:
        return 0;
    case PARE_ERR_ARG:
    case PARE_ERR_INPUT:
    case PARE_ERR_UNSUPPORTED:
        return 2;
    case PARE_ERR_INTERRUPTED:
        return 130;
    default:
        return 1;
    }
}

/* Names and values from files are echoed in messages: one line, no terminal control. */
static void make_printable(char *text) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == 0x7F) *text = '?';
    }
}

pare_status pare_fail(pare_error *err, pare_status status, const char *format, ...) {
    if (!err) return status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    make_printable(err->message);
    err->status = status;
    return status;
}

pare_status pare_fail_prefix(pare_error *err, const char *format, ...) {
    if (!err) return PARE_ERR_INTERNAL;
    char prefix[sizeof err->message], old[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    memcpy(old, err->message, sizeof old);
    /* the place matters more than the end of a long message */
    snprintf(err->message, sizeof err->message, "%.400s: %.590s", prefix, old);
    make_printable(err->message);
    return err->status;
}

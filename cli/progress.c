/* Progress on stderr: on a terminal one line per stage, rewritten in place; elsewhere a line every
 * 30 seconds. What, done/total, rate, elapsed, time left. */
#include "cli.h"

#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { PLAIN_INTERVAL_S = 30 };

static size_t terminal_width(void) {
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col;
    return 80;
}

static void format_line(const cli_progress *p, char *line, size_t size, double total,
                        const char *unit, double now) {
    double elapsed = now - p->started_s, step = p->done - p->first_done;
    double rate = elapsed > 0 ? step / elapsed : 0;
    int n = snprintf(line, size, "%s  %.0f", p->stage, p->done);
    if (total > 0) n += snprintf(line + n, size - (size_t)n, "/%.0f", total);
    n += snprintf(line + n, size - (size_t)n, " %s", unit ? unit : "");
    if (rate > 0)
        n += snprintf(line + n, size - (size_t)n, rate >= 100 ? "  %.0f/s" : "  %.3g/s", rate);
    n += snprintf(line + n, size - (size_t)n, "  %s", cli_clock(elapsed));
    if (rate > 0 && total > p->done)
        n += snprintf(line + n, size - (size_t)n, "  left %s", cli_clock((total - p->done) / rate));
    if (p->note[0]) snprintf(line + n, size - (size_t)n, "  %s", p->note);
}

void cli_progress_report(void *arg, const char *stage, double done, double total,
                         const char *unit) {
    cli *c = arg;
    cli_progress *p = &c->progress;
    if (c->common.quiet) return;
    double now = cli_now();
    if (strncmp(p->stage, stage, sizeof p->stage - 1) != 0) {
        cli_progress_end(c);
        snprintf(p->stage, sizeof p->stage, "%s", stage);
        p->started_s = p->last_s = now;
        p->first_done = done;
    }
    p->done = done;
    if (!p->live && now - p->last_s < PLAIN_INTERVAL_S) return;
    p->last_s = now;
    char line[512];
    format_line(p, line, sizeof line, total, unit, now);
    if (p->live) {
        size_t width = terminal_width();
        if (strlen(line) >= width) line[width - 1] = '\0'; /* a wrapped line cannot be rewritten */
        fprintf(stderr, "\r%s\033[K", line);
        p->shown = true;
    } else {
        fprintf(stderr, "%s\n", line);
    }
    fflush(stderr);
}

void cli_progress_note(cli *c, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(c->progress.note, sizeof c->progress.note, format, args);
    va_end(args);
}

void cli_progress_clear(cli *c) {
    if (!c->progress.shown) return;
    fprintf(stderr, "\r\033[K");
    fflush(stderr);
    c->progress.shown = false;
}

void cli_progress_end(cli *c) {
    if (c->progress.shown) fprintf(stderr, "\n");
    c->progress.shown = false;
    c->progress.stage[0] = c->progress.note[0] = '\0';
}

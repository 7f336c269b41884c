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
    const cli_stage *stage = &p->stages[p->current];
    double elapsed = now - stage->started_s, step = p->done - stage->first_done;
    double rate = elapsed > 0 ? step / elapsed : 0;
    int n = snprintf(line, size, "%s  %.0f", stage->name, p->done);
    if (total > 0) n += snprintf(line + n, size - (size_t)n, "/%.0f", total);
    n += snprintf(line + n, size - (size_t)n, " %s", unit ? unit : "");
    if (rate > 0)
        n += snprintf(line + n, size - (size_t)n, rate >= 100 ? "  %.0f/s" : "  %.3g/s", rate);
    n += snprintf(line + n, size - (size_t)n, "  %s", cli_clock(elapsed));
    if (rate > 0 && total > p->done)
        n += snprintf(line + n, size - (size_t)n, "  left %s", cli_clock((total - p->done) / rate));
    if (p->note[0]) snprintf(line + n, size - (size_t)n, "  %s", p->note);
}

/* A stage that goes on where it was keeps its clock, so that what is done between its reports
 * counts; one that begins anew, or is new, gets a line of its own. */
static void enter_stage(cli *c, const char *name, double done, double total, double now) {
    cli_progress *p = &c->progress;
    size_t i = 0;
    while (i < p->n_stages && strncmp(p->stages[i].name, name, sizeof p->stages[i].name - 1) != 0)
        i++;
    bool known = i < p->n_stages && p->stages[i].total == total && done >= p->stages[i].first_done;
    if (known && i == p->current && done < p->done) known = false;
    if (!known) {
        size_t n = p->n_stages;
        cli_progress_end(c);
        p->n_stages = n;
        if (i == CLI_MAX_STAGES) i = CLI_MAX_STAGES - 1;
        if (i >= p->n_stages) p->n_stages = i + 1;
        snprintf(p->stages[i].name, sizeof p->stages[i].name, "%s", name);
        p->stages[i].started_s = p->last_s = now;
        p->stages[i].first_done = done;
        p->stages[i].total = total;
    }
    p->current = i;
}

void cli_progress_report(void *arg, const char *stage, double done, double total,
                         const char *unit) {
    cli *c = arg;
    cli_progress *p = &c->progress;
    if (c->common.quiet) return;
    double now = cli_now();
    enter_stage(c, stage, done, total, now);
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
    c->progress.n_stages = 0;
    c->progress.note[0] = '\0';
}

/* A sweep by several processes of mpirun: each has its own runs, and in the end all know of all. */
#include "study/sweep.h"

#include "base/group.h"
#include "base/memory.h"
#include "study/record_columns.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The working threads are told that their process is alone; which runs are its own goes by the
 * ranks there are. */
bool pare_sweep_is_mine(size_t unit) {
    return unit % (size_t)pare_n_ranks() == (size_t)pare_rank();
}

/* What one rank knows of a run. */
typedef struct packet {
    pare_sweep_run run; /* of its pointers nothing is used */
    char message[sizeof((pare_error){0}.message)];
} packet;

static pare_status share_run(pare_sweep *s, size_t unit, size_t i, pare_error *err) {
    pare_sweep_run *run = &s->runs[i];
    packet p = {.run = *run};
    int owner = (int)(unit % (size_t)pare_group_size());
    if (run->message) snprintf(p.message, sizeof p.message, "%s", run->message);
    pare_group_broadcast(&p, sizeof p, owner);
    if (owner == pare_group_rank()) return PARE_OK;
    run->state = p.run.state;
    run->record = p.run.record;
    run->in_bytes = p.run.in_bytes;
    run->out_bytes = p.run.out_bytes;
    run->bits_per_weight = p.run.bits_per_weight;
    run->ppl = p.run.ppl;
    if (!p.message[0]) return PARE_OK;
    run->message = pare_record_strndup(s->pool, p.message, strlen(p.message));
    return run->message ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "sweep: out of memory");
}

/* The first perplexity of a unit; NaN without one. */
static double ppl_of(const pare_sweep *s, const pare_sweep_unit *u) {
    for (size_t e = 0; e < s->n_evals; e++)
        if (s->evals[e].kind == PARE_EVAL_TEXT) return s->runs[u->first + e].ppl;
    return NAN;
}

/* Each rank kept the best of its own. */
static void keep_best(const pare_sweep *s) {
    for (size_t m = 0; m < s->models.n; m++) {
        const pare_sweep_unit *best = NULL;
        for (size_t i = 0; i < s->n_units; i++) {
            const pare_sweep_unit *u = &s->units[i];
            if (!u->out || strcmp(u->model, s->models.item[m]) != 0 || !isfinite(ppl_of(s, u)))
                continue;
            if (best && ppl_of(s, u) >= ppl_of(s, best)) {
                pare_sweep_remove_output(u->out);
                continue;
            }
            if (best) pare_sweep_remove_output(best->out);
            best = u;
        }
    }
}

pare_status pare_sweep_gather(pare_sweep *s, pare_status st, pare_error *err) {
    if (pare_group_size() == 1) return st;
    int worst = pare_group_max((int)st);
    if (worst != PARE_OK)
        return st != PARE_OK
                   ? st
                   : pare_fail(err, (pare_status)worst, "sweep: another process was stopped");
    for (size_t u = 0; u < s->n_units; u++)
        for (size_t e = 0; e < s->n_evals; e++) {
            pare_status one = share_run(s, u, s->units[u].first + e, err);
            if (one != PARE_OK) st = one;
        }
    if (st == PARE_OK && s->keep == PARE_KEEP_BEST && pare_group_rank() == 0) keep_best(s);
    return st;
}

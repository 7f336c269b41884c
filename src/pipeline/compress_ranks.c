/* Matrices of a block shared among ranks: each is transformed by one of them, which hands the
 * result to all others. A matrix's result does not depend on who computes it. */
#include "pipeline/compress_run.h"

#include "base/group.h"
#include "base/memory.h"
#include "tensor/encodings/encode_common.h"

#include <string.h>

static pare_status fail_memory(const tensor_plan *p, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: a result of another rank", p->t->canonical);
}

/* The work on a tensor, roughly: with statistics of its inputs a column's step costs rows * cols.
 */
static double cost_of(const tensor_plan *p) {
    double values = (double)p->rows * (double)p->cols;
    return p->needs & PARE_NEED_HESSIAN ? values * (double)p->cols : values;
}

pare_status compress_owners(const compress_run *c, const size_t *plans, size_t n, int *owner,
                            pare_error *err) {
    size_t ranks = (size_t)pare_group_size();
    double *load = pare_calloc(ranks, sizeof *load);
    if (!load) return pare_fail(err, PARE_ERR_NOMEM, "compress: shares of %zu ranks", ranks);
    for (size_t k = 0; k < n; k++) owner[k] = -1;
    for (;;) { /* the largest first, to whom has least */
        size_t next = n, to = 0;
        for (size_t k = 0; k < n; k++)
            if (owner[k] < 0 && c->plans[plans[k]].n_methods &&
                (next == n || cost_of(&c->plans[plans[k]]) > cost_of(&c->plans[plans[next]])))
                next = k;
        if (next == n) break;
        for (size_t r = 1; r < ranks; r++)
            if (load[r] < load[to]) to = r;
        owner[next] = (int)to;
        load[to] += cost_of(&c->plans[plans[next]]);
    }
    pare_free(load); /* what no method takes is cheap: every rank does it */
    return PARE_OK;
}

/* What is told of a tensor besides its bytes. */
typedef struct result_head {
    pare_layer_report layer; /* its pointers are each rank's own */
    size_t part_bytes[PARE_MAX_PARTS];
    size_t text_bytes; /* fallbacks, each ended by NUL */
    size_t n_flushed;
} result_head;

static pare_status share_fallbacks(compress_run *c, const tensor_plan *p, size_t first,
                                   size_t bytes, int owner, pare_error *err) {
    if (!bytes) return PARE_OK;
    char *text = pare_malloc(bytes, 1);
    if (!text) return fail_memory(p, err);
    bool mine = pare_group_rank() == owner;
    for (size_t i = first, at = 0; mine && i < c->report->info.n_fallbacks; i++) {
        size_t len = strlen(c->report->fallbacks[i]) + 1;
        memcpy(text + at, c->report->fallbacks[i], len);
        at += len;
    }
    pare_group_broadcast(text, bytes, owner);
    pare_status st = PARE_OK;
    for (size_t at = 0; !mine && at < bytes && st == PARE_OK; at += strlen(text + at) + 1)
        st = compress_add_fallback(c, err, "%s", text + at);
    pare_free(text);
    return st;
}

pare_status compress_share_result(compress_run *c, size_t i, int owner, size_t first_fallback,
                                  pare_tensor *t, pare_error *err) {
    const tensor_plan *p = &c->plans[i];
    pare_layer_report *layer = &c->report->layers[i], own = *layer;
    bool mine = pare_group_rank() == owner;
    result_head head = {.layer = *layer, .n_flushed = t->n_flushed};
    memcpy(head.part_bytes, t->part_bytes, sizeof head.part_bytes);
    for (size_t k = first_fallback; mine && k < c->report->info.n_fallbacks; k++)
        head.text_bytes += strlen(c->report->fallbacks[k]) + 1;
    pare_group_broadcast(&head, sizeof head, owner);
    *layer = head.layer;
    layer->name = own.name;
    layer->from = own.from;
    layer->encoding = own.encoding;
    PARE_TRY(share_fallbacks(c, p, first_fallback, head.text_bytes, owner, err));
    if (!mine) PARE_TRY(pare_tensor_alloc(t, p->enc, p->rows, p->cols, head.part_bytes, err));
    t->n_flushed = head.n_flushed;
    for (size_t k = 0; k < p->enc->n_parts; k++)
        pare_group_broadcast((void *)(uintptr_t)t->view.part[k], head.part_bytes[k], owner);
    return PARE_OK;
}

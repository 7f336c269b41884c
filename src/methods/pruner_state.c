/* A pruner's state as bytes, its masks for others, and counts.
 *
 *   8 bytes   "pareprun"
 *   u32       version 1; u32 0
 *   i64       count
 *   u64       number of tensors
 *   then for each tensor: u64 n, u64 k, f64 target, and unless target is NAN its words of bits
 *
 * All in the byte order of the machine, which is little-endian wherever pare runs. */
#include "methods/pruner.h"

#include <math.h>
#include <string.h>

static const char magic[8] = {'p', 'a', 'r', 'e', 'p', 'r', 'u', 'n'};
enum { VERSION = 1, HEADER = 32, RECORD = 24 };

static size_t record_bytes(const pare_pruned *t) {
    return RECORD + (t->bits ? pare_bit_words(t->n) * sizeof *t->bits : 0);
}

size_t pare_pruner_state_bytes(const pare_pruner *p) {
    size_t n = HEADER;
    for (size_t i = 0; i < p->n; i++) n += record_bytes(&p->tensors[i]);
    return n;
}

void pare_pruner_save(const pare_pruner *p, void *out) {
    uint8_t *at = out;
    const uint32_t version[2] = {VERSION, 0};
    const uint64_t n_tensors = p->n;
    memcpy(at, magic, 8);
    memcpy(at + 8, version, 8);
    memcpy(at + 16, &p->count, 8);
    memcpy(at + 24, &n_tensors, 8);
    at += HEADER;
    for (size_t i = 0; i < p->n; i++) {
        const pare_pruned *t = &p->tensors[i];
        const uint64_t sizes[2] = {t->n, t->k};
        memcpy(at, sizes, 16);
        memcpy(at + 16, &t->target, 8);
        if (t->bits) memcpy(at + RECORD, t->bits, record_bytes(t) - RECORD);
        at += record_bytes(t);
    }
}

/* One tensor's record; its bits must be those of a mask with k ones. */
static pare_status check_record(const pare_pruned *t, const uint8_t *at, pare_error *err) {
    uint64_t sizes[2], ones = 0, word = 0;
    double target;
    memcpy(sizes, at, 16);
    memcpy(&target, at + 16, 8);
    if (sizes[0] != t->n)
        return pare_fail(err, PARE_ERR_INPUT,
                         "sparsity: %s: found a state of %llu values, expected %zu", t->t.name,
                         (unsigned long long)sizes[0], t->n);
    if (isnan(target) != isnan(t->target) || (!isnan(target) && target != t->target))
        return pare_fail(err, PARE_ERR_INPUT,
                         "sparsity: %s: found a state with sparsity %g, expected %g", t->t.name,
                         target, t->target);
    if (!t->bits) ones = t->n;
    for (size_t i = 0; t->bits && i < pare_bit_words(t->n); i++) {
        memcpy(&word, at + RECORD + 8 * i, 8);
        ones += (uint64_t)__builtin_popcountll(word);
    }
    bool tail = t->bits && t->n % 64 && word >> t->n % 64;
    if (tail || ones != sizes[1])
        return pare_fail(err, PARE_ERR_INPUT,
                         "sparsity: %s: found a mask with %llu ones%s, expected %llu", t->t.name,
                         (unsigned long long)ones, tail ? ", some behind its end" : "",
                         (unsigned long long)sizes[1]);
    return PARE_OK;
}

pare_status pare_pruner_load(pare_pruner *p, const void *state, size_t n_bytes, pare_error *err) {
    const uint8_t *begin = state, *at = begin;
    uint32_t version[2];
    uint64_t n_tensors;
    int64_t count;
    if (n_bytes < HEADER || memcmp(at, magic, 8) != 0)
        return pare_fail(err, PARE_ERR_INPUT,
                         "sparsity: found %zu bytes that are no pruner's state", n_bytes);
    memcpy(version, at + 8, 8);
    memcpy(&count, at + 16, 8);
    memcpy(&n_tensors, at + 24, 8);
    if (version[0] != VERSION || version[1] || count < 0)
        return pare_fail(err, PARE_ERR_INPUT,
                         "sparsity: found a state of version %u at step %lld, expected version %d",
                         version[0], (long long)count, VERSION);
    if (n_tensors != p->n || n_bytes != pare_pruner_state_bytes(p))
        return pare_fail(
            err, PARE_ERR_INPUT,
            "sparsity: found a state of %llu tensors in %zu bytes, expected %zu in %zu",
            (unsigned long long)n_tensors, n_bytes, p->n, pare_pruner_state_bytes(p));
    at = begin + HEADER;
    for (size_t i = 0; i < p->n; at += record_bytes(&p->tensors[i++]))
        PARE_TRY(check_record(&p->tensors[i], at, err));
    at = begin + HEADER;
    for (size_t i = 0; i < p->n; i++) {
        pare_pruned *t = &p->tensors[i];
        if (t->bits) memcpy(t->bits, at + RECORD, record_bytes(t) - RECORD);
        t->k = t->bits ? pare_mask_count(t->bits, t->n) : t->n;
        at += record_bytes(t);
    }
    p->count = count;
    p->forward_stale = false;
    return PARE_OK;
}

void pare_pruner_packed_mask(const pare_pruner *p, size_t i, uint8_t *out) {
    const pare_pruned *t = &p->tensors[i];
    memset(out, 0, (t->n + 7) / 8);
    for (size_t k = 0; k < t->n; k++)
        if (!t->bits || pare_bit(t->bits, k)) out[k / 8] |= (uint8_t)(0x80 >> k % 8);
}

double pare_mask_intersection(const uint64_t *a, const uint64_t *b, size_t n) {
    uint64_t ones = 0, both = 0;
    for (size_t i = 0; i < pare_bit_words(n); i++) {
        ones += (uint64_t)__builtin_popcountll(a[i]);
        both += (uint64_t)__builtin_popcountll(a[i] & b[i]);
    }
    return (double)both / (double)(ones ? ones : 1);
}

void pare_sparsity_summary(pare_sparsity_stats *total, pare_sparsity_stats *each,
                           const pare_trained *tensors, size_t n) {
    *total = (pare_sparsity_stats){0};
    for (size_t i = 0; i < n; i++) {
        pare_sparsity_stats s = {.n = 1};
        for (size_t d = 0; d < tensors[i].n_dims; d++) s.n *= tensors[i].dims[d];
        for (size_t k = 0; k < s.n; k++) s.n_nonzero += tensors[i].w[k] != 0.0f;
        s.sparsity = s.n ? 1.0 - (double)s.n_nonzero / (double)s.n : 0;
        total->n += s.n;
        total->n_nonzero += s.n_nonzero;
        if (each) each[i] = s;
    }
    if (total->n) total->sparsity = 1.0 - (double)total->n_nonzero / (double)total->n;
}

void pare_mask_values(pare_runtime *rt, float *x, const uint64_t *mask, size_t n) {
    pare_mask_apply(rt, x, mask, n);
}

pare_status pare_sparsify_activations(pare_runtime *rt, float *y, uint64_t *mask, size_t rows,
                                      size_t cols, const pare_sparsity *sparsity,
                                      const pare_structure *type, pare_error *err) {
    pare_prune_options o = {.sparsity = *sparsity};
    if (type) o.type = *type;
    if (!(sparsity->share >= 0 && sparsity->share <= 1))
        return pare_fail(err, PARE_ERR_ARG, "activations: found sparsity %g, expected 0 to 1",
                         sparsity->share);
    if (sparsity->m < 0 || sparsity->m > 64 || sparsity->n < 0 || sparsity->n > sparsity->m ||
        o.type.rows < 0 || o.type.cols < 0 ||
        (o.type.kind == PARE_STRUCTURE_BLOCK && (o.type.rows == 0 || o.type.cols == 0)))
        return pare_fail(err, PARE_ERR_ARG,
                         "activations: found %d:%d in blocks of %dx%d, expected N:M with 0 <= N <= "
                         "M <= 64 or blocks of 1x1 and more",
                         sparsity->n, sparsity->m, o.type.rows, o.type.cols);
    PARE_TRY(pare_prune_check(&o, err));
    if (rows == 0 || cols == 0) return PARE_OK;
    if (sparsity->share <= 0) {
        const pare_scored all = {.w = y, .n = rows * cols, .bits = mask};
        if (mask) pare_select(NULL, &all, 1, rows * cols, PARE_TIES_FIRST_STAYS);
        return PARE_OK;
    }
    if (!mask) {
        const pare_weight_job job = {
            .rt = rt, .name = "activations", .w = y, .rows = rows, .cols = cols};
        return pare_mask_matrix(&job, "top-k", y, &o, err);
    }
    const pare_mask_job job = {.rt = rt,
                               .name = "activations",
                               .method = "top-k",
                               .w = y,
                               .score = y,
                               .rows = rows,
                               .cols = cols};
    PARE_TRY(pare_mask_bits(mask, &job, &o, err));
    pare_mask_apply(rt, y, mask, rows * cols);
    return PARE_OK;
}

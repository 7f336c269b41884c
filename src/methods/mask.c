#include "methods/mask.h"

#include <math.h>
#include <string.h>

size_t pare_mask_n_keep(size_t n, double share) {
    if (share <= 0.0) return n;
    double keep = nearbyint((double)n * (1.0 - share)); /* to nearest, ties to even */
    if (keep < 1.0) keep = 1.0;
    return keep > (double)n ? n : (size_t)keep;
}

pare_status pare_mask_check_pattern(const pare_weight_job *job, const char *method,
                                    const pare_sparsity *s, pare_error *err) {
    if (!s->m || job->cols % (size_t)s->m == 0) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG,
                     "%s: %s: found rows of %zu, expected a multiple of %d for %d:%d", job->name,
                     method, job->cols, s->m, s->n, s->m);
}

/* Order-preserving map of a score to an unsigned number; NaN is the lowest. */
static uint32_t score_key(float s) {
    if (isnan(s)) return 0;
    uint32_t u;
    memcpy(&u, &s, 4);
    if (u == 0x80000000u) u = 0; /* -0 equals +0 */
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static uint32_t key_at(const float *w, const float *score, size_t i) {
    return score_key(score ? score[i] : fabsf(w[i]));
}

/* The k-th highest key (k from 1) by counting: 3 passes of 11, 11 and 10 bits. *n_equal becomes how
 * many values of exactly that key belong to the k highest. */
static uint32_t kth_key(const float *w, const float *score, size_t n, size_t k, size_t *n_equal) {
    static const int shifts[3] = {21, 10, 0}, widths[3] = {11, 11, 10};
    uint32_t prefix = 0, mask = 0;
    for (int pass = 0; pass < 3; pass++) {
        uint64_t count[2048] = {0};
        for (size_t i = 0; i < n; i++) {
            uint32_t key = key_at(w, score, i);
            if ((key & mask) == prefix) count[(key >> shifts[pass]) & ((1u << widths[pass]) - 1)]++;
        }
        uint32_t digit = (1u << widths[pass]) - 1;
        while (count[digit] < k) k -= count[digit--];
        prefix |= digit << shifts[pass];
        mask |= ((1u << widths[pass]) - 1) << shifts[pass];
    }
    *n_equal = k;
    return prefix;
}

/* Keeps the `keep` highest of n scores, 0 < keep < n. Of equal ones at the border the first stay,
 * or (first_go) the first go. */
static void keep_highest(float *w, const float *score, size_t n, size_t keep, bool first_go) {
    size_t stay, go = 0; /* equal ones that stay, behind those that go */
    uint32_t threshold = kth_key(w, score, n, keep, &stay);
    if (first_go) {
        for (size_t i = 0; i < n; i++) go += key_at(w, score, i) == threshold;
        go -= stay;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t key = key_at(w, score, i);
        if (key > threshold) continue;
        if (key == threshold && go > 0) {
            go--;
        } else if (key == threshold && stay > 0) {
            stay--;
            continue;
        }
        w[i] = 0.0f;
    }
}

void pare_mask_share(float *w, const float *score, size_t n, double share) {
    size_t keep = pare_mask_n_keep(n, share);
    if (keep < n) keep_highest(w, score, n, keep, false);
}

void pare_mask_lowest(float *w, const float *score, size_t n, size_t n_prune) {
    if (n_prune == n)
        memset(w, 0, n * sizeof *w);
    else if (n_prune > 0)
        keep_highest(w, score, n, n - n_prune, true);
}

void pare_mask_n_m(float *w, const float *score, size_t rows, size_t cols, int n, int m) {
    for (size_t group = 0; group < rows * cols; group += (size_t)m) {
        uint32_t key[64];
        for (int i = 0; i < m; i++) key[i] = key_at(w, score, group + (size_t)i);
        for (int i = 0; i < m; i++) {
            int higher = 0;
            for (int j = 0; j < m; j++) higher += key[j] > key[i] || (key[j] == key[i] && j > i);
            if (higher >= n) w[group + (size_t)i] = 0.0f;
        }
    }
}

#include "methods/distribution.h"

#include "base/memory.h"

#include <math.h>

/* --- erk --- */

static double n_values(const pare_dist_tensor *t) {
    double n = 1;
    for (size_t i = 0; i < t->n_dims; i++) n *= (double)t->dims[i];
    return n;
}

static double raw_density(const pare_dist_tensor *t, double power, bool kernel) {
    double sum = 0, product = 1;
    for (size_t i = kernel || t->n_dims < 2 ? 0 : t->n_dims - 2; i < t->n_dims; i++) {
        sum += (double)t->dims[i];
        product *= (double)t->dims[i];
    }
    return product > 0 ? pow(sum / product, power) : 0;
}

/* The factor of raw densities that gives the sparsity over all; 0 when every tensor is dense. */
static double erk_scale(const double *raw, const bool *dense, const pare_dist_tensor *t, size_t n,
                        double sparsity) {
    double ones = 0, divisor = 0;
    for (size_t i = 0; i < n; i++) {
        double values = n_values(&t[i]), zeros = floor(sparsity * values);
        if (!isnan(t[i].fixed)) continue;
        ones += dense[i] ? -zeros : values - zeros;
        divisor += dense[i] ? 0 : raw[i] * values;
    }
    return divisor > 0 ? ones / divisor : 0;
}

static void erk(double *share, double *raw, bool *dense, const pare_dist_tensor *t, size_t n,
                double sparsity) {
    double scale, most;
    for (;;) {
        most = 0;
        scale = erk_scale(raw, dense, t, n, sparsity);
        for (size_t i = 0; i < n; i++)
            if (isnan(t[i].fixed) && !dense[i] && raw[i] > most) most = raw[i];
        if (most * scale <= 1) break;
        for (size_t i = 0; i < n; i++) /* all that have it: equal tensors stay equal */
            if (raw[i] == most) dense[i] = true;
    }
    for (size_t i = 0; i < n; i++) {
        double s = dense[i] ? 0 : 1 - scale * raw[i];
        share[i] = isnan(t[i].fixed) ? fmin(fmax(s, 0), 1) : t[i].fixed;
    }
}

pare_status pare_distribution_erk(double *share, const pare_dist_tensor *t, size_t n,
                                  double sparsity, double power, bool kernel, pare_error *err) {
    if (!(sparsity >= 0 && sparsity <= 1))
        return pare_fail(err, PARE_ERR_ARG, "erk: found sparsity %g, expected 0 to 1", sparsity);
    if (n == 0)
        return pare_fail(err, PARE_ERR_ARG, "erk: found no tensors to share a sparsity out among");
    double *raw = pare_malloc(n, sizeof *raw);
    bool *dense = pare_calloc(n, sizeof *dense);
    pare_status st = PARE_OK;
    if (raw && dense) {
        for (size_t i = 0; i < n; i++) raw[i] = raw_density(&t[i], power, kernel);
        erk(share, raw, dense, t, n, sparsity);
    } else {
        st = pare_fail(err, PARE_ERR_NOMEM, "erk: out of memory");
    }
    pare_free(raw);
    pare_free(dense);
    return st;
}

/* --- by block --- */

/* Densities lie 2 lambda apart from the block with fewest to that with most outliers, in proportion
 * to the outliers between, and their mean over the blocks is that asked for. */
static double owl_share(const pare_dist_blocks *b, size_t layer, const pare_prune_options *o) {
    double low = HUGE_VAL, high = -HUGE_VAL, sum = 0, n = 0;
    for (size_t i = 0; i < b->n; i++) {
        if (isnan(b->outliers[i])) continue;
        low = fmin(low, b->outliers[i]);
        high = fmax(high, b->outliers[i]);
        sum += b->outliers[i];
        n++;
    }
    double unit = high > low ? 2 * o->owl_lambda / (high - low) : 0; /* no difference: uniform */
    double s = o->sparsity.share - unit * (b->outliers[layer] - sum / n);
    return fmin(fmax(s, 0), 1);
}

static pare_status by_block(double *share, const pare_dist_tensor *t, size_t n,
                            const pare_prune_options *o, const pare_dist_blocks *blocks,
                            pare_error *err) {
    const char *name = o->layers.n ? "layers" : "owl";
    if (o->layers.n && (size_t)o->layers.n != blocks->n)
        return pare_fail(err, PARE_ERR_ARG,
                         "layers: found %d shares, expected %zu, one for each block of the model",
                         o->layers.n, blocks->n);
    for (size_t i = 0; i < n; i++) {
        if (!isnan(t[i].fixed)) {
            share[i] = t[i].fixed;
            continue;
        }
        if (t[i].layer >= blocks->n)
            return pare_fail(err, PARE_ERR_ARG, "%s: found %s, expected tensors of blocks", name,
                             t[i].name);
        share[i] = o->layers.n ? o->layers.share[t[i].layer] : owl_share(blocks, t[i].layer, o);
    }
    return PARE_OK;
}

pare_status pare_distribution(double *share, const pare_dist_tensor *t, size_t n,
                              const pare_prune_options *o, const pare_dist_blocks *blocks,
                              pare_error *err) {
    if (o->layers.n || o->dist == PARE_DIST_OWL) return by_block(share, t, n, o, blocks, err);
    if (o->dist == PARE_DIST_ERK)
        return pare_distribution_erk(share, t, n, o->sparsity.share, o->erk_power, o->erk_kernel,
                                     err);
    for (size_t i = 0; i < n; i++) share[i] = isnan(t[i].fixed) ? o->sparsity.share : t[i].fixed;
    return PARE_OK;
}

#include "model/rope_config.h"

#include <math.h>

static bool positive(double x) { return isfinite(x) && x > 0; }

/* Llama 3.1: long wavelengths are stretched, short ones kept, a ramp between. */
static pare_status scale_llama3(pare_rope *rope, const pare_rope_config *c, pare_error *err) {
    double lo = (double)c->low_freq_factor, hi = (double)c->high_freq_factor;
    if (!positive(lo) || !positive(hi) || hi <= lo)
        return pare_fail(err, PARE_ERR_INPUT,
                         "rope scaling llama3: found low_freq_factor %g, high_freq_factor %g, "
                         "expected 0 < low < high",
                         lo, hi);
    double old = (double)c->original_ctx;
    for (size_t i = 0; i < rope->half; i++) {
        double f = rope->inv_freq[i], wavelength = 2 * M_PI / f;
        double s = (old / wavelength - lo) / (hi - lo);
        s = s < 0 ? 0 : s > 1 ? 1 : s;
        rope->inv_freq[i] = (1 - s) * f / (double)c->factor + s * f;
    }
    return PARE_OK;
}

/* YaRN (arXiv:2309.00071): dimensions that turn more than beta_fast times within the original
 * context are kept, those that turn less than beta_slow times are stretched, a ramp between. */
static void scale_yarn(pare_rope *rope, const pare_rope_config *c) {
    double dim = 2.0 * (double)rope->half, old = (double)c->original_ctx;
    double log_theta = log((double)c->theta), factor = (double)c->factor;
    double fast = c->beta_fast > 0 ? (double)c->beta_fast : 32;
    double slow = c->beta_slow > 0 ? (double)c->beta_slow : 1;
    double low = dim * log(old / (fast * 2 * M_PI)) / (2 * log_theta);
    double high = dim * log(old / (slow * 2 * M_PI)) / (2 * log_theta);
    if (!c->no_truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0 ? low : 0;
    high = high < dim - 1 ? high : dim - 1;
    if (high <= low) high = low + 0.001; /* no division by zero, as in the published code */
    for (size_t i = 0; i < rope->half; i++) {
        double r = ((double)i - low) / (high - low);
        r = r < 0 ? 0 : r > 1 ? 1 : r;
        rope->inv_freq[i] = (1 - r) * rope->inv_freq[i] + r * rope->inv_freq[i] / factor;
    }
    rope->scale = c->attn_factor > 0 ? (double)c->attn_factor : 0.1 * log(factor) + 1.0;
}

static pare_status scale_divisors(pare_rope *rope, const float *divisors, pare_error *err) {
    if (!divisors) return pare_fail(err, PARE_ERR_INPUT, "rope factors: not found");
    for (size_t i = 0; i < rope->half; i++) {
        double d = (double)divisors[i];
        if (!positive(d))
            return pare_fail(err, PARE_ERR_INPUT,
                             "rope factors[%zu]: found %g, expected a positive number", i, d);
        rope->inv_freq[i] /= d;
    }
    return PARE_OK;
}

pare_status pare_rope_init(pare_rope *rope, const pare_rope_config *c, size_t head_dim,
                           const float *divisors, pare_error *err) {
    *rope = (pare_rope){.scale = 1.0};
    if (c->theta == 0.0f) return PARE_OK;
    if (head_dim % 2 || head_dim == 0 || head_dim / 2 > PARE_ROPE_MAX_HALF)
        return pare_fail(err, PARE_ERR_INPUT,
                         "head_dim: found %zu, expected an even number up to %d", head_dim,
                         2 * PARE_ROPE_MAX_HALF);
    if (!positive((double)c->theta))
        return pare_fail(err, PARE_ERR_INPUT, "rope theta: found %g, expected a positive number",
                         (double)c->theta);
    bool by_factor = c->scaling != PARE_ROPE_NONE && c->scaling != PARE_ROPE_FACTORS;
    if (by_factor && !positive((double)c->factor))
        return pare_fail(err, PARE_ERR_INPUT, "rope factor: found %g, expected a positive number",
                         (double)c->factor);
    bool by_context = c->scaling == PARE_ROPE_LLAMA3 || c->scaling == PARE_ROPE_YARN;
    if (by_context && c->original_ctx == 0)
        return pare_fail(err, PARE_ERR_INPUT, "rope original context: found 0, expected 1 or more");
    if (c->scaling == PARE_ROPE_YARN && c->theta <= 1.0f)
        return pare_fail(err, PARE_ERR_INPUT,
                         "rope theta: found %g, expected more than 1 with yarn", (double)c->theta);

    rope->half = head_dim / 2;
    for (size_t i = 0; i < rope->half; i++)
        rope->inv_freq[i] = pow((double)c->theta, -2.0 * (double)i / (double)head_dim);
    switch (c->scaling) {
    case PARE_ROPE_NONE:
        return PARE_OK;
    case PARE_ROPE_LINEAR:
        for (size_t i = 0; i < rope->half; i++) rope->inv_freq[i] /= (double)c->factor;
        return PARE_OK;
    case PARE_ROPE_LLAMA3:
        return scale_llama3(rope, c, err);
    case PARE_ROPE_YARN:
        scale_yarn(rope, c);
        return PARE_OK;
    case PARE_ROPE_FACTORS:
        return scale_divisors(rope, divisors, err);
    }
    return pare_fail(err, PARE_ERR_INPUT, "rope scaling: found kind %d", (int)c->scaling);
}

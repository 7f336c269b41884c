/* Adafactor: Shazeer, Stern, arXiv:1804.04235, with the parameters of PyTorch's. The second moments
 * of a matrix are kept as sums over rows and over columns: v_ij = r_i c_j / mean(r). A step's size
 * follows the weights' root mean square, and a step whose own is above d is scaled down to it.
 *
 * Of masked tensors both root mean squares are taken over the weights that are kept (as JaxPruner's
 * users do): zeros would make steps shorter. Tensors of more than two dimensions count as matrices
 * of outputs x the rest. */
#include "methods/optimizer.h"

#include <math.h>

typedef struct adafactor_options {
    pare_optim_options o;
    double beta2_decay, eps1, eps2, d;
} adafactor_options;

static const pare_param adafactor_params[] = {
    PARE_OPTIM_LR(adafactor_options, 0.01),
    PARE_PARAM(adafactor_options, beta2_decay, PARE_PARAM_FLOAT, -0.8, -10, 0,
               "the mean of squares gets t^beta2_decay of its new value at step t"),
    PARE_PARAM(adafactor_options, eps1, PARE_PARAM_FLOAT, 1.1920929e-7, 0, 1,
               "least root of a second moment"),
    PARE_PARAM(adafactor_options, eps2, PARE_PARAM_FLOAT, 1e-3, 0, 1,
               "least root mean square of weights that steps follow"),
    PARE_PARAM(adafactor_options, d, PARE_PARAM_FLOAT, 1, 1, 1000,
               "largest root mean square of a step, times lr and that of the weights"),
    PARE_OPTIM_DECAY(adafactor_options, 0, "share of the weights, times lr, that a step takes off"),
    {0},
};

enum { MAX_BLOCKS = 64 };

/* A tensor is gone through in blocks of rows; a vector in blocks of values. */
typedef struct adafactor_job {
    const pare_update *u;
    const adafactor_options *o;
    size_t unit, n_units, per_block, n_blocks; /* unit: values of a row, 1 of a vector */
    float fresh, inverse_mean;                 /* of the rows' means */
    double *columns;                           /* [n_blocks][cols] sums of g^2 */
    double *sums;                              /* [n_blocks] of w^2, then of the step's squares */
    float step, keep;
} adafactor_job;

static size_t n_blocks_of(size_t n_units) { return n_units < MAX_BLOCKS ? n_units : MAX_BLOCKS; }

static size_t adafactor_moment(const void *options, const pare_update *u, size_t k) {
    (void)options;
    if (u->is_vector) return k == 2 ? u->n : 0;
    return k == 0 ? u->rows : k == 1 ? u->cols : 0;
}

static size_t adafactor_work(const void *options, const pare_update *u) {
    (void)options;
    size_t blocks = n_blocks_of(u->is_vector ? u->n : u->rows);
    return blocks + (u->is_vector ? 0 : blocks * u->cols);
}

static float mix(float old, double new, float fresh) { return old + fresh * ((float)new - old); }

static size_t at_most(size_t a, size_t b) { return a < b ? a : b; }

/* Sums of w^2 and g^2 of blocks [begin, end), and the second moments of their rows. */
static void gather(void *arg, size_t begin, size_t end) {
    const adafactor_job *j = arg;
    const pare_update *u = j->u;
    for (size_t b = begin; b < end; b++) {
        double *columns = j->columns + b * u->cols, w2 = 0;
        size_t first = b * j->per_block, last = at_most(first + j->per_block, j->n_units);
        for (size_t c = 0; c < u->cols && !u->is_vector; c++) columns[c] = 0;
        for (size_t r = first; r < last; r++) {
            double sums[2] = {0}, vector = 0;
            u->k->squares(sums, u->is_vector ? &vector : columns, &u->a, r * j->unit,
                          (r + 1) * j->unit);
            float *second = &u->moment[u->is_vector ? 2 : 0][r];
            *second = mix(*second, sums[0] / (double)j->unit, j->fresh);
            w2 += sums[1];
        }
        j->sums[b] = w2;
    }
}

static void finish_columns(const adafactor_job *j) {
    const pare_update *u = j->u;
    for (size_t c = 0; c < u->cols; c++) {
        double sum = 0;
        for (size_t b = 0; b < j->n_blocks; b++) sum += j->columns[b * u->cols + c];
        u->moment[1][c] = mix(u->moment[1][c], sum / (double)u->rows, j->fresh);
    }
}

enum { PIECE = 512 };

/* out[end - begin]: gradients over the roots of their second moments, of values of a row. */
static void directions(float *out, const adafactor_job *j, size_t row, size_t begin, size_t end) {
    const pare_update *u = j->u;
    const float least = (float)(j->o->eps1 * j->o->eps1);
    if (u->is_vector)
        u->k->factored(out, &u->a, 1, u->moment[2] + begin, least, begin, end);
    else
        u->k->factored(out, &u->a, u->moment[0][row] * j->inverse_mean,
                       u->moment[1] + (begin - row * u->cols), least, begin, end);
}

/* The last pass, or the one before, over a block: sums steps, or makes them. */
static void go_over(const adafactor_job *j, size_t b, double *sum) {
    const pare_update *u = j->u;
    float d[PIECE];
    size_t first = b * j->per_block * j->unit, last = at_most(first + j->per_block * j->unit, u->n);
    for (size_t i = first, next; i < last; i = next) {
        size_t row = i / u->cols;
        next = at_most(at_most(i + PIECE, (row + 1) * u->cols), last);
        directions(d, j, row, i, next);
        if (sum)
            u->k->norm(sum, &u->a, d, i, next);
        else
            u->k->move(&u->a, d, j->keep, j->step, 0, false, i, next);
    }
}

static void sum_steps(void *arg, size_t begin, size_t end) {
    const adafactor_job *j = arg;
    for (size_t b = begin; b < end; b++) {
        j->sums[b] = 0;
        go_over(j, b, &j->sums[b]);
    }
}

static void apply(void *arg, size_t begin, size_t end) {
    for (size_t b = begin; b < end; b++) go_over(arg, b, NULL);
}

static void adafactor_update(const pare_update *u, const void *options) {
    const adafactor_options *o = options;
    adafactor_job j = {.u = u,
                       .o = o,
                       .unit = u->is_vector ? 1 : u->cols,
                       .n_units = u->is_vector ? u->n : u->rows,
                       .fresh = (float)pow((double)u->step, o->beta2_decay),
                       .keep = (float)(1.0 - u->lr * u->decay)};
    j.per_block = (j.n_units + n_blocks_of(j.n_units) - 1) / n_blocks_of(j.n_units);
    j.n_blocks = (j.n_units + j.per_block - 1) / j.per_block;
    j.sums = u->work;
    j.columns = u->work + n_blocks_of(j.n_units);
    pare_parallel_for(u->rt, j.n_blocks, 1, gather, &j);
    double kept = (double)pare_update_n_kept(u->a.mask, 0, u->n), n = kept > 0 ? kept : 1;
    double rms = fmax(o->eps2, sqrt(pare_update_sum(j.sums, j.n_blocks) / n));
    if (!u->is_vector) {
        finish_columns(&j);
        double mean = 0;
        for (size_t r = 0; r < u->rows; r++) mean += (double)u->moment[0][r];
        mean = fmax(mean / (double)u->rows, o->eps1);
        j.inverse_mean = mean > 0 ? (float)(1.0 / mean) : 0.0f;
    }
    pare_parallel_for(u->rt, j.n_blocks, 1, sum_steps, &j);
    double size = sqrt(pare_update_sum(j.sums, j.n_blocks) / n) / o->d;
    double rate = fmin(u->lr, 1.0 / sqrt((double)u->step));
    j.step = (float)(rms * rate / fmax(1.0, size));
    pare_parallel_for(u->rt, j.n_blocks, 1, apply, &j);
}

static const pare_optim_fns adafactor = {.moments = {"r", "c", "v"},
                                         .moment_size = adafactor_moment,
                                         .work = adafactor_work,
                                         .update = adafactor_update};

const pare_method pare_method_adafactor = {
    .name = "adafactor",
    .slot = "optimizer",
    .paper = "arXiv:1804.04235",
    .summary = "second moments as sums over rows and columns: hardly any state",
    .help =
        "Steps by the gradient over the root of its mean square, which is kept for a matrix as a "
        "number for each row and each column. Steps follow the root mean square of the weights "
        "(lr is relative to it) and are cut to a root mean square of d. Of sparse tensors both "
        "are taken over the weights that are kept.",
    .example = "adafactor:lr=0.01",
    .options_size = sizeof(adafactor_options),
    .params = adafactor_params,
    .optim = &adafactor,
};

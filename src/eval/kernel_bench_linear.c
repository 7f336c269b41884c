/* Linear layers in every encoding, at every number of rows, in both modes, with their error against
 * f64; and the encodings themselves. */
#include "eval/kernel_bench.h"

#include "base/memory.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "tensor/linear.h"
#include "tensor/pack.h"

#include <math.h>
#include <string.h>

enum { CHECKED_OUTS = 64, CHECKED_ROWS = 16, W_STREAM, X_STREAM, ZEROS_STREAM };

/* A matrix, copied until it fills memory beyond the caches. */
typedef struct matrices {
    pare_tensor first; /* storage: all of them */
    size_t n, stride;  /* bytes from one to the next */
} matrices;

typedef struct linear_bench {
    const pare_kernel_bench *b;
    float *w, *decoded; /* [out][in] */
    float *x, *y;       /* [max_rows][in], [max_rows][out] */
    size_t n_w, n_x, n_y;
    bool sparse; /* w has two zeros in every four */
    const pare_encoding *enc;
    matrices m;
    double want[CHECKED_OUTS][CHECKED_ROWS]; /* results in f64 */
    double read_limit, w_limit;              /* of reading the matrices, of reading w in f32 */
} linear_bench;

/* --- weights --- */

/* Two of every four columns, at random, become zero. */
static void drop_half(void *arg, size_t begin, size_t end) {
    const linear_bench *l = arg;
    static const uint8_t pairs[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
    size_t cols = l->b->o->in_dim;
    for (size_t r = begin; r < end; r++)
        for (size_t g = 0; g < cols; g += 4) {
            size_t i = r * cols + g;
            float u = pare_rng_uniform(pare_runtime_seed(l->b->rt), ZEROS_STREAM, i);
            const uint8_t *pair = pairs[(size_t)(6 * u)];
            for (int k = 0; k < 2; k++)
                if (g + pair[k] < cols) l->w[i + pair[k]] = 0;
        }
}

static bool is_sparse(const pare_encoding *e) { return e->block_bytes == 0; }

/* Brings l->w into the pattern that an encoding wants. */
static void set_weights(linear_bench *l, bool sparse) {
    size_t rows = l->b->o->out_dim;
    if (sparse == l->sparse) return;
    if (sparse)
        pare_parallel_for(l->b->rt, rows, 16, drop_half, l);
    else
        pare_kernel_normals(l->b, l->w, l->n_w, 1 / sqrtf((float)l->b->o->in_dim), W_STREAM);
    l->sparse = sparse;
}

/* Copies of one matrix; packed: as models hold it. */
static pare_status copy_matrices(linear_bench *l, bool packed, pare_error *err) {
    const pare_kernel_bench *b = l->b;
    matrices *m = &l->m;
    pare_tensor one;
    pare_status st =
        pare_tensor_encode(b->rt, &one, l->enc, l->w, b->o->out_dim, b->o->in_dim, NULL, err);
    if (st != PARE_OK)
        return pare_fail_prefix(err, "bench: shape %zux%zu, encoding %s", b->o->out_dim,
                                b->o->in_dim, l->enc->name);
    st = packed ? pare_tensor_repack(&one, pare_runtime_isa(b->rt), err) : PARE_OK;
    if (st != PARE_OK) {
        pare_tensor_free(&one);
        return st;
    }
    *m = (matrices){.first = one, .n = pare_kernel_copies(b, one.storage_bytes)};
    m->stride = (one.storage_bytes + 63) & ~(size_t)63;
    m->first.storage_bytes = m->n * m->stride;
    m->first.storage = pare_big_alloc(m->first.storage_bytes);
    if (!m->first.storage)
        st = pare_fail(err, PARE_ERR_NOMEM, "bench: found no memory for %zu bytes of %s",
                       m->first.storage_bytes, l->enc->name);
    for (size_t i = 0; i < m->n && st == PARE_OK; i++)
        memcpy((char *)m->first.storage + i * m->stride, one.storage, one.storage_bytes);
    for (size_t p = 0; p < m->first.enc->n_parts && st == PARE_OK; p++)
        m->first.view.part[p] =
            (char *)m->first.storage + ((const char *)one.view.part[p] - (const char *)one.storage);
    pare_tensor_free(&one);
    return st;
}

/* The i-th matrix, borrowed. */
static pare_tensor matrix_at(const matrices *m, size_t i) {
    pare_tensor t = m->first;
    t.storage = NULL;
    for (size_t p = 0; p < t.enc->n_parts; p++)
        t.view.part[p] = (const char *)t.view.part[p] + i % m->n * m->stride;
    return t;
}

/* --- the layer --- */

typedef struct layer_call {
    const linear_bench *l;
    pare_compute compute;
    size_t rows;
    void *scratch;
} layer_call;

static void run_layer(pare_worker *w, void *arg, size_t i) {
    const layer_call *c = arg;
    const pare_kernel_bench *b = c->l->b;
    pare_tensor t = matrix_at(&c->l->m, i);
    pare_linear_out out = {.w = &t, .y = c->l->y, .ldy = b->o->out_dim};
    pare_linear_forward(w, pare_runtime_isa(b->rt), c->compute, c->scratch, c->l->x, b->o->in_dim,
                        c->rows, NULL, &out, 1);
}

/* The outputs that are checked lie all over the matrix. */
static size_t checked_outs(const linear_bench *l) {
    return l->b->o->out_dim < CHECKED_OUTS ? l->b->o->out_dim : CHECKED_OUTS;
}
static size_t checked_out(const linear_bench *l, size_t k) {
    return k * l->b->o->out_dim / checked_outs(l);
}

static void compute_wanted(void *arg, size_t begin, size_t end) {
    linear_bench *l = arg;
    size_t cols = l->b->o->in_dim;
    for (size_t k = begin; k < end; k++) {
        float *w = l->decoded + k * cols;
        l->m.first.enc->decode(w, &l->m.first.view, checked_out(l, k), 0, cols);
        for (size_t i = 0; i < CHECKED_ROWS && i < l->b->max_rows; i++) {
            double sum = 0;
            for (size_t c = 0; c < cols; c++) sum += (double)w[c] * l->x[i * cols + c];
            l->want[k][i] = sum;
        }
    }
}

static double rms_error(const linear_bench *l, size_t rows) {
    double error = 0, power = 0;
    for (size_t k = 0; k < checked_outs(l); k++)
        for (size_t i = 0; i < CHECKED_ROWS && i < rows; i++) {
            double want = l->want[k][i], got = l->y[i * l->b->o->out_dim + checked_out(l, k)];
            error += (got - want) * (got - want);
            power += want * want;
        }
    return sqrt(error / power);
}

static pare_status measure_layer(const linear_bench *l, pare_compute compute, void *scratch,
                                 pare_error *err) {
    const pare_kernel_bench_options *o = l->b->o;
    double products = (double)o->out_dim * (double)o->in_dim * (l->sparse ? 0.5 : 1);
    for (size_t i = 0; i < o->n_rows; i++) {
        layer_call c = {.l = l, .compute = compute, .rows = o->rows[i], .scratch = scratch};
        pare_kernel_row row = {.kernel = compute ? "linear_fast" : "linear_exact",
                               .encoding = l->enc->name,
                               .rows = c.rows,
                               .bytes = (double)pare_tensor_bytes(&l->m.first),
                               .ops = 2 * products * (double)c.rows,
                               .read_limit = l->read_limit};
        PARE_TRY(pare_kernel_team_time(&row.seconds, l->b, run_layer, &c, err));
        row.op_limit = pare_op_limit(&row.products, &l->b->limits, l->enc, compute);
        row.rms_error = rms_error(l, c.rows);
        o->on_row(o->arg, &row);
    }
    return PARE_OK;
}

static pare_status measure_layers(linear_bench *l, pare_error *err) {
    static const char *const names[] = {"linear_exact", "linear_fast"};
    const pare_kernel_bench *b = l->b;
    int threads = pare_runtime_threads(b->rt);
    pare_status st = PARE_OK;
    pare_parallel_for(b->rt, checked_outs(l), 1, compute_wanted, l);
    for (int mode = 0; mode < 2 && st == PARE_OK; mode++) {
        pare_compute compute = mode ? PARE_COMPUTE_FAST : PARE_COMPUTE_EXACT;
        if (!pare_kernel_wanted(b, names[mode])) continue;
        size_t bytes = pare_linear_scratch_bytes(b->max_rows, b->o->in_dim, threads, compute);
        void *scratch = pare_big_alloc(bytes);
        st = scratch ? measure_layer(l, compute, scratch, err)
                     : pare_fail(err, PARE_ERR_NOMEM, "bench: found no memory for a linear layer");
        pare_big_free(scratch, bytes);
    }
    return st;
}

/* --- the encodings --- */

static void run_encode(pare_runtime *rt, void *arg, size_t first, size_t n) {
    const linear_bench *l = arg;
    (void)first;
    for (size_t i = 0; i < n; i++) {
        pare_tensor t; /* it could be encoded before, so only memory may lack */
        if (pare_tensor_encode(rt, &t, l->enc, l->w, l->b->o->out_dim, l->b->o->in_dim, NULL,
                               NULL) == PARE_OK)
            pare_tensor_free(&t);
    }
}

static void run_decode(pare_runtime *rt, void *arg, size_t first, size_t n) {
    const linear_bench *l = arg;
    for (size_t i = 0; i < n; i++) {
        pare_tensor t = matrix_at(&l->m, first + i);
        pare_tensor_decode(rt, l->decoded, &t);
    }
}

static pare_status measure_codec(linear_bench *l, const char *kernel, pare_kernel_calls calls,
                                 pare_error *err) {
    const pare_kernel_bench *b = l->b;
    if (!pare_kernel_wanted(b, kernel)) return PARE_OK;
    pare_kernel_row row = {.kernel = kernel,
                           .encoding = l->enc->name,
                           .rows = b->o->out_dim,
                           .bytes = (double)pare_tensor_bytes(&l->m.first) + 4.0 * (double)l->n_w,
                           .read_limit = l->w_limit,
                           .rms_error = NAN};
    PARE_TRY(pare_kernel_time(&row.seconds, b, calls, l, err));
    b->o->on_row(b->o->arg, &row);
    return PARE_OK;
}

/* --- all of it --- */

static pare_status measure_encoding(linear_bench *l, const pare_encoding *e, pare_error *err) {
    l->enc = e;
    set_weights(l, is_sparse(e));
    pare_status st = copy_matrices(l, true, err);
    if (st == PARE_OK)
        st = pare_kernel_read_limit(&l->read_limit, l->b, pare_tensor_bytes(&l->m.first), err);
    if (st == PARE_OK) st = measure_layers(l, err);
    pare_tensor_free(&l->m.first);
    if (st == PARE_OK) st = copy_matrices(l, false, err);
    if (st == PARE_OK) st = measure_codec(l, "encode", run_encode, err);
    if (st == PARE_OK) st = measure_codec(l, "decode", run_decode, err);
    pare_tensor_free(&l->m.first);
    return st;
}

/* Encodings by name, or all that can be written and fit. */
static pare_status measure_encodings(linear_bench *l, pare_error *err) {
    const pare_kernel_bench_options *o = l->b->o;
    const pare_encoding *e;
    size_t n = o->n_encodings;
    if (!n)
        while (pare_encoding_at(n)) n++;
    for (size_t i = 0; i < n; i++) {
        pare_progress(l->b->rt, "linear layers", (double)i, (double)n, "encodings");
        e = o->n_encodings ? pare_encoding_find(o->encodings[i]) : pare_encoding_at(i);
        bool fits = (e->encode_row || e->encode_matrix) && o->in_dim % e->block_len == 0;
        if (fits || o->n_encodings) PARE_TRY(measure_encoding(l, e, err));
    }
    pare_progress(l->b->rt, "linear layers", (double)n, (double)n, "encodings");
    return PARE_OK;
}

pare_status pare_kernel_bench_linear(const pare_kernel_bench *b, pare_error *err) {
    static const char *const names[] = {"linear_exact", "linear_fast", "encode", "decode"};
    bool wanted = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        wanted |= pare_kernel_wanted(b, names[i]);
    if (!wanted) return PARE_OK;
    linear_bench *l = pare_calloc(1, sizeof *l);
    if (!l) return pare_fail(err, PARE_ERR_NOMEM, "bench: out of memory");
    l->b = b;
    l->n_w = b->o->out_dim * b->o->in_dim;
    l->n_x = b->max_rows * b->o->in_dim;
    l->n_y = b->max_rows * b->o->out_dim;
    l->sparse = true; /* not yet dense */
    /* together: memory is used after all is mapped */
    const double bytes = sizeof(float) * (2.0 * (double)l->n_w + (double)l->n_x + (double)l->n_y);
    if (!pare_has_memory(bytes)) {
        pare_free(l);
        return pare_fail(err, PARE_ERR_NOMEM,
                         "bench: a matrix of %zu x %zu: found %zu bytes of memory, expected %.0f",
                         b->o->out_dim, b->o->in_dim, pare_available_bytes(), bytes);
    }
    l->w = pare_big_alloc(l->n_w * sizeof(float));
    l->decoded = pare_big_alloc(l->n_w * sizeof(float));
    l->x = pare_big_alloc(l->n_x * sizeof(float));
    l->y = pare_big_alloc(l->n_y * sizeof(float));
    pare_status st = PARE_OK;
    if (!l->w || !l->decoded || !l->x || !l->y)
        st = pare_fail(err, PARE_ERR_NOMEM, "bench: found no memory for a matrix of %zu x %zu",
                       b->o->out_dim, b->o->in_dim);
    if (st == PARE_OK) {
        set_weights(l, false);
        pare_kernel_normals(b, l->x, l->n_x, 1, X_STREAM);
        st = pare_limits_read_rate(&l->w_limit, b->rt, l->n_w * sizeof(float), err);
    }
    if (st == PARE_OK) st = measure_encodings(l, err);
    pare_big_free(l->w, l->n_w * sizeof(float));
    pare_big_free(l->decoded, l->n_w * sizeof(float));
    pare_big_free(l->x, l->n_x * sizeof(float));
    pare_big_free(l->y, l->n_y * sizeof(float));
    pare_free(l);
    return st;
}

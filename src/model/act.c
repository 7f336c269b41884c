#include "model/act.h"

#include "base/runtime.h"
#include "tensor/grid.h"
#include "tensor/pack.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "quantized activations: out of memory");
}

/* ---- which matrix takes which site ---- */

static const struct {
    const char *field;
    size_t offset, site;
    size_t first, n; /* sites of what it makes, of those that attention multiplies */
} matrices[] = {
    {"attn_q", offsetof(pare_layer, attn_q), PARE_ACT_QKV, PARE_ACT_Q, 1},
    {"attn_k", offsetof(pare_layer, attn_k), PARE_ACT_QKV, PARE_ACT_K, 1},
    {"attn_v", offsetof(pare_layer, attn_v), PARE_ACT_QKV, PARE_ACT_V, 1},
    {"attn_qkv", offsetof(pare_layer, attn_qkv), PARE_ACT_QKV, PARE_ACT_Q, 3},
    {"attn_output", offsetof(pare_layer, attn_output), PARE_ACT_OUTPUT, 0, 0},
    {"ffn_gate", offsetof(pare_layer, ffn_gate), PARE_ACT_FFN, 0, 0},
    {"ffn_up", offsetof(pare_layer, ffn_up), PARE_ACT_FFN, 0, 0},
    {"ffn_down", offsetof(pare_layer, ffn_down), PARE_ACT_DOWN, 0, 0},
};
enum { N_MATRICES = sizeof matrices / sizeof matrices[0] };

size_t pare_act_site_of(const char *canonical, size_t *layer) {
    if (strncmp(canonical, "blk.", 4) != 0) return PARE_ACT_SITES;
    char *end;
    *layer = strtoul(canonical + 4, &end, 10);
    for (size_t i = 0; *end == '.' && i < N_MATRICES; i++) {
        size_t n = strlen(matrices[i].field);
        if (strncmp(end + 1, matrices[i].field, n) == 0 && strcmp(end + 1 + n, ".weight") == 0)
            return matrices[i].site;
    }
    return PARE_ACT_SITES;
}

/* NULL: the layer has no such matrix. */
static pare_linear *matrix_of(const pare_model *m, size_t layer, size_t i) {
    pare_linear *l = (pare_linear *)((uint8_t *)&m->weights.layers[layer] + matrices[i].offset);
    return l->w.enc ? l : NULL;
}

/* ---- made and freed ---- */

static size_t rows_of_all(const pare_model *m) {
    size_t n = 0;
    for (size_t l = 0; l < m->config.n_layers; l++)
        for (size_t i = 0; i < N_MATRICES; i++) {
            const pare_linear *linear = matrix_of(m, l, i);
            if (linear) n += linear->w.view.rows;
        }
    return n;
}

pare_status pare_act_sites_create(pare_act_sites **out, const pare_model *m,
                                  const pare_act_scheme *scheme, pare_error *err) {
    pare_act_sites *a = pare_calloc(1, sizeof *a);
    size_t n = m->config.n_layers * PARE_ACT_SITES;
    *out = NULL;
    if (!a) return fail_memory(err);
    a->n_layers = m->config.n_layers;
    a->n_threads = pare_runtime_threads(m->rt);
    a->schemes = pare_calloc(n, sizeof *a->schemes);
    a->sites = pare_calloc(n, sizeof *a->sites);
    a->ranges = pare_calloc(n, sizeof *a->ranges);
    a->seen = pare_calloc(n * (size_t)a->n_threads, sizeof *a->seen);
    a->row_sums = pare_calloc(rows_of_all(m), sizeof *a->row_sums);
    a->weights = pare_calloc(m->config.n_layers * N_MATRICES, sizeof *a->weights);
    if (!a->schemes || !a->sites || !a->ranges || !a->seen || !a->row_sums || !a->weights) {
        pare_act_sites_free(a);
        return fail_memory(err);
    }
    for (size_t i = 0; i < n; i++) {
        a->sites[i].scheme = &a->schemes[i];
        if (scheme && (i % PARE_ACT_SITES < PARE_ACT_INPUTS || scheme->bmm))
            a->schemes[i] = *scheme;
        pare_act_set_range(a, i / PARE_ACT_SITES, i % PARE_ACT_SITES, pare_act_range_none);
    }
    *out = a;
    return PARE_OK;
}

void pare_act_sites_free(pare_act_sites *a) {
    if (!a) return;
    for (size_t i = 0; a->weights && i < a->n_weights; i++) pare_tensor_free(&a->weights[i]);
    pare_free(a->schemes);
    pare_free(a->sites);
    pare_free(a->ranges);
    pare_free(a->seen);
    pare_free(a->counts);
    pare_free(a->row_sums);
    pare_free(a->weights);
    pare_free(a->text);
    pare_free(a);
}

void pare_act_set_range(pare_act_sites *a, size_t layer, size_t site, pare_act_range range) {
    size_t i = layer * PARE_ACT_SITES + site;
    a->ranges[i] = range;
    if (a->schemes[i].bits) a->sites[i].grid = pare_act_grid_of(&a->schemes[i], range);
}

bool pare_act_is_joint(const pare_model *m) {
    const pare_act_sites *a = m->act;
    for (size_t i = 0; a && i < a->n_layers * PARE_ACT_SITES; i++)
        if (a->schemes[i].bits && a->schemes[i].granularity == PARE_ACT_PER_TENSOR_DYNAMIC)
            return true;
    return false;
}

const char *pare_model_act(const pare_model *m) {
    return m->act && m->act->text ? m->act->text : "";
}

/* ---- what static grids clamp ---- */

static bool is_static(const pare_act_scheme *s) {
    return s->bits && s->granularity == PARE_ACT_PER_TENSOR_STATIC;
}

pare_status pare_model_count_clamped(pare_model *m, pare_error *err) {
    pare_act_sites *a = m->act;
    const size_t n = a ? a->n_layers * PARE_ACT_SITES : 0, threads = a ? (size_t)a->n_threads : 0;
    size_t n_static = 0;
    for (size_t i = 0; i < n; i++) n_static += is_static(&a->schemes[i]);
    if (!n_static) return PARE_OK;
    pare_act_count *counts = pare_calloc(n * threads, sizeof *counts);
    if (!counts) return fail_memory(err);
    pare_free(a->counts);
    a->counts = counts;
    for (size_t i = 0; i < n; i++)
        if (is_static(&a->schemes[i])) a->sites[i].counts = counts + i * threads;
    return PARE_OK;
}

bool pare_model_clamped_at(const pare_model *m, size_t i, pare_act_clamped_site *out) {
    static const char *const names[PARE_ACT_SITES] = {
        "attn_qkv", "attn_output", "ffn_up", "ffn_down", "q", "k", "v"};
    const pare_act_sites *a = m->act;
    for (size_t s = 0; a && a->counts && s < a->n_layers * PARE_ACT_SITES; s++) {
        pare_act_count sum = {0};
        for (int t = 0; a->sites[s].counts && t < a->n_threads; t++) {
            const pare_act_count *one = &a->sites[s].counts[t];
            sum = (pare_act_count){sum.n + one->n, sum.clamped + one->clamped};
        }
        if (!sum.n || i--) continue;
        *out = (pare_act_clamped_site){s / PARE_ACT_SITES, names[s % PARE_ACT_SITES], sum.n,
                                       sum.clamped};
        return true;
    }
    return false;
}

/* ---- attached ---- */

/* The sums of a matrix's rows, and whether no code of 8 bits is -128. */
typedef struct sums_job {
    const pare_tensor *w;
    float *sums;
    bool *lowest; /* [rows] a row has the code -128 */
} sums_job;

static void sum_rows(void *arg, size_t begin, size_t end) {
    const sums_job *j = arg;
    const pare_encoding *e = j->w->enc;
    enum { PIECE = PARE_TILE_KC };
    for (size_t r = begin; r < end; r++) {
        double sum = 0.0;
        for (size_t c = 0; c < j->w->view.cols; c += PIECE) {
            int8_t q[PIECE];
            float scale[PIECE / 16] = {0}, offset[PIECE / 16] = {0};
            size_t n = j->w->view.cols - c < PIECE ? j->w->view.cols - c : PIECE;
            e->codes(q, scale, offset, &j->w->view, r, c, n);
            for (size_t i = 0; i < n; i++) {
                sum += (double)scale[i / e->code_group] * q[i] +
                       (e->has_offset ? (double)offset[i / e->code_group] : 0.0);
                j->lowest[r] |= q[i] == INT8_MIN;
            }
        }
        j->sums[r] = (float)sum;
    }
}

/* What products of integers need to know of a matrix. Without memory it is multiplied in f32. */
static void look_at(const pare_model *m, pare_linear *l, float *sums) {
    size_t rows = l->w.view.rows;
    bool *lowest = l->w.enc->codes && l->w.enc->packed ? pare_calloc(rows, sizeof *lowest) : NULL;
    l->act_codes = lowest != NULL;
    l->row_sums = sums;
    if (!lowest) return;
    pare_parallel_for(m->rt, rows, 16, sum_rows, &(sums_job){&l->w, sums, lowest});
    for (size_t r = 0; r < rows; r++) l->act_codes &= !lowest[r];
    pare_free(lowest);
}

/* Is it a matrix of which the file says nothing, beside others that share its input? */
static bool stays(const pare_model *m, const pare_linear *l, bool from_file) {
    const pare_source_tensor *t = from_file ? pare_source_find(m->source, l->name) : NULL;
    return from_file && (!t || !t->act.bits);
}

void pare_model_attach_act(pare_model *m, pare_act_sites *a) {
    m->act = a;
    float *sums = a->row_sums;
    for (size_t l = 0; l < a->n_layers; l++) {
        const pare_act_site *sites = a->sites + l * PARE_ACT_SITES;
        for (size_t i = 0; i < N_MATRICES; i++) {
            pare_linear *linear = matrix_of(m, l, i);
            if (!linear) continue;
            const pare_act_site *site = &sites[matrices[i].site];
            if (site->scheme->bits && !stays(m, linear, a->from_file)) {
                linear->act = site;
                if (site->scheme->bits == 8) look_at(m, linear, sums);
            }
            sums += linear->w.view.rows;
        }
        bool attention = sites[PARE_ACT_Q].scheme->bits > 0;
        m->weights.layers[l].act_qkv = attention ? sites + PARE_ACT_Q : NULL;
    }
}

void pare_model_detach_act(pare_model *m) {
    for (size_t l = 0; m->act && l < m->act->n_layers; l++) {
        for (size_t i = 0; i < N_MATRICES; i++) {
            pare_linear *linear = matrix_of(m, l, i);
            if (!linear) continue;
            linear->act = NULL;
            linear->row_sums = NULL;
            linear->act_codes = false;
        }
        m->weights.layers[l].act_qkv = NULL;
    }
    pare_act_sites_free(m->act);
    m->act = NULL;
}

/* ---- from files ---- */

/* The scheme and the grid of a site, from a matrix that takes its input there. */
static pare_status read_site(pare_act_sites *a, const pare_model *m, const pare_source_tensor *t,
                             size_t i, pare_error *err) {
    pare_act_grid grid = a->sites[i].grid, *to = &a->sites[i].grid;
    bool first = a->schemes[i].bits == 0;
    if (t->act.granularity == PARE_ACT_PER_TENSOR_STATIC)
        PARE_TRY(pare_source_act_grid(&grid, m->source, t, err));
    if (first) {
        a->schemes[i] = t->act;
        *to = grid;
    }
    if (pare_act_same_scheme(&a->schemes[i], &t->act) && to->s == grid.s && to->low == grid.low &&
        to->shift == grid.shift)
        return PARE_OK;
    return pare_fail(err, PARE_ERR_UNSUPPORTED,
                     "%s: %s: found another grid of inputs than that of the matrix before, which "
                     "has the same input",
                     pare_source_path(m->source), t->canonical);
}

static pare_status read_layer(pare_act_sites *a, const pare_model *m, size_t l, pare_error *err) {
    pare_act_scheme *schemes = a->schemes + l * PARE_ACT_SITES;
    size_t n = 0; /* of q, k, v */
    for (size_t i = 0; i < N_MATRICES; i++) {
        const pare_linear *linear = matrix_of(m, l, i);
        const pare_source_tensor *t = linear ? pare_source_find(m->source, linear->name) : NULL;
        if (!t || !t->act.bits) continue;
        PARE_TRY(read_site(a, m, t, l * PARE_ACT_SITES + matrices[i].site, err));
        for (size_t k = 0; k < matrices[i].n && t->act.bmm; k++, n++)
            schemes[matrices[i].first + k] = t->act;
    }
    if (n == 0 || n == PARE_ACT_SITES - PARE_ACT_INPUTS) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: block %zu: found bmm of some of q, k and v, expected it of all",
                     pare_source_path(m->source), l);
}

static pare_status read_sites(pare_act_sites *a, const pare_model *m, pare_error *err) {
    for (size_t l = 0; l < a->n_layers; l++) PARE_TRY(read_layer(a, m, l, err));
    return PARE_OK;
}

/* Has it also what attention multiplies? */
static bool has_bmm(const pare_act_sites *a, const pare_act_scheme *s) {
    for (size_t i = 0; i < a->n_layers * PARE_ACT_SITES; i++)
        if (i % PARE_ACT_SITES >= PARE_ACT_INPUTS && pare_act_same_scheme(&a->schemes[i], s))
            return true;
    return false;
}

size_t pare_act_scheme_text(char out[PARE_ACT_TEXT], const pare_act_scheme *s, bool bmm) {
    const bool usual = s->formula == PARE_ACT_DEFAULT;
    return (size_t)snprintf(out, PARE_ACT_TEXT, "a%d:act=%s%s%s%s%s", s->bits,
                            pare_act_granularities[s->granularity], s->symmetric ? ",sym=true" : "",
                            usual ? "" : ",formula=", usual ? "" : pare_act_formulas[s->formula],
                            bmm ? ",bmm=true" : "");
}

/* All that occur. */
static char *name_of(const pare_act_sites *a) {
    char text[256] = "", one[PARE_ACT_TEXT];
    size_t n = a->n_layers * PARE_ACT_SITES, len = 0;
    for (size_t i = 0; i < n; i++) {
        const pare_act_scheme *s = &a->schemes[i];
        size_t k = 0;
        while (k < i && !pare_act_same_scheme(&a->schemes[k], s)) k++;
        if (!s->bits || k < i || len > sizeof text - 96) continue;
        pare_act_scheme_text(one, s, has_bmm(a, s));
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%s", len ? " + " : "", one);
    }
    return pare_strdup(text);
}

pare_status pare_act_load(pare_model *m, pare_error *err) {
    pare_act_sites *a;
    if (!pare_source_act(m->source)) return PARE_OK;
    PARE_TRY(pare_act_sites_create(&a, m, NULL, err));
    a->from_file = true;
    pare_status st = read_sites(a, m, err);
    a->text = name_of(a);
    if (st == PARE_OK && !a->text) st = fail_memory(err);
    if (st != PARE_OK) {
        pare_act_sites_free(a);
        return st;
    }
    pare_model_attach_act(m, a);
    return PARE_OK;
}

/* ---- weights ---- */

static pare_status encode(pare_tensor *out, const pare_model *m, const pare_linear *l,
                          const pare_encoding *enc, pare_act_round_fn round, void *arg,
                          pare_error *err) {
    size_t rows = l->w.view.rows, cols = l->w.view.cols, bytes = rows * cols * sizeof(float);
    if (cols % enc->block_len != 0)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found rows of %zu, expected a multiple of %u for %s", l->name, cols,
                         enc->block_len, enc->name);
    float *w = pare_big_alloc(bytes),
          *scale = pare_malloc(rows * pare_grid_groups(enc->grid, cols), sizeof *scale);
    pare_status st = w && scale ? PARE_OK : fail_memory(err);
    if (st == PARE_OK) {
        pare_tensor_decode(m->rt, w, &l->w);
        st = round(arg, enc, l->name, w, rows, cols, scale, err);
    }
    if (st == PARE_OK)
        st = pare_tensor_encode_grid(m->rt, out, enc, w, rows, cols, scale, NULL, err);
    if (st == PARE_OK) st = pare_tensor_repack(out, pare_runtime_isa(m->rt), err);
    if (w) pare_big_free(w, bytes);
    pare_free(scale);
    return st == PARE_OK ? st : pare_fail_prefix(err, "%s", l->name);
}

static size_t bytes_of(const pare_tensor *t) {
    size_t n = 0;
    for (size_t i = 0; i < PARE_MAX_PARTS; i++) n += t->part_bytes[i];
    return n;
}

pare_status pare_act_quantize_weights(pare_act_sites *a, pare_model *m, const pare_encoding *enc,
                                      pare_act_round_fn round, void *arg, pare_error *err) {
    for (size_t l = 0; l < a->n_layers; l++)
        for (size_t i = 0; i < N_MATRICES; i++) {
            pare_linear *linear = matrix_of(m, l, i);
            if (!linear) continue;
            if (linear->w.enc->codes) {
                a->n_kept++;
                continue;
            }
            pare_tensor t = {0};
            PARE_TRY(pare_check_cancel(m->rt, err));
            PARE_TRY(encode(&t, m, linear, enc, round, arg, err));
            a->bytes_changed += (ptrdiff_t)bytes_of(&t) - (ptrdiff_t)bytes_of(&linear->w);
            a->weights[a->n_weights++] = t;
            linear->w = t;
            linear->w.storage = NULL; /* a's */
        }
    return PARE_OK;
}

/* ---- passes that only look ---- */

void pare_act_pause(pare_act_sites *a) {
    size_t n = a->n_layers * PARE_ACT_SITES, threads = (size_t)a->n_threads;
    for (size_t i = 0; i < n * threads; i++) a->seen[i] = pare_act_range_none;
    for (size_t i = 0; i < n; i++) a->sites[i].seen = a->seen + i * threads;
}

void pare_act_go_on(pare_act_sites *a) {
    for (size_t i = 0; i < a->n_layers * PARE_ACT_SITES; i++) a->sites[i].seen = NULL;
}

/* ---- static ranges ---- */

static pare_status end_calibration(pare_act_sites *a, pare_error *err) {
    static const char *const names[PARE_ACT_SITES] = {"the input of q, k, v",
                                                      "the input of attn_output",
                                                      "the input of gate and up",
                                                      "the input of ffn_down",
                                                      "q",
                                                      "k",
                                                      "v"};
    pare_status st = PARE_OK;
    for (size_t i = 0; i < a->n_layers * PARE_ACT_SITES; i++) {
        size_t layer = i / PARE_ACT_SITES, site = i % PARE_ACT_SITES;
        pare_act_range r = pare_act_range_none;
        for (int t = 0; t < a->n_threads; t++)
            r = pare_act_range_join(r, a->seen[i * (size_t)a->n_threads + (size_t)t]);
        bool used = a->schemes[i].bits > 0;
        if (st == PARE_OK && used && !pare_act_range_tells(r))
            st = pare_fail(err, PARE_ERR_INPUT,
                           "calibration: block %zu, %s: found %s, expected a text that shows its "
                           "range: a static grid would cut off what comes later (act=per_token "
                           "needs no range)",
                           layer, names[site],
                           r.min > r.max ? "nothing" : "values of 0 or next to it only");
        if (st == PARE_OK && used && (!isfinite(r.min) || !isfinite(r.max)))
            st = pare_fail(err, PARE_ERR_INPUT,
                           "calibration: block %zu, %s: found NaN or infinity, expected finite "
                           "activations",
                           layer, names[site]);
        pare_act_set_range(a, layer, site, r);
    }
    pare_act_go_on(a);
    return st;
}

pare_status pare_act_calibrate(pare_model *m, const int32_t *ids, size_t n, size_t ctx,
                               pare_compute compute, pare_error *err) {
    pare_session *s = NULL;
    pare_session_options so = {.n_ctx = ctx, .n_batch = ctx, .compute = compute};
    pare_act_pause(m->act);
    pare_status st = pare_session_create(&s, m, &so, err);
    for (size_t i = 0; st == PARE_OK && i < n; i++) {
        pare_session_truncate(s, 0);
        st = pare_session_eval(s, ids + i * ctx, ctx, NULL, err);
        pare_progress(m->rt, "calibrate", (double)(i + 1), (double)n, "sequences");
    }
    pare_session_free(s);
    pare_error own = {0};
    pare_status ranges = end_calibration(m->act, st == PARE_OK ? err : &own);
    return st == PARE_OK ? ranges : st;
}

#include "train/hessian.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/runtime.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 128 /* signs of one call of the generator */, GRAIN = 64 /* of blocks */ };
static const double R = 1e-3, LEAST_SCALE = 1e-3;

/* One trained tensor. */
typedef struct part {
    const pare_train_tensor *t;
    float *live;     /* what the forward pass reads: t->forward or t->w */
    float *kept, *h; /* [n] */
    float *mean;     /* [n] of the samples so far; h where there is one */
    const uint64_t *mask;
    size_t n;
    double scale;
    uint64_t stream;
} part;

struct pare_hessian {
    pare_runtime *rt;
    part *parts; /* [n] */
    const float **values;
    size_t n;
    uint64_t seed, step, sample, n_samples;
    uint8_t *memory;
    size_t bytes;
};

/* ---- signs ---- */

static uint64_t stream_of(const char *name) {
    return (uint64_t)0x68657373 << 32 | pare_crc32(0, name, strlen(name)); /* "hess" */
}

/* Of up to 64 samples; 2^26 blocks are more weights than a tensor has. */
static void draw(uint32_t bits[4], uint64_t seed, uint64_t step, uint64_t sample, uint64_t stream,
                 size_t block) {
    pare_philox(bits, seed, stream, step << 32 | sample << 26 | block);
}

static float sign_of(const uint32_t bits[4], size_t k) {
    return bits[k / 32] >> k % 32 & 1 ? 1.0f : -1.0f;
}

float pare_hessian_sign(uint64_t seed, uint64_t step, const char *name, size_t i) {
    uint32_t bits[4];
    draw(bits, seed, step, 0, stream_of(name), i / BLOCK);
    return sign_of(bits, i % BLOCK);
}

/* ---- memory ---- */

pare_status pare_hessian_create(pare_hessian **out, const pare_train_weights *weights,
                                int n_samples, pare_error *err) {
    *out = NULL;
    pare_hessian *h = pare_calloc(1, sizeof *h);
    if (h) {
        h->n_samples = (uint64_t)n_samples;
        h->rt = weights->model->rt;
        h->parts = pare_calloc(weights->n, sizeof *h->parts);
        h->values = pare_calloc(weights->n, sizeof *h->values);
    }
    pare_arena arena = {.capacity = SIZE_MAX};
    for (int pass = 0; h && h->parts && h->values && pass < 2; pass++) { /* sizes, then places */
        h->n = 0;
        for (size_t i = 0; i < weights->n; i++) {
            const pare_train_tensor *t = &weights->tensors[i];
            if (!t->grad) continue;
            part *p = &h->parts[h->n];
            size_t n = t->rows * t->cols;
            *p = (part){.t = t,
                        .live = t->forward ? t->forward : t->w,
                        .kept = pare_arena_alloc(&arena, n, sizeof(float)),
                        .h = pare_arena_alloc(&arena, n, sizeof(float)),
                        .n = n,
                        .stream = stream_of(t->name)};
            p->mean = n_samples > 1 ? pare_arena_alloc(&arena, n, sizeof(float)) : p->h;
            h->values[h->n++] = p->mean;
        }
        if (pass == 1) break;
        h->bytes = arena.peak;
        if (!(h->memory = pare_big_alloc(h->bytes))) break;
        arena = (pare_arena){.base = h->memory, .capacity = h->bytes};
    }
    if (h && h->memory) {
        *out = h;
        return PARE_OK;
    }
    pare_hessian_free(h);
    return pare_fail(err, PARE_ERR_NOMEM, "training: memory for the Hessian's diagonal");
}

void pare_hessian_free(pare_hessian *h) {
    if (!h) return;
    if (h->memory) pare_big_free(h->memory, h->bytes);
    pare_free(h->values);
    pare_free(h->parts);
    pare_free(h);
}

size_t pare_hessian_bytes(const pare_hessian *h) { return h->bytes; }

const float *const *pare_hessian_values(const pare_hessian *h) { return h->values; }

/* ---- passes over a tensor, in blocks of BLOCK values ---- */

typedef struct pass_job {
    const pare_hessian *h;
    const part *p;
    int sign;
} pass_job;

static bool is_masked(const part *p, size_t i) {
    return p->mask && !(p->mask[i / 64] >> i % 64 & 1);
}

static void move_blocks(void *arg, size_t begin, size_t end) {
    const pass_job *j = arg;
    const part *p = j->p;
    float d = (float)(j->sign * R * p->scale);
    for (size_t block = begin; block < end; block++) {
        uint32_t bits[4];
        size_t first = block * BLOCK, last = first + BLOCK < p->n ? first + BLOCK : p->n;
        draw(bits, j->h->seed, j->h->step, j->h->sample, p->stream, block);
        for (size_t i = first; i < last; i++)
            p->live[i] = is_masked(p, i) ? p->kept[i] : p->kept[i] + d * sign_of(bits, i - first);
    }
}

static void take_blocks(void *arg, size_t begin, size_t end) {
    const pass_job *j = arg;
    const part *p = j->p;
    const float *g = p->t->grad;
    bool none = p->t->fresh; /* no gradient came by */
    float scale = (float)(1 / (2 * R * p->scale)), part = 1.0f / (float)j->h->n_samples;
    const uint64_t sample = j->h->sample;
    for (size_t block = begin; block < end; block++) {
        uint32_t bits[4];
        size_t first = block * BLOCK, last = first + BLOCK < p->n ? first + BLOCK : p->n;
        draw(bits, j->h->seed, j->h->step, sample, p->stream, block);
        for (size_t i = first; i < last; i++) {
            float value = none ? 0.0f : g[i];
            if (j->sign > 0) {
                p->h[i] = value;
                continue;
            }
            value = is_masked(p, i) ? 0.0f : (p->h[i] - value) * scale * sign_of(bits, i - first);
            p->mean[i] = sample ? p->mean[i] + part * value : part * value;
        }
    }
}

static void run_all(const pare_hessian *h, void (*fn)(void *, size_t, size_t), int sign) {
    for (size_t i = 0; i < h->n; i++) {
        pass_job j = {h, &h->parts[i], sign};
        pare_parallel_for(h->rt, (h->parts[i].n + BLOCK - 1) / BLOCK, GRAIN, fn, &j);
    }
}

/* Of the weights that are not 0: pruned ones would make the way shorter. */
static double rms(const float *w, size_t n) {
    double sum = 0;
    size_t live = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)w[i] * (double)w[i];
        live += w[i] != 0;
    }
    return live ? sqrt(sum / (double)live) : 0;
}

void pare_hessian_begin(pare_hessian *h, uint64_t seed, uint64_t step,
                        const uint64_t *const *masks) {
    h->seed = seed;
    h->step = step;
    h->sample = 0;
    for (size_t i = 0; i < h->n; i++) {
        part *p = &h->parts[i];
        memcpy(p->kept, p->live, p->n * sizeof *p->kept);
        p->scale = fmax(rms(p->kept, p->n), LEAST_SCALE);
        p->mask = masks ? masks[i] : NULL;
    }
}

void pare_hessian_move(pare_hessian *h, int sign) {
    if (sign) {
        run_all(h, move_blocks, sign);
        return;
    }
    for (size_t i = 0; i < h->n; i++)
        memcpy(h->parts[i].live, h->parts[i].kept, h->parts[i].n * sizeof(float));
}

void pare_hessian_take(pare_hessian *h, int sign) {
    run_all(h, take_blocks, sign);
    h->sample += sign < 0;
}

/* The loss against a teacher's distributions (Gemma 2, arXiv:2408.00118): the teacher's entropy
 * where the student is the teacher, cross-entropy where a distribution is one word, a plain f64
 * reading and its differences else. Heads are the unit matrix, so that inputs are logits. */
#include "support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/tape.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/runtime.h"

enum { ROWS = 5, VOCAB = 40, N = ROWS * VOCAB };

typedef struct run_state {
    const float *x, *taught; /* [ROWS][VOCAB] logits; taught NULL: no teacher */
    float temperature, hard, cap, taught_cap;
    float nll[ROWS], dx[N];
    uint8_t *memory, *shadow, *work, *linear;
    size_t memory_bytes, work_bytes, linear_bytes;
} run_state;

static float unit[VOCAB * VOCAB];
static const int32_t targets[ROWS] = {3, 0, 39, -1, 17}; /* the fourth does not count */

static void program(pare_fwd *f, run_state *s) {
    float *x = pare_fwd_alloc(f, N, sizeof *x), *nll = pare_fwd_alloc(f, ROWS, sizeof *nll);
    bool planning = pare_fwd_planning(f);
    pare_tensor head = pare_tensor_wrap(pare_encoding_find("f32"), unit, VOCAB, VOCAB);
    pare_teacher teacher = {.name = "teacher",
                            .head = &head,
                            .y = s->taught,
                            .dim = VOCAB,
                            .softcap = s->taught_cap,
                            .temperature = s->temperature,
                            .hard = s->hard};
    pare_ce ce = {.name = "student",
                  .head = &head,
                  .targets = targets,
                  .scale = 1,
                  .softcap = s->cap,
                  .room = 2 * VOCAB,
                  .teacher = s->taught ? &teacher : NULL};
    if (!planning) memcpy(x, s->x, N * sizeof *x);
    pare_op_cross_entropy(f, nll, x, ROWS, VOCAB, &ce);
    if (planning) return;
    memcpy(s->nll, nll, sizeof s->nll);
    memcpy(s->dx, pare_tape_shadow(f, x), sizeof s->dx);
}

static void thread_main(pare_worker *w, void *arg) {
    run_state *s = arg;
    pare_tape tape = {.work = {.base = s->work, .capacity = s->work_bytes}, .shadow = s->shadow};
    pare_fwd f = {.w = w,
                  .isa = pare_isa_best(),
                  .compute = PARE_COMPUTE_EXACT,
                  .many = true,
                  .k = pare_op_kernels_get(pare_isa_best()),
                  .arena = {.base = s->memory, .capacity = s->memory_bytes},
                  .linear_scratch = s->linear,
                  .linear_bytes = s->linear_bytes,
                  .tape = &tape};
    program(&f, s);
}

static void run(run_state *s) {
    pare_worker worker;
    pare_tape tape = {.saves = {.capacity = SIZE_MAX}, .work = {.capacity = SIZE_MAX}};
    pare_fwd plan = pare_fwd_plan(&worker, 1, pare_isa_best(), PARE_COMPUTE_EXACT);
    plan.own.capacity = 0;
    plan.many = true;
    plan.tape = &tape;
    for (size_t i = 0; i < VOCAB; i++) unit[i * VOCAB + i] = 1;
    program(&plan, s);
    s->memory_bytes = plan.arena.peak + 64;
    s->work_bytes = tape.work.peak + 64;
    s->linear_bytes = plan.linear_bytes + 64;
    s->memory = pare_big_alloc(s->memory_bytes);
    s->shadow = pare_big_alloc(s->memory_bytes);
    s->work = pare_big_alloc(s->work_bytes);
    s->linear = pare_big_alloc(s->linear_bytes);
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    pare_team_run(rt, thread_main, s);
    pare_runtime_free(rt);
    pare_big_free(s->memory, s->memory_bytes);
    pare_big_free(s->shadow, s->memory_bytes);
    pare_big_free(s->work, s->work_bytes);
    pare_big_free(s->linear, s->linear_bytes);
}

static void fill(float *x, uint64_t stream) {
    for (size_t i = 0; i < N; i++) x[i] = 2 * pare_rng_normal(5, stream, i);
}

/* log softmax(cap(z) / t) of a row, in f64 */
static void log_softmax(double *out, const double *z, double cap, double t) {
    double sum = 0;
    for (size_t i = 0; i < VOCAB; i++) {
        out[i] = (cap > 0 ? cap * tanh(z[i] / cap) : z[i]) / t;
        sum += exp(out[i]);
    }
    for (size_t i = 0; i < VOCAB; i++) out[i] -= log(sum);
}

static double reading(const double *z, const float *taught, const run_state *s, int32_t target) {
    double t[VOCAB], p[VOCAB], q[VOCAB], hard[VOCAB], soft = 0;
    for (size_t i = 0; i < VOCAB; i++) t[i] = (double)taught[i];
    log_softmax(p, t, (double)s->taught_cap, (double)s->temperature);
    log_softmax(q, z, (double)s->cap, (double)s->temperature);
    log_softmax(hard, z, (double)s->cap, 1);
    for (size_t i = 0; i < VOCAB; i++) soft -= exp(p[i]) * q[i];
    double tt = (double)s->temperature * (double)s->temperature, part = (double)s->hard;
    return -part * hard[target] + (1 - part) * tt * soft;
}

static void itself_is_its_entropy(void **state) {
    (void)state;
    float x[N];
    fill(x, 1);
    for (int k = 0; k < 4; k++) {
        run_state s = {.x = x,
                       .taught = x,
                       .temperature = k % 2 ? 2 : 1,
                       .cap = k > 1 ? 3 : 0,
                       .taught_cap = k > 1 ? 3 : 0};
        run(&s);
        for (size_t r = 0; r < ROWS; r++) {
            double z[VOCAB], p[VOCAB], entropy = 0;
            for (size_t i = 0; i < VOCAB; i++) z[i] = (double)x[r * VOCAB + i];
            log_softmax(p, z, (double)s.cap, (double)s.temperature);
            for (size_t i = 0; i < VOCAB; i++) entropy -= exp(p[i]) * p[i];
            double expected = targets[r] < 0 ? 0 : (k % 2 ? 4 : 1) * entropy;
            assert_float_equal(s.nll[r], expected, 1e-5);
        }
        for (size_t i = 0; i < N; i++) assert_float_equal(s.dx[i], 0, 1e-6);
    }
}

static void one_word_is_cross_entropy(void **state) {
    (void)state;
    float x[N], taught[N] = {0};
    fill(x, 2);
    for (size_t r = 0; r < ROWS; r++)
        if (targets[r] >= 0) taught[r * VOCAB + (size_t)targets[r]] = 200;
    run_state plain = {.x = x}, soft = {.x = x, .taught = taught, .temperature = 1};
    run(&plain);
    run(&soft);
    for (size_t r = 0; r < ROWS; r++) assert_float_equal(soft.nll[r], plain.nll[r], 2e-6);
    for (size_t i = 0; i < N; i++) assert_float_equal(soft.dx[i], plain.dx[i], 1e-6);
}

static void mixtures_follow_their_reading(void **state) {
    (void)state;
    static const float mixtures[][4] = {
        {1, 0, 0, 0}, {2, 0.3f, 0, 0}, {1.5f, 0.5f, 4, 6}, {3, 0, 5, 0}, {0.5f, 0.9f, 0, 2}};
    float x[N], taught[N];
    fill(x, 3);
    fill(taught, 4);
    for (size_t k = 0; k < 5; k++) {
        const float *m = mixtures[k];
        run_state s = {.x = x,
                       .taught = taught,
                       .temperature = m[0],
                       .hard = m[1],
                       .cap = m[2],
                       .taught_cap = m[3]};
        run(&s);
        for (size_t r = 0; r < ROWS; r++) {
            double z[VOCAB];
            const float *t = taught + r * VOCAB;
            if (targets[r] < 0) {
                for (size_t i = 0; i < VOCAB; i++) assert_true(s.dx[r * VOCAB + i] == 0);
                continue;
            }
            for (size_t i = 0; i < VOCAB; i++) z[i] = (double)x[r * VOCAB + i];
            double expected = reading(z, t, &s, targets[r]);
            assert_float_equal(s.nll[r], expected, 1e-5 * (1 + expected));
            for (size_t i = 0; i < VOCAB; i++) {
                const double h = 1e-5;
                z[i] += h;
                double up = reading(z, t, &s, targets[r]);
                z[i] -= 2 * h;
                double slope = (up - reading(z, t, &s, targets[r])) / (2 * h);
                z[i] += h;
                assert_float_equal(s.dx[r * VOCAB + i], slope, 2e-5);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(itself_is_its_entropy),
                                       cmocka_unit_test(one_word_is_cross_entropy),
                                       cmocka_unit_test(mixtures_follow_their_reading)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

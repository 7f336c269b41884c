/* dx += dy W and dW (+)= dy^T x against sums in f64: shapes with tails, every kind of encoding,
 * both modes, rows of a matrix, accumulated and not, one thread and three. Built a second time with
 * PARE_EMULATE for levels that the machine lacks. */
#include "support/levels.h"
#include "support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "kernels/tile.h"
#include "tensor/linear.h"

typedef struct call {
    size_t n, out, in, row0, rows; /* rows 0: all */
    pare_compute compute;
    pare_isa isa;
    const pare_tensor *w, *x;
    const float *dy;
    float *dx, *dw;
    bool add;
    void *scratch;
} call;

static void run(pare_worker *w, void *arg) {
    const call *c = arg;
    size_t width = c->rows ? c->rows : c->out;
    pare_linear_grad g = {c->w, c->dy, width + 3, c->row0, c->rows};
    pare_linear_backward_input(w, c->isa, c->compute, c->scratch, c->dx, c->in + 1, c->n, &g, 1);
    pare_linear_backward_weight(w, c->isa, c->compute, c->scratch, c->dw, c->dy, width + 3, width,
                                c->x, c->add, NULL, 0);
}

static float *normal(size_t n, uint64_t stream) {
    float *v = pare_calloc(n + 16, sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = pare_rng_normal(3, stream, i);
    return v;
}

/* Largest difference over the size of a sum of that length. */
static void check(const char *what, const call *c, const float *got, size_t ld, const double *want,
                  size_t rows, size_t cols, double tol) {
    double scale = 0;
    for (size_t i = 0; i < rows * cols; i++) scale += want[i] * want[i];
    scale = sqrt(scale / (double)(rows * cols));
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            if (!(fabs((double)got[i * ld + j] - want[i * cols + j]) <= tol * scale))
                fail_msg("%s, %s, %s, %s, %zu x %zu x %zu: [%zu][%zu] found %g, expected %g", what,
                         c->w->enc->name, pare_isa_name(c->isa),
                         c->compute == PARE_COMPUTE_EXACT ? "exact" : "fast", c->n, c->out, c->in,
                         i, j, (double)got[i * ld + j], want[i * cols + j]);
}

static void one(const char *encoding, size_t n, size_t out, size_t in, size_t row0, size_t rows) {
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    size_t width = rows ? rows : out, ldy = width + 3;
    float *w = normal(out * in, 1), *x = normal(n * in, 2), *dy = normal(n * ldy, 3);
    float *decoded = pare_calloc(out * in + 1, sizeof *decoded);
    pare_tensor wt;
    assert_ok(pare_tensor_encode(rt, &wt, pare_encoding_find(encoding), w, out, in, NULL, err));
    pare_tensor_decode(rt, decoded, &wt);
    pare_runtime_free(rt);
    pare_tensor xt = pare_tensor_wrap(pare_encoding_find("f32"), x, n, in);
    double *dx = pare_calloc(n * in, sizeof *dx), *dw = pare_calloc(width * in, sizeof *dw);
    for (size_t i = 0; i < n; i++)
        for (size_t o = 0; o < width; o++)
            for (size_t j = 0; j < in; j++) {
                dx[i * in + j] += (double)dy[i * ldy + o] * (double)decoded[(row0 + o) * in + j];
                dw[o * in + j] += (double)dy[i * ldy + o] * (double)x[i * in + j];
            }
    for (size_t i = 0; i < n * in; i++) dx[i] += 1; /* what stood there before */
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++)
        for (int mode = 0; mode < 2; mode++) {
            float *first = NULL;
            for (int threads = 1; threads <= 3; threads += 2) {
                pare_compute compute = mode ? PARE_COMPUTE_FAST : PARE_COMPUTE_EXACT;
                size_t bytes = pare_linear_backward_scratch_bytes(n, width, threads, compute);
                call c = {n,   out, in, row0, rows, compute,      (pare_isa)isa,
                          &wt, &xt, dy, NULL, NULL, threads == 3, pare_big_alloc(bytes)};
                c.dx = pare_calloc(n * (in + 1), sizeof(float));
                c.dw = pare_calloc(width * in, sizeof(float)); /* zero: with and without add */
                for (size_t i = 0; i < n * (in + 1); i++) c.dx[i] = 1;
                pare_runtime *team = test_runtime(threads, (pare_isa)isa);
                pare_team_run(team, run, &c);
                pare_runtime_free(team);
                bool half = mode && pare_tile_kernels_get((pare_isa)isa)->bf16;
                check("dx", &c, c.dx, in + 1, dx, n, in, half ? 4e-2 : 2e-5);
                check("dw", &c, c.dw, in, dw, width, in, half ? 4e-2 : 2e-5);
                if (first) assert_memory_equal(first, c.dx, n * (in + 1) * sizeof(float));
                pare_big_free(c.scratch, bytes);
                pare_free(c.dw);
                if (first)
                    pare_free(c.dx);
                else
                    first = c.dx;
            }
            pare_free(first);
        }
    pare_tensor_free(&wt);
    pare_free(decoded);
    pare_free(w);
    pare_free(x);
    pare_free(dy);
    pare_free(dx);
    pare_free(dw);
}

static void all_shapes(void **state) {
    (void)state;
    const size_t shapes[][3] = {{1, 1, 1},     {3, 17, 15},   {16, 16, 16}, {33, 40, 31},
                                {64, 300, 48}, {300, 20, 70}, {7, 520, 33}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        one("f32", shapes[i][0], shapes[i][1], shapes[i][2], 0, 0);
    one("f32", 30, 50, 40, 7, 21); /* rows of a matrix */
}

static void all_encodings(void **state) {
    (void)state;
    const char *names[] = {"f16", "bf16", "q4_0", "q8_0", "q4_k", "q6_k", "g4_64"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (pare_encoding_find(names[i])) one(names[i], 19, 37, 512, 0, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_shapes),
                                       cmocka_unit_test(all_encodings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Distributions: JaxPruner's vectors of ERK, lists by block, OWL by hand and by its invariants. */
#include "support/test.h"

#include "methods/distribution.h"

#include <math.h>
#include <stdlib.h>

static pare_dist_tensor tensor(size_t n_dims, size_t a, size_t b, size_t c) {
    return (pare_dist_tensor){
        .name = "t", .dims = {a, b, c}, .n_dims = n_dims, .layer = PARE_NO_LAYER, .fixed = NAN};
}

static void assert_erk(const pare_dist_tensor *t, size_t n, double sparsity, double power,
                       bool kernel, const double *expected, double tolerance) {
    double share[8];
    assert_ok(pare_distribution_erk(share, t, n, sparsity, power, kernel, err));
    for (size_t i = 0; i < n; i++)
        if (fabs(share[i] - expected[i]) > tolerance)
            fail_msg("tensor %zu at %g: found %.4f, expected %g", i, sparsity, share[i],
                     expected[i]);
}

/* The published numbers have two or three places: they are rounded or cut. */
static void erk_of_jaxpruner(void **state) {
    (void)state;
    pare_dist_tensor t[] = {tensor(2, 2, 4, 0), tensor(2, 3, 6, 0), tensor(3, 2, 4, 6)};
    assert_erk(t, 3, 0.5, 1, true, (double[]){0, .31, .655}, 0.01);
    assert_erk(t, 3, 0.5, 1, false, (double[]){.21, .47, .56}, 0.01);
    assert_erk(t, 3, 0.8, 1, true, (double[]){.556, .70, .85}, 0.01);
    assert_erk(t, 3, 0.5, 2, true, (double[]){0, .033, .758}, 0.01);
    pare_dist_tensor u[] = {tensor(2, 2, 4, 0), tensor(3, 3, 6, 7), tensor(2, 7, 4, 0)};
    assert_erk(u, 3, 0.5, 1, true, (double[]){0, .64, 0}, 0.01);
    u[2].fixed = 0.1;
    assert_erk(u, 3, 0.5, 1, true, (double[]){0, .53, .1}, 0.01);
}

/* sum s N = S sum N, up to the floors; equal tensors get equal shares; all within [0, 1]. */
static void erk_keeps_the_total(void **state) {
    (void)state;
    pare_dist_tensor t[] = {tensor(2, 576, 576, 0),  tensor(2, 192, 576, 0), tensor(2, 192, 576, 0),
                            tensor(2, 1536, 576, 0), tensor(2, 4, 4, 0),     tensor(2, 1, 1, 0)};
    for (double s = 0; s <= 1; s += 0.05) {
        double share[6], zeros = 0, values = 0, wanted = 0;
        assert_ok(pare_distribution_erk(share, t, 6, s, 1, true, err));
        for (size_t i = 0; i < 6; i++) {
            double n = (double)(t[i].dims[0] * t[i].dims[1]);
            assert_true(share[i] >= 0 && share[i] <= 1);
            zeros += share[i] * n;
            wanted += floor(s * n);
            values += n;
        }
        if (fabs(zeros - wanted) > 1e-6 * values) fail_msg("%g: found %g", s, zeros / values);
        assert_true(share[1] == share[2]);
        assert_true(share[4] <= share[0]);
    }
}

static void erk_at_its_limits(void **state) {
    (void)state;
    pare_dist_tensor t[] = {tensor(2, 8, 8, 0), tensor(2, 64, 64, 0)};
    double share[2];
    assert_erk(t, 2, 0, 1, true, (double[]){0, 0}, 1e-12);
    assert_erk(t, 2, 1, 1, true, (double[]){1, 1}, 1e-12);
    assert_erk(t, 1, 0.5, 1, true, (double[]){0.5}, 1e-12);
    t[0].fixed = 0.25;
    t[1].fixed = 0.75; /* nothing is left to share out: the reference divides by zero */
    assert_erk(t, 2, 0.5, 1, true, (double[]){0.25, 0.75}, 0);
    assert_fails(pare_distribution_erk(share, t, 2, 1.5, 1, true, err), PARE_ERR_ARG, "0 to 1");
    assert_fails(pare_distribution_erk(share, t, 2, NAN, 1, true, err), PARE_ERR_ARG, "0 to 1");
    assert_fails(pare_distribution_erk(share, t, 0, 0.5, 1, true, err), PARE_ERR_ARG, "no tensors");
}

static pare_prune_options options(double share, int dist) {
    return (pare_prune_options){
        .sparsity = {share, 0, 0}, .dist = dist, .owl_m = 5, .owl_lambda = 0.08};
}

static void uniform_and_lists(void **state) {
    (void)state;
    pare_dist_tensor t[] = {tensor(2, 8, 8, 0), tensor(2, 4, 4, 0), tensor(2, 4, 4, 0)};
    for (size_t i = 0; i < 3; i++) t[i].layer = i / 2;
    pare_prune_options o = options(0.3, PARE_DIST_UNIFORM);
    const double outliers[] = {0.01, 0.02};
    const pare_dist_blocks blocks = {2, outliers};
    double share[3];
    t[2].fixed = 0.9;
    assert_ok(pare_distribution(share, t, 3, &o, &blocks, err));
    assert_true(share[0] == 0.3 && share[1] == 0.3 && share[2] == 0.9);
    t[2].fixed = NAN;
    o.layers = (pare_shares){2, {0.25, 0.75}};
    assert_ok(pare_distribution(share, t, 3, &o, &blocks, err));
    assert_true(share[0] == 0.25 && share[1] == 0.25 && share[2] == 0.75);
    o.layers.n = 3;
    assert_fails(pare_distribution(share, t, 3, &o, &blocks, err), PARE_ERR_ARG,
                 "found 3 shares, expected 2");
    o.layers.n = 2;
    t[1].layer = PARE_NO_LAYER;
    assert_fails(pare_distribution(share, t, 3, &o, &blocks, err), PARE_ERR_ARG,
                 "tensors of blocks");
    o = options(0.3, PARE_DIST_OWL);
    assert_fails(pare_distribution(share, t, 3, &o, &blocks, err), PARE_ERR_ARG,
                 "tensors of blocks");
}

/* Outliers of 1, 2 and 5 percent, lambda 0.08: densities 0, 0.04 and 0.16 around their mean of
 * 0.0667; the block without tensors counts for nothing. */
static void owl_by_hand(void **state) {
    (void)state;
    pare_dist_tensor t[] = {tensor(2, 8, 8, 0), tensor(2, 8, 8, 0), tensor(2, 8, 8, 0)};
    for (size_t i = 0; i < 3; i++) t[i].layer = i + (i == 2);
    pare_prune_options o = options(0.7, PARE_DIST_OWL);
    const double outliers[] = {0.01, 0.02, NAN, 0.05};
    const pare_dist_blocks blocks = {4, outliers};
    double share[3];
    assert_ok(pare_distribution(share, t, 3, &o, &blocks, err));
    const double mean = 0.2 / 3;
    assert_true(fabs(share[0] - (0.7 + mean)) < 1e-12);
    assert_true(fabs(share[1] - (0.7 + mean - 0.04)) < 1e-12);
    assert_true(fabs(share[2] - (0.7 + mean - 0.16)) < 1e-12);
    assert_true(fabs(share[0] + share[1] + share[2] - 3 * 0.7) < 1e-12);
    o.owl_lambda = 0; /* uniform */
    assert_ok(pare_distribution(share, t, 3, &o, &blocks, err));
    assert_true(share[0] == 0.7 && share[2] == 0.7);
    const double equal[] = {0.01, 0.01, 0.01, 0.01};
    const pare_dist_blocks same = {4, equal};
    o.owl_lambda = 0.08;
    assert_ok(pare_distribution(share, t, 3, &o, &same, err));
    assert_true(share[0] == 0.7 && share[1] == 0.7);
    o.sparsity.share = 0.02; /* a share cannot be below 0 */
    assert_ok(pare_distribution(share, t, 3, &o, &blocks, err));
    assert_true(share[2] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(erk_of_jaxpruner),  cmocka_unit_test(erk_keeps_the_total),
        cmocka_unit_test(erk_at_its_limits), cmocka_unit_test(uniform_and_lists),
        cmocka_unit_test(owl_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

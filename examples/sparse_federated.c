/* Federated learning with pruning on the server: in each round clients train a copy of the model on
 * data of their own, and the mean of (old weights - client's weights) is the gradient of the
 * server's optimizer, around which the pruner is put. Clients know nothing of masks; each gets the
 * weights as they are, zeros included.
 *
 * The model is logistic regression of 10 classes; every client sees three of them only.
 *
 *     build/examples/sparse_federated [SPARSE_TRAINING] */
#include "pare/optim.h"
#include "pare/sparsity.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CLASSES = 10, IN = 64, N = CLASSES * IN, CLIENTS = 12, EXAMPLES = 30, ROUNDS = 120 };

static float normal(void) { /* near enough: a sum of uniform numbers */
    static unsigned long long state = 3;
    float sum = 0;
    for (int i = 0; i < 12; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(state >> 40) * 0x1p-24f;
    }
    return sum - 6;
}

typedef struct client {
    float x[EXAMPLES][IN];
    int label[EXAMPLES];
} client;

/* Of a class a few inputs are shifted; the others are noise. */
static void draw_example(float *x, int label) {
    for (int i = 0; i < IN; i++) x[i] = normal() + (i % CLASSES == label ? 1.5f : 0.0f);
}

static void softmax_of(float p[CLASSES], const float *w, const float *x) {
    float most = -1e30f, sum = 0;
    for (int c = 0; c < CLASSES; c++) {
        p[c] = 0;
        for (int i = 0; i < IN; i++) p[c] += w[c * IN + i] * x[i];
        if (p[c] > most) most = p[c];
    }
    for (int c = 0; c < CLASSES; c++) sum += p[c] = expf(p[c] - most);
    for (int c = 0; c < CLASSES; c++) p[c] /= sum;
}

/* A client's epoch of gradient descent from the server's weights. */
static void train_client(float *w, const client *k) {
    for (int e = 0; e < EXAMPLES; e++) {
        float p[CLASSES];
        softmax_of(p, w, k->x[e]);
        p[k->label[e]] -= 1;
        for (int c = 0; c < CLASSES; c++)
            for (int i = 0; i < IN; i++) w[c * IN + i] -= 0.02f * p[c] * k->x[e][i];
    }
}

static float accuracy(const float *w, const client *test) {
    int right = 0;
    for (int e = 0; e < EXAMPLES; e++) {
        float p[CLASSES];
        int best = 0;
        softmax_of(p, w, test->x[e]);
        for (int c = 1; c < CLASSES; c++)
            if (p[c] > p[best]) best = c;
        right += best == test->label[e];
    }
    return (float)right / EXAMPLES;
}

int main(int argc, char **argv) {
    const char *spec = argc > 1 ? argv[1] : "magnitude:sparsity=0.8,every=5";
    static client clients[CLIENTS], tests[20];
    static float w[N], delta[N], local[N];
    const pare_trained tensor = {.name = "w", .dims = {CLASSES, IN}, .n_dims = 2, .w = w};
    pare_options options = pare_options_default();
    pare_runtime *rt = NULL;
    pare_pruner *pruner = NULL;
    pare_optim *server = NULL;
    pare_error err = {0};
    float *g = delta;
    options.n_threads = 1;
    for (int k = 0; k < CLIENTS; k++)
        for (int e = 0; e < EXAMPLES; e++)
            draw_example(clients[k].x[e], clients[k].label[e] = (k + e % 3) % CLASSES);
    for (int k = 0; k < 20; k++)
        for (int e = 0; e < EXAMPLES; e++)
            draw_example(tests[k].x[e], tests[k].label[e] = (k + e) % CLASSES);
    pare_status st = pare_runtime_create(&rt, &options, &err);
    if (st == PARE_OK) st = pare_pruner_create(&pruner, rt, spec, &tensor, 1, ROUNDS, &err);
    if (st == PARE_OK)
        st = pare_optim_create(&server, rt, "adam:lr=0.01,eps=1e-4", &tensor, 1, &err);
    for (int round = 0; st == PARE_OK && round < ROUNDS; round++) {
        const pare_stepper stepper = pare_optim_stepper(server);
        pare_optim_args args = pare_optim_args_default();
        args.g = &g;
        st = pare_pruner_pre_forward(pruner, &err);
        if (st != PARE_OK) break;
        memset(delta, 0, sizeof delta);
        for (int k = 0; k < CLIENTS; k++) {
            memcpy(local, w, sizeof w);
            train_client(local, &clients[k]);
            for (int i = 0; i < N; i++) delta[i] += (w[i] - local[i]) / CLIENTS;
        }
        st = pare_pruner_update(pruner, &stepper, &args, &err);
    }
    if (st != PARE_OK) {
        fprintf(stderr, "sparse_federated: %s\n", err.message);
    } else {
        pare_sparsity_stats s;
        float right = 0;
        for (int k = 0; k < 20; k++) right += accuracy(w, &tests[k]) / 20;
        pare_sparsity_summary(&s, NULL, &tensor, 1);
        printf("%s: %d rounds of %d clients, accuracy %.3f, %.1f%% zeros\n",
               pare_pruner_text(pruner), ROUNDS, CLIENTS, (double)right, 100 * s.sparsity);
        if (argc == 1 && right < 0.8f) st = PARE_ERR_INTERNAL; /* `make check` runs it */
    }
    pare_optim_free(server);
    pare_pruner_free(pruner);
    pare_runtime_free(rt);
    return pare_status_exit_code(st);
}

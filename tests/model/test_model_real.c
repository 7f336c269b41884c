/* Real models, where they are (scripts/models.sh): the greedy continuations that transformers gives
 * from the same file in f32, loading time, memory. */
#include "support/test.h"

#include "base/memory.h"
#include "base/os.h"
#include "pare/model.h"

#include <stdio.h>
#include <string.h>

enum { MOST = 64 };

/* transformers 5.24 on the de-quantized file, eager attention, f32 */
typedef struct greedy {
    const char *model;
    int32_t prompt[MOST];
    size_t n_prompt;
    int32_t next[MOST];
    size_t n_next;
} greedy;

static const greedy cases[] = {
    /* "The capital of France is" */
    {"smollm2",
     {504, 3575, 282, 4649, 314},
     5,
     {7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40, 29, 32, 33},
     16},
    {"gemma3",
     {2,    818,    5279, 529, 7001, 563,    9079,   236761, 107, 236776, 236788, 496,
      1293, 236764, 506,  531, 568,  236770, 236771, 2369,   532, 1156,   2,      2369,
      10,   20,     30,   40,  50,   60,     70,     80,     90,  100},
     34,
     {43134, 506, 2269, 236787, 107, 236769, 236746, 236768, 669, 1171, 236772, 2400},
     12},
};

static int32_t largest(const float *logits, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

static void greedy_as_transformers(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        const greedy *g = &cases[k];
        const char *path = test_model(g->model);
        if (!path) continue;
        pare_model *m;
        pare_session *s;
        double begin = pare_now_s();
        assert_ok(pare_model_load(&m, rt, path, err));
        double loaded = pare_now_s() - begin;
        pare_session_options o = {.n_ctx = 128, .compute = PARE_COMPUTE_EXACT};
        assert_ok(pare_session_create(&s, m, &o, err));
        size_t vocab = pare_model_vocab_size(m);
        float *logits = pare_malloc(vocab, sizeof *logits);
        assert_ok(pare_session_eval(s, g->prompt, g->n_prompt, logits, err));
        for (size_t i = 0; i < g->n_next; i++) {
            int32_t id = largest(logits, vocab);
            if (id != g->next[i]) fail_msg("%s: token %zu is %d", g->model, i, (int)id);
            assert_ok(pare_session_eval(s, &id, 1, logits, err));
        }
        /* the promise: file + cache + 100 MiB */
        uint64_t most = pare_model_weight_bytes(m) + pare_session_kv_bytes(s) + (100u << 20);
        printf("  %s: loaded in %.2f s, peak %.0f MiB of at most %.0f\n", g->model, loaded,
               (double)pare_peak_rss_bytes() / 1048576, (double)most / 1048576);
#if !defined(__SANITIZE_ADDRESS__)
        assert_true(pare_peak_rss_bytes() <= most);
#endif
        pare_free(logits);
        pare_session_free(s);
        pare_model_free(m);
    }
    pare_runtime_free(rt);
}

static void every_byte_is_sound(void **state) {
    (void)state;
    const char *path = test_model("smollm2");
    if (!path) return;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    pare_description *d;
    assert_ok(pare_describe(&d, path, err));
    const pare_model_info *info = pare_description_info(d);
    assert_string_equal(info->arch, "llama");
    assert_int_equal(info->n_params, 134515008);
    assert_true(info->tied_embeddings);
    assert_ok(pare_description_verify(d, rt, err));
    pare_description_free(d);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_as_transformers),
        cmocka_unit_test(every_byte_is_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

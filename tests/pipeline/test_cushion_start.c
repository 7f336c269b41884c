/* What a search begins with: PrefixQuant's tokens, on models whose weights carry massive
 * activations at chosen tokens, and a prompt's. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "methods/cushion_search.h"
#include "model/model.h"
#include "model/prefix.h"
#include "pipeline/cushion.h"

#include <jansson.h>
#include <stdio.h>

enum { BOS = 256, TEXTS = 4, N = 40, MOST = 8 };

static void defaults(pare_cushion_options *o) {
    pare_method_defaults(pare_method_find("cushioncache"), o);
}

static const char *text_file(void) {
    static char text[6000];
    size_t n = 0;
    for (int i = 0; n + 60 < sizeof text; i++)
        n += (size_t)sprintf(text + n, " Line %d , of a text with words .\n", i * i);
    return test_write("start.txt", text, n);
}

/* --- the choice, on texts by hand --- */

typedef struct choice {
    const char *texts[TEXTS]; /* their beginnings; what follows carries nothing */
    size_t most;              /* 0: MOST */
    bool no_bos;
    int32_t ids[4]; /* expected, up to a 0 */
} choice;

static const choice choices[] = {
    {{"ab,", "a,b", "abcd,", "abc,"}, 0, false, {',', BOS}},
    {{"abc", "abc", "abc", "abc"}, 0, false, {BOS}},
    /* the most frequent first, as many as a text has of them */
    {{"a,bwcw", "awbw,", "aww,", "aw,w"}, 0, false, {'w', ',', BOS}},
    /* one in each text: one token, though there are two kinds */
    {{"aw", "bw", "cw", "d,"}, 0, false, {'w', BOS}},
    /* one in four texts is more than none */
    {{"a", "b", "c", "d,"}, 0, false, {',', BOS}},
    /* five in four texts are two a text */
    {{"aw", "bw", "cw", "d,w"}, 0, false, {'w', ',', BOS}},
    /* a first token counts as an outlier of its text, but is not chosen */
    {{"#a,", "#a,", "#a,", "#a,"}, 0, false, {',', BOS}},
    /* of equals the lowest id */
    {{"a,", "b#", "c,", "d#"}, 0, false, {'#', BOS}},
    /* room for BOS first */
    {{"aw,", "bw,", "cw", "dw"}, 2, false, {'w', BOS}},
    {{"aw,", "bw,", "cw", "dw"}, 1, false, {BOS}},
    {{"aw,", "bw,", "cw", "dw"}, 0, true, {'w', ','}},
};

static size_t chosen(int32_t *ids, pare_model *m, const choice *c) {
    int32_t texts[TEXTS * N];
    size_t n;
    for (size_t t = 0; t < TEXTS; t++) {
        const size_t given = strlen(c->texts[t]);
        for (size_t i = 0; i < N; i++)
            texts[t * N + i] = i < given ? c->texts[t][i] : (int32_t)('e' + (i * i + t) % 11);
    }
    assert_ok(pare_cushion_outlier_tokens(ids, &n, c->most ? c->most : MOST, m, texts, TEXTS, N,
                                          c->no_bos ? -1 : BOS, PARE_COMPUTE_EXACT, err));
    return n;
}

static void outliers(void **state) {
    (void)state;
    for (int threads = 1; threads <= 3; threads += 2) {
        pare_runtime *rt = test_runtime(threads, PARE_ISA_AMX);
        pare_model *marked, *plain;
        assert_ok(pare_model_load(&marked, rt,
                                  tiny_model("marked", &(tiny_options){.outliers = "#,w"}), err));
        assert_ok(pare_model_load(&plain, rt, tiny_model("plain", NULL), err));
        for (size_t k = 0; k < sizeof choices / sizeof *choices; k++) {
            const choice *c = &choices[k];
            int32_t ids[MOST];
            size_t n = chosen(ids, marked, c), wanted = 0;
            while (wanted < 4 && c->ids[wanted]) wanted++;
            if (n != wanted || memcmp(ids, c->ids, n * sizeof *ids) != 0)
                fail_msg("choice %zu: found %zu tokens, the first %d, expected %zu, the first %d",
                         k, n, (int)ids[0], wanted, (int)c->ids[0]);
            /* without massive activations nothing stands out */
            n = chosen(ids, plain, c);
            assert_int_equal(n, !c->no_bos);
            if (n) assert_int_equal(ids[0], BOS);
        }
        pare_model_free(marked);
        pare_model_free(plain);
        pare_runtime_free(rt);
    }
}

/* --- what begins a prefix --- */

static void check_prefix(pare_runtime *rt, const char *model, const pare_prefix *p,
                         const int32_t *ids, size_t n) {
    pare_model *m;
    pare_prefix *same;
    assert_int_equal(p->attn.n, n);
    assert_memory_equal(p->ids, ids, n * sizeof *ids);
    assert_ok(pare_model_load(&m, rt, model, err));
    assert_ok(pare_prefix_from_ids(&same, m, ids, n, err));
    assert_memory_equal(p->values, same->values, p->bytes);
    pare_prefix_free(same);
    pare_model_free(m);
}

/* A file's texts, in which every line has a comma: the prefix is that and BOS; the search goes on
 * behind it. */
static void begun_by_outliers(void **state) {
    (void)state;
    static const int32_t start[] = {',', BOS};
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_cushion_options o;
    defaults(&o);
    o.n = 12;
    o.texts = 1;
    o.pool = 8;
    o.epochs = 0;
    o.start = PARE_CUSHION_START_OUTLIERS;
    const pare_cushion_input in = {.model = tiny_model("commas", &(tiny_options){.outliers = ","}),
                                   .text = text_file(),
                                   .options = &o};
    for (int more = 0; more < 2; more++) {
        pare_prefix *p;
        char *record;
        o.tau = more ? 1e6 : 0; /* 0: nothing is added */
        o.max_len = more ? 3 : 8;
        assert_ok(pare_cushion_make(&p, &record, rt, &in, err));
        json_t *found = json_loads(record, 0, NULL);
        const json_t *ids = json_object_get(found, "start_ids");
        assert_int_equal(json_array_size(ids), 2);
        for (size_t i = 0; i < 2; i++)
            assert_int_equal(json_integer_value(json_array_get(ids, i)), start[i]);
        assert_int_equal(json_array_size(json_object_get(found, "steps")), more);
        assert_memory_equal(p->ids, start, sizeof start);
        if (more)
            assert_int_equal(p->attn.n, 3);
        else
            check_prefix(rt, in.model, p, start, 2);
        json_decref(found);
        pare_prefix_free(p);
        pare_free(record);
    }
    pare_runtime_free(rt);
}

/* A prompt's tokens, with their own keys and values. */
static void prompts(void **state) {
    (void)state;
    static const int32_t three[] = {'a', ' ', 'b'};
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_cushion_options o;
    pare_prefix *p;
    char *record;
    defaults(&o);
    o.n = 12;
    o.texts = 1;
    o.pool = 8;
    o.tau = 0;
    o.epochs = 0;
    o.max_len = 3;
    const pare_cushion_input in = {
        .model = tiny_model("dense", NULL), .text = text_file(), .options = &o};
    snprintf(o.prompt.s, sizeof o.prompt.s, "%s", "a b");
    assert_ok(pare_cushion_make(&p, &record, rt, &in, err));
    check_prefix(rt, in.model, p, three, 3);
    pare_prefix_free(p);
    pare_free(record);
    snprintf(o.prompt.s, sizeof o.prompt.s, "%s", "a b c");
    assert_fails(pare_cushion_make(&p, &record, rt, &in, err), PARE_ERR_ARG, "at most 3 (max_len)");
    o.start = PARE_CUSHION_START_BOS;
    assert_fails(pare_cushion_make(&p, &record, rt, &in, err), PARE_ERR_ARG, "prompt and start");
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outliers), cmocka_unit_test(begun_by_outliers), cmocka_unit_test(prompts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

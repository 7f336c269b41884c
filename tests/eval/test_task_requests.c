/* Tasks without a model: requests by hand for each rule, refusals that name file and line, metrics
 * by hand, and the hashes, counts and scores that are known for the real files. */
#include "support/test.h"

#include "eval/task.h"
#include "support/tokenizer_build.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static pare_span all(const char *s) { return (pare_span){s, strlen(s)}; }

static void parse(pare_task_set *set, const char *task, const char *rows, const char *labels) {
    pare_span l = labels ? all(labels) : (pare_span){0};
    assert_ok(pare_task_parse(set, pare_task_find(task), "x.jsonl", all(rows), labels ? &l : NULL,
                              0, err));
}

static void expect_request(const pare_task_set *set, size_t i, const char *context,
                           const char *continuation, size_t n_chars) {
    assert_true(i < set->n_requests);
    const pare_task_request *r = &set->requests[i];
    pare_span c = pare_task_span(set, r->context), k = pare_task_span(set, r->continuation);
    if (c.n != strlen(context) || memcmp(c.s, context, c.n) != 0)
        fail_msg("context '%.*s', expected '%s'", (int)c.n, c.s, context);
    if (k.n != strlen(continuation) || memcmp(k.s, continuation, k.n) != 0)
        fail_msg("continuation '%.*s', expected '%s'", (int)k.n, k.s, continuation);
    assert_int_equal(r->n_chars, n_chars);
}

/* --- requests by hand --- */

static void lambada(void **state) {
    (void)state;
    pare_task_set s;
    parse(&s, "lambada_openai",
          "{\"text\": \"a b  c the\\ngloves\"}\n\n{\"text\": \"x \\\"Nadia\"}\r\n", NULL);
    assert_int_equal(s.n_docs, 2);
    expect_request(&s, 0, "a b  c", " the\ngloves", 10);
    expect_request(&s, 1, "x", " \"Nadia", 6);
    assert_int_equal(s.docs[1].line, 3);
    pare_task_set_free(&s);
}

/* Titles and brackets; what was before a removed "[substeps]" stays, its length counts. */
static void hellaswag(void **state) {
    (void)state;
    pare_task_set s;
    parse(&s, "hellaswag",
          "{\"activity_label\": \"Roof\", \"ctx_a\": \" A man [step] sits. [title]Now  go\","
          " \"ctx_b\": \"\xC3\xA9t\xC3\x89 HE\", \"label\": \"3\", \"endings\": ["
          "\"[substeps] is  up [x] \", \" a [title]b\", \"[open\\n] z]\", \"a[]b[[c]]\"]}\n"
          "{\"query\": \"Q: q\", \"choices\": [\" one\", \"two \"], \"gold\": 1}",
          NULL);
    expect_request(&s, 0, "Roof: A man sits.. Now go \xC3\x89t\xC3\xA9 he", "  is up ", 7);
    expect_request(&s, 1, "Roof: A man sits.. Now go \xC3\x89t\xC3\xA9 he", " a. b", 4);
    expect_request(&s, 2, "Roof: A man sits.. Now go \xC3\x89t\xC3\xA9 he", " [open\n] z]", 10);
    expect_request(&s, 3, "Roof: A man sits.. Now go \xC3\x89t\xC3\xA9 he", " ab]", 3);
    assert_int_equal(s.docs[0].gold, 3);
    expect_request(&s, 4, "Q: q", "  one", 4);
    expect_request(&s, 5, "Q: q", " two ", 4);
    assert_int_equal(s.docs[1].gold, 1);
    pare_task_set_free(&s);
}

static void pairs(void **state) {
    (void)state;
    pare_task_set s;
    parse(&s, "piqa", "{\"goal\": \"g\", \"sol1\": \"a \\n\", \"sol2\": \"\xE2\x82\xAC\"}", "1\n");
    expect_request(&s, 0, "Question: g\nAnswer:", " a \n", 3); /* taken as it is */
    expect_request(&s, 1, "Question: g\nAnswer:", " \xE2\x82\xAC", 1);
    assert_int_equal(s.docs[0].gold, 1);
    pare_task_set_free(&s);

    parse(&s, "winogrande",
          "{\"sentence\": \"So _ was \\u00a0late_. \", \"option1\": \"A\", \"option2\": \"B b\","
          " \"answer\": \"2\"}",
          NULL);
    expect_request(&s, 0, "So A", " was \xC2\xA0late_.", 11);
    expect_request(&s, 1, "So B b", " was \xC2\xA0late_.", 11);
    assert_int_equal(s.docs[0].gold, 1);
    pare_task_set_free(&s);

    parse(&s, "boolq", "{\"passage\": \"T -- p.\", \"question\": \"is it\", \"label\": 1}", NULL);
    expect_request(&s, 0, "T -- p.\nQuestion: is it?\nAnswer:", " no", 2);
    expect_request(&s, 1, "T -- p.\nQuestion: is it?\nAnswer:", " yes", 3);
    pare_task_set_free(&s);

    parse(&s, "rte",
          "{\"sentence1\": \"A.\", \"sentence2\": \"B.\", \"label\": 0}\n"
          "{\"premise\": \"A.\", \"hypothesis\": \"B.\", \"label\": 1}",
          NULL);
    for (size_t i = 0; i < 4; i++)
        expect_request(&s, i,
                       "A.\nQuestion: B. True or False?\nAnswer:", i % 2 ? " False" : " True",
                       i % 2 ? 5 : 4);
    pare_task_set_free(&s);
}

static void copa(void **state) {
    (void)state;
    static const char rows[] =
        "{\"premise\": \" I ran. \", \"choice1\": \"I fell.\", \"choice2\": \"\xC3\x89lan.\","
        " \"question\": \"cause\", \"label\": 0}\n"
        "{\"premise\": \"It rained.\", \"choice1\": \"A\", \"choice2\": \"\","
        " \"question\": \"effect\", \"label\": 1}\n";
    pare_task_set s;
    parse(&s, "copa", rows, NULL);
    expect_request(&s, 0, "I ran because", "  i fell.", 7);
    expect_request(&s, 1, "I ran because", "  \xC3\xA9lan.", 5);
    expect_request(&s, 2, "It rained therefore", "  a", 1);
    expect_request(&s, 3, "It rained therefore", "  ", 0);
    pare_task_set_free(&s);
    parse(&s, "copa_one_space", rows, NULL);
    expect_request(&s, 0, "I ran because", " i fell.", 7);
    pare_task_set_free(&s);
}

/* Three to five choices; both forms in which the sets are handed round. */
static void science(void **state) {
    (void)state;
    pare_task_set s;
    parse(&s, "arc_easy",
          "{\"question\": \"q?\", \"choices\": [\"a\", \"b\", \"c\"], \"gold\": 2}\n"
          "{\"question\": \"q?\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"1\", "
          "\"2\"]}, \"answerKey\": \"2\"}",
          NULL);
    expect_request(&s, 2, "Question: q?\nAnswer:", " c", 1);
    assert_int_equal(s.docs[0].gold, 2);
    assert_int_equal(s.docs[1].gold, 1);
    pare_task_set_free(&s);
    parse(&s, "openbookqa",
          "{\"question_stem\": \"It\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\", "
          "\"B\"]}, \"answerKey\": \"A\"}",
          NULL);
    expect_request(&s, 1, "It", " b", 1);
    assert_int_equal(s.docs[0].gold, 0);
    pare_task_set_free(&s);
}

/* --- refusals --- */

static void refused(const char *task, const char *rows, const char *labels, const char *told) {
    pare_task_set s;
    pare_span l = labels ? all(labels) : (pare_span){0};
    assert_fails(pare_task_parse(&s, pare_task_find(task), "dir/x.jsonl", all(rows),
                                 labels ? &l : NULL, 0, err),
                 PARE_ERR_INPUT, told);
    assert_null(s.docs);
    pare_task_set_free(&s);
}

static void refusals(void **state) {
    (void)state;
    refused("rte", "{\"sentence1\": \"a\"}", NULL, "dir/x.jsonl: line 1: sentence2: found none");
    refused("rte", "\n{\"sentence1\": \"a\", \"sentence2\": 3}", NULL,
            "dir/x.jsonl: line 2: sentence2: found 3, expected a string");
    refused("rte", "{\"sentence1\": \"a\",", NULL, "dir/x.jsonl: line 1: line 1, column");
    refused("rte", "{\"sentence1\": \"a\", \"sentence2\": \"b\", \"label\": 2}", NULL,
            "line 1: label: found 2, expected an integer 0 to 1");
    refused("rte", "{\"sentence1\": \"a\", \"sentence2\": \"b\", \"label\": \"-1\"}", NULL,
            "line 1: label: found \"-1\"");
    refused("rte", "[]", NULL, "line 1: sentence1: found none");
    refused("rte", "\xEF\xBB\xBF{}", NULL, "a byte order mark");
    refused("rte", " \n\n", NULL, "dir/x.jsonl: found no rows");
    refused("lambada_openai", "{\"text\": \"word\"}", NULL, "found no space");
    refused("winogrande", "{\"sentence\": \"s\", \"option1\": \"\", \"option2\": \"\"}", NULL,
            "found no '_'");
    refused("winogrande",
            "{\"sentence\": \"_\", \"option1\": \"\", \"option2\": \"\", \"answer\": \"0\"}", NULL,
            "answer: found \"0\", expected an integer 1 to 2");
    refused("copa", "{\"premise\": \"\", \"question\": \"why\"}", NULL, "\"cause\" or \"effect\"");
    refused("arc_easy", "{\"question\": \"\", \"choices\": [\"a\"], \"gold\": 0}", NULL,
            "choices: found 1 choices, expected 2 to 10");
    refused("arc_easy", "{\"question\": \"\", \"choices\": [\"a\", null], \"gold\": 0}", NULL,
            "choices.1: found none");
    refused("arc_easy",
            "{\"question\": \"\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\", "
            "\"B\"]}, \"answerKey\": \"C\"}",
            NULL, "answerKey: found \"C\", expected a choice's label");
    static const char row[] = "{\"goal\": \"\", \"sol1\": \"a\", \"sol2\": \"b\"}\n";
    refused("piqa", row, "", "found 0 labels");
    refused("piqa", row, "2", "line 1: found label 2, expected 0 to 1");
    refused("piqa", row, "x", "label of line 1: found \"x\", expected a digit");
    refused("piqa", row, "0\n1\n", "more labels than rows");
    assert_null(pare_task_find("piqa2"));

    pare_task_set s;
    assert_fails(pare_task_load(&s, pare_task_find("piqa"), test_folder(), 0, err), PARE_ERR_INPUT,
                 "piqa/valid.jsonl: found no such file, expected the data of task piqa");
}

/* --- tokens --- */

static int32_t leaves_bos = -1; /* pare_task_leave_bos is called with it */
/* The tokens of the first request as "context|continuation". */
static void expect_tokens(const char *file, const char *text, pare_bos bos, size_t ctx_max,
                          const char *expected) {
    char row[256], got[512];
    size_t n = 0;
    snprintf(row, sizeof row, "{\"text\": \"%s\"}", text);
    pare_tokenizer *tok;
    pare_task_set set;
    pare_task_tokens t;
    parse(&set, "lambada_openai", row, NULL);
    assert_ok(pare_tokenizer_load(&tok, file, err));
    assert_ok(pare_task_encode(&t, &set, tok, bos, ctx_max, err));
    if (leaves_bos >= 0) pare_task_leave_bos(&t, leaves_bos);
    const pare_task_item *item = &t.items[0];
    for (size_t i = 0; i < item->n_context + item->n_scored; i++)
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%d",
                              i == item->n_context ? "|"
                              : i                  ? " "
                                                   : "",
                              (int)t.ids.data[item->at + i]);
    assert_string_equal(got, expected);
    if (leaves_bos < 0) assert_int_equal(t.n_cut, t.ids.n > item->n_context + item->n_scored);
    pare_task_tokens_free(&t);
    pare_tokenizer_free(tok);
    pare_task_set_free(&set);
}

/* A byte-level tokenizer (97 is "a", 258 " a", 256 "ab"), without BOS and with one that it adds by
 * itself. */
static void bos_and_cuts(void **state) {
    (void)state;
    test_tokenizer spec = test_tokenizer_default();
    const char *plain = test_tokenizer_write(&spec, "tokenizer.json");
    expect_tokens(plain, "ab a", PARE_BOS_AUTO, 0, "256|258");
    expect_tokens(plain, "ab a", PARE_BOS_NEVER, 0, "256|258");
    /* white space at the context's end goes to the continuation, where " a" may not be a token */
    expect_tokens(plain, "ab\\n a", PARE_BOS_AUTO, 0, "256|10 258");
    /* the last tokens stay: two of three are read, the last is predicted */
    expect_tokens(plain, "ba a", PARE_BOS_AUTO, 2, "98 97|258");
    expect_tokens(plain, "bba a", PARE_BOS_AUTO, 2, "98 97|258");

    spec.post = "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
                "\"<s>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
                "\"pair\": [], \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [259], "
                "\"tokens\": [\"<s>\"]}}}";
    const char *with = test_tokenizer_write(&spec, "with_bos.json");
    expect_tokens(with, "ab a", PARE_BOS_AUTO, 0, "259 256|258");
    expect_tokens(with, "ab a", PARE_BOS_ALWAYS, 0, "259 256|258"); /* not twice */
    expect_tokens(with, "ab a", PARE_BOS_NEVER, 0, "256|258");
    expect_tokens(with, "aab a", PARE_BOS_AUTO, 2, "97 256|258"); /* BOS is cut as well */

    /* behind a prefix that holds it */
    leaves_bos = 259;
    expect_tokens(with, "ab a", PARE_BOS_AUTO, 0, "256|258");
    expect_tokens(with, "aab a", PARE_BOS_AUTO, 2, "97 256|258");
    expect_tokens(with, " a", PARE_BOS_AUTO, 0, "259|258"); /* something has to be read */
    leaves_bos = 258;
    expect_tokens(with, "ab a", PARE_BOS_AUTO, 0, "259 256|258");
    leaves_bos = -1;
}

/* --- metrics by hand --- */

static void metrics(void **state) {
    (void)state;
    pare_task_set s;
    parse(&s, "arc_easy",
          "{\"question\": \"\", \"choices\": [\"a\", \"bcd\", \"\"], \"gold\": 0}\n"
          "{\"question\": \"\", \"choices\": [\"a\", \"bc\"], \"gold\": 1}\n"
          "{\"question\": \"\", \"choices\": [\"ab\", \"c\"], \"gold\": 0}\n",
          NULL);
    /* a tie goes to the first; a choice without characters loses by acc_norm */
    pare_task_score score[7] = {{.ll = -3}, {.ll = -3},   {.ll = -4}, {.ll = -2},
                                {.ll = -3}, {.ll = -2.5}, {.ll = -2}};
    pare_task_grade g, base;
    pare_task_result r = {0};
    assert_ok(pare_task_grade_make(&g, &s, score, err));
    assert_true(g.right[0] && !g.right[1] && !g.right[2]);
    assert_true(!g.right_norm[0] && g.right_norm[1] && g.right_norm[2]);
    pare_task_grade_result(&r, &g);
    assert_true(r.acc == 1.0 / 3 && r.acc_norm == 2.0 / 3 && isnan(r.ppl) && r.n == 3);
    assert_true(fabs(r.acc_stderr - sqrt(2.0 / 9 / 2)) < 1e-15);

    score[3].ll = -9; /* the second document becomes right, the third stays wrong */
    assert_ok(pare_task_grade_make(&base, &s, score, err));
    pare_task_pair p;
    pare_task_grade_pair(&p, &g, &base);
    assert_true(p.gained == 0 && p.lost == 1 && p.base_acc == 2.0 / 3 && p.diff == -1.0 / 3);
    /* d = 0, -1, 0: deviation sqrt(1/3), error 1/3 */
    assert_true(fabs(p.diff_stderr - 1.0 / 3) < 1e-15);
    assert_true(p.gained_norm == 0 && p.lost_norm == 0 && p.diff_norm_stderr == 0);
    pare_task_grade_free(&base);

    score[0].ll = NAN;
    pare_task_grade_free(&g);
    assert_fails(pare_task_grade_make(&g, &s, score, err), PARE_ERR_INPUT,
                 "x.jsonl: line 1, request 0: found a log-likelihood of nan");
    pare_task_set_free(&s);

    pare_task_result many[2] = {
        {.name = "piqa", .acc = 0.5, .acc_stderr = 0.3, .acc_norm = 0.9, .acc_norm_stderr = 0.1},
        {.name = "arc_challenge",
         .acc = 0.2,
         .acc_stderr = 0.4,
         .acc_norm = 0.3,
         .acc_norm_stderr = 0.4}};
    pare_task_mean m = pare_task_mean_of(many, 2);
    assert_true(fabs(m.acc - 0.35) < 1e-15 && fabs(m.acc_stderr - 0.25) < 1e-15);
    assert_true(fabs(m.quoted - 0.4) < 1e-15 && fabs(m.quoted_stderr - 0.25) < 1e-15);
}

static void word_perplexity(void **state) {
    (void)state;
    pare_task_set s;
    parse(&s, "lambada_openai", "{\"text\": \"a b\"}\n{\"text\": \"c d\"}\n", NULL);
    const pare_task_score score[2] = {{.ll = -1, .greedy = true}, {.ll = -3}};
    pare_task_grade g;
    pare_task_result r = {0};
    assert_ok(pare_task_grade_make(&g, &s, score, err));
    pare_task_grade_result(&r, &g);
    assert_true(r.acc == 0.5 && isnan(r.acc_norm) && fabs(r.ppl - exp(2)) < 1e-12);
    assert_true(fabs(r.ppl_stderr - exp(2) * sqrt(2) / sqrt(2)) < 1e-12);
    pare_task_grade_free(&g);
    pare_task_set_free(&s);
}

/* --- oracles of the real files --- */

typedef struct oracle {
    const char *task, *sha;
    size_t n_requests, n_context, n_scored;
    uint32_t crc32;
    size_t right, right_norm; /* of the dummy; 0 = not asked */
} oracle;

/* From an independent implementation in Python; all but those of copa, hellaswag and the validation
 * splits are also those that lm-evaluation-harness 0.3 keeps for its own tests. BoolQ's tokens are
 * those of Hugging Face's tokenizers (two passages hold U+FEFF, which some take for white space).
 */
static const oracle oracles[] = {
    {"lambada_openai", "3bebc8bd705e0de1", 5153, 423657, 6573, 0x67ce866b, 0, 0},
    {"piqa", "88f89a90139d07e4", 3676, 49520, 84384, 0x6f913b40, 982, 890},
    {"winogrande", "736feae2d899ae96", 2534, 41661, 14214, 0xc62dde52, 628, 0},
    {"arc_easy", "ee96294c56114cc4", 9501, 261175, 42771, 0x493e1af4, 582, 632},
    {"arc_challenge", "2a4405f2b6e24951", 4687, 146142, 28089, 0xd1fcf5f4, 225, 319},
    {"openbookqa", "d2dfcac4c521e40e", 2000, 23508, 6782, 0xba239ee8, 74, 181},
    {"boolq", "e29af26d403eb569", 6540, 927066, 6540, 0x54a8d2d4, 1237, 0},
    {"rte", "d4b8e1c774a7e2e1", 554, 41674, 554, 0xfa02448c, 146, 0},
    {"copa", "262dc5d526590ae1", 200, 1530, 1523, 0x5e221391, 59, 0},
    {"copa_one_space", "0f67750d422f1d7a", 200, 1530, 1323, 0x787727ff, 59, 0},
    {"hellaswag", "839925660ed43b5c", 4000, 202500, 120611, 0x85c12f62, 276, 223},
    {"arc_easy_validation", "c20478ed5fe54350", 2281, 62761, 10088, 0xdbcf15ba, 159, 120},
    {"arc_challenge_validation", "a5215c23fb813eaa", 1194, 37715, 6897, 0xc714ec6e, 51, 86},
    {"openbookqa_validation", "19ef698bad5887db", 2000, 23540, 7414, 0x20ac170a, 80, 210},
};

static void check_texts(const pare_task_set *set, const oracle *o) {
    uint8_t digest[32];
    char hex[17];
    pare_task_sha256(digest, set);
    for (size_t i = 0; i < 8; i++) sprintf(hex + 2 * i, "%02x", digest[i]);
    assert_int_equal(set->n_requests, o->n_requests);
    assert_string_equal(hex, o->sha);
}

static size_t count(const bool *right, size_t n) {
    size_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += right[i];
    return sum;
}

/* ll = -(bytes of the continuation), without a model */
static void check_dummy(const pare_task_set *set, const oracle *o) {
    pare_task_score *scores = test_calloc(set->n_requests, sizeof *scores);
    for (size_t i = 0; i < set->n_requests; i++)
        scores[i].ll = -(double)set->requests[i].continuation.n;
    pare_task_grade g;
    assert_ok(pare_task_grade_make(&g, set, scores, err));
    if (o->right)
        assert_int_equal(count(g.right, set->n_docs), o->right);
    else
        assert_true(fabs(g.ll_mean - -6.680186) < 5e-7);
    if (o->right_norm) assert_int_equal(count(g.right_norm, set->n_docs), o->right_norm);
    assert_true((g.right_norm != NULL) == (o->right_norm > 0));
    pare_task_grade_free(&g);
    test_free(scores);
}

static void check_tokens(const pare_task_set *set, const oracle *o, const pare_tokenizer *tok) {
    pare_task_tokens t;
    assert_ok(pare_task_encode(&t, set, tok, PARE_BOS_AUTO, 1024, err));
    assert_int_equal(t.n_context, o->n_context);
    assert_int_equal(t.n_scored, o->n_scored);
    assert_int_equal(t.crc32, o->crc32);
    assert_true((t.n_cut > 0) == (strcmp(o->task, "boolq") == 0)); /* up to 1,059 tokens */
    pare_task_tokens_free(&t);
}

static void real_files(void **state) {
    (void)state;
    const char *folder = test_data("tasks"), *vocab = test_data("vocab/ggml-vocab-gpt-2.gguf");
    if (!folder) return;
    pare_tokenizer *tok = NULL;
    if (vocab) assert_ok(pare_tokenizer_load(&tok, vocab, err));
    for (size_t i = 0; i < sizeof oracles / sizeof oracles[0]; i++) {
        pare_task_set set;
        assert_ok(pare_task_load(&set, pare_task_find(oracles[i].task), folder, 0, err));
        check_texts(&set, &oracles[i]);
        check_dummy(&set, &oracles[i]);
        if (tok) check_tokens(&set, &oracles[i], tok);
        pare_task_set_free(&set);
    }
    pare_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lambada),         cmocka_unit_test(hellaswag),
        cmocka_unit_test(pairs),           cmocka_unit_test(copa),
        cmocka_unit_test(science),         cmocka_unit_test(refusals),
        cmocka_unit_test(bos_and_cuts),    cmocka_unit_test(metrics),
        cmocka_unit_test(word_perplexity), cmocka_unit_test(real_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* llama.cpp's own tasks: their files by hand and refused, which tokens are scored, what is
 * compared.
 */
#include "support/test.h"

#include "eval/task.h"
#include "support/tokenizer_build.h"

#include <stdio.h>
#include <string.h>

static pare_span all(const char *s) { return (pare_span){s, strlen(s)}; }

static void parse(pare_task_set *set, const char *task, pare_span text, size_t limit) {
    assert_ok(pare_task_parse(set, pare_task_find(task), "dir/x", text, NULL, limit, err));
}

static void refused(const char *task, pare_span text, const char *told) {
    pare_task_set s;
    assert_fails(pare_task_parse(&s, pare_task_find(task), "dir/x", text, NULL, 0, err),
                 PARE_ERR_INPUT, told);
    assert_null(s.docs);
}

static void expect_request(const pare_task_set *set, size_t i, const char *context,
                           const char *continuation) {
    assert_true(i < set->n_requests);
    pare_span c = pare_task_span(set, set->requests[i].context),
              k = pare_task_span(set, set->requests[i].continuation);
    if (c.n != strlen(context) || memcmp(c.s, context, c.n) != 0)
        fail_msg("context '%.*s', expected '%s'", (int)c.n, c.s, context);
    if (k.n != strlen(continuation) || memcmp(k.s, continuation, k.n) != 0)
        fail_msg("continuation '%.*s', expected '%s'", (int)k.n, k.s, continuation);
}

/* --- files --- */

static void six_lines(void **state) {
    (void)state;
    static const char two[] = "A: b.\n3\nc\nd\ne\nf\nB: {\r\n0\r\ng\r\nh\r\ni\r\nj";
    pare_task_set s;
    parse(&s, "llama_hellaswag", all(two), 0);
    assert_int_equal(s.n_docs, 2);
    expect_request(&s, 0, "A: b.", " c");
    expect_request(&s, 3, "A: b.", " f");
    expect_request(&s, 4, "B: {", " g");
    expect_request(&s, 7, "B: {", " j");
    assert_true(s.docs[0].gold == 3 && s.docs[1].gold == 0 && s.docs[1].line == 7);
    pare_task_set_free(&s);
    parse(&s, "llama_hellaswag", all(two), 1);
    assert_int_equal(s.n_docs, 1);
    pare_task_set_free(&s);

    refused("llama_hellaswag", all(""), "dir/x: found no rows");
    refused("llama_hellaswag", all("a\n1\nc\nd\ne\n"), "dir/x: line 1: found 5 lines of a task");
    refused("llama_hellaswag", all("a\n1\nc\nd\ne\nf\ng"), "line 7: found 1 lines");
    refused("llama_hellaswag", all("a\n4\nc\nd\ne\nf\n"), "line 2: found \"4\", expected");
    refused("llama_hellaswag", all("a\n\nc\nd\ne\nf\n"), "line 2: found an empty line");
}

static void sentences(void **state) {
    (void)state;
    pare_task_set s;
    parse(&s, "llama_winogrande",
          all("0,So _ was late _.,Ann,B b,2\r\n\n7,\"_, \"\"x\"\".\",\"a, b\",c,1"), 0);
    assert_int_equal(s.n_docs, 2);
    expect_request(&s, 0, "So Ann", " was late _.");
    expect_request(&s, 1, "So B b", " was late _.");
    expect_request(&s, 2, "a, b", ", \"x\".");
    expect_request(&s, 3, "c", ", \"x\".");
    assert_true(s.docs[0].gold == 1 && s.docs[1].gold == 0 && s.docs[1].line == 3);
    pare_task_set_free(&s);
    parse(&s, "llama_winogrande", /* the original's rows; nothing is stripped */
          all("{\"sentence\": \"_  c \", \"option1\": \"a\", \"option2\": \"b\", \"answer\": "
              "\"2\"}"),
          0);
    expect_request(&s, 1, "b", "  c ");
    assert_int_equal(s.docs[0].gold, 1);
    pare_task_set_free(&s);

    refused("llama_winogrande", all("0,a _,b,c"), "dir/x: line 1: found 4 fields, expected 5");
    refused("llama_winogrande", all("0,a _,b,c,3"), "answer: found \"3\", expected 1 or 2");
    refused("llama_winogrande", all("0,a _,b,c,1,2"), "answer: found \"1\"");
    refused("llama_winogrande", all("0,\"a _,b,c,1"), "found 2 fields");
    refused("llama_winogrande", all("\n0,a,b,c,1"), "line 2: sentence: found no '_'");
    refused("llama_winogrande", all("\n\n"), "found no rows");
}

static void add_text(test_bytes *b, const char *text) {
    tb_int(b, strlen(text), 4);
    tb_add(b, text, strlen(text));
}

static void add_list(test_bytes *b, const char *const *texts, const uint32_t *labels, size_t n) {
    tb_int(b, n, 4);
    for (size_t i = 0; i < n; i++) add_text(b, texts[i]);
    for (size_t i = 0; i < n; i++) tb_int(b, labels[i], 4);
}

/* Two tasks: of 3 and of 2 answers; the second has a second list. */
static test_bytes make_binary(void) {
    static const char *const one[] = {"a", "b c", "d"}, *const two[] = {"x", "y"};
    static const uint32_t right1[] = {0, 1, 0}, right2[] = {1, 0}, both[] = {1, 1};
    test_bytes b = {0}, first = {0};
    add_text(&first, "q?");
    add_list(&first, one, right1, 3);
    add_list(&first, NULL, NULL, 0);
    tb_int(&b, 2, 4);
    tb_int(&b, 12, 4);
    tb_int(&b, 12 + first.n, 4);
    tb_add(&b, first.p, first.n);
    add_text(&b, "r");
    add_list(&b, two, right2, 2);
    add_list(&b, two, both, 2);
    tb_free(&first);
    return b;
}

static pare_span span_of(const test_bytes *b) { return (pare_span){(const char *)b->p, b->n}; }

static void multiple_choice(void **state) {
    (void)state;
    test_bytes b = make_binary();
    pare_task_set s;
    parse(&s, "llama_arc_easy", span_of(&b), 0);
    assert_true(s.n_docs == 2 && s.n_requests == 5);
    expect_request(&s, 1, "q?", " b c");
    expect_request(&s, 4, "r", " y");
    assert_true(s.docs[0].gold == 1 && s.docs[1].gold == 0);
    pare_task_set_free(&s);
    parse(&s, "llama_arc_easy", span_of(&b), 1);
    assert_int_equal(s.n_docs, 1);
    pare_task_set_free(&s);

    size_t n = b.n;
    for (b.n = 0; b.n < n; b.n++) refused("llama_arc_easy", span_of(&b), "dir/x: task ");
    tb_zeros(&b, 1);
    refused("llama_arc_easy", span_of(&b), "found more bytes");
    b.n = n;
    /* one field bent at a time: number of tasks, a position, a text's length, answers, labels */
    static const struct {
        size_t at;
        uint8_t value;
        const char *told;
    } bent[] = {{0, 0, "no number of tasks that fit"},
                {3, 0x80, "no number of tasks that fit"},
                {8, 1, "task 2, byte "},
                {12, 0, "empty question"},
                {15, 0x80, "the end of the file"},
                {18, 0, "no number of answers"},
                {18, 101, "no number of answers"},
                {22, 0, "empty answer"},
                {43, 0, "none or several right"},
                {39, 1, "none or several right"}};
    for (size_t i = 0; i < sizeof bent / sizeof bent[0]; i++) {
        uint8_t before = b.p[bent[i].at];
        b.p[bent[i].at] = bent[i].value;
        refused("llama_arc_easy", span_of(&b), bent[i].told);
        b.p[bent[i].at] = before;
    }
    tb_free(&b);
}

/* --- tokens: a byte-level tokenizer, 97 is "a", 258 " a", 256 "ab" --- */

/* The tokens of every request as "context|scored", in lines. */
static void expect_tokens(const char *file, const char *task, const char *text, size_t ctx_max,
                          const char *expected) {
    char got[1024] = "";
    size_t n = 0;
    pare_tokenizer *tok;
    pare_task_set set;
    pare_task_tokens t;
    parse(&set, task, all(text), 0);
    assert_ok(pare_tokenizer_load(&tok, file, err));
    assert_ok(pare_task_encode(&t, &set, tok, PARE_BOS_AUTO, ctx_max, err));
    for (size_t r = 0; r < set.n_requests; r++) {
        const pare_task_item *item = &t.items[r];
        for (size_t i = 0; i < item->n_context + item->n_scored; i++)
            n += (size_t)snprintf(got + n, sizeof got - n, "%s%d",
                                  i == item->n_context ? "|"
                                  : i                  ? " "
                                                       : "",
                                  (int)t.ids.data[item->at + i]);
        n += (size_t)snprintf(got + n, sizeof got - n, "\n");
    }
    assert_string_equal(got, expected);
    pare_task_tokens_free(&t);
    pare_tokenizer_free(tok);
    pare_task_set_free(&set);
}

static void which_tokens(void **state) {
    (void)state;
    test_tokenizer spec = test_tokenizer_default();
    char plain[1024];
    snprintf(plain, sizeof plain, "%s", test_tokenizer_write(&spec, "tokenizer.json"));
    /* behind what all four begin with, the space of " b" too, and of the shorter one a token */
    expect_tokens(plain, "llama_hellaswag", "c\n0\nbb\nbbd\nbde\nb\n", 0,
                  "99 32|98 98\n99 32|98 98 100\n99 32|98 100 101\n99 32|98\n");
    expect_tokens(plain, "llama_hellaswag", "c\n0\nbb\nbbd\nbde\nbf\n", 0,
                  "99 32 98|98\n99 32 98|98 100\n99 32 98|100 101\n99 32 98|102\n");
    /* cut in front: three are read, the last one is predicted */
    expect_tokens(plain, "llama_hellaswag", "cccc\n0\nbb\nbb\nbde\nbf\n", 3,
                  "99 32 98|98\n99 32 98|98\n32 98|100 101\n99 32 98|102\n");
    /* more than 3 behind what is shared: only the rest of the sentence, without its last token */
    expect_tokens(plain, "llama_winogrande", "0,c_ d e,x,yy,1\n", 0,
                  "99 120|32 100 32\n99 121 121|32 100 32\n");
    /* not more than 3 of the first: options count; nothing before them is predicted */
    expect_tokens(plain, "llama_winogrande", "0,c_ d,x,yy,1\n", 0, "99|120 32\n99|121 121 32\n");
    expect_tokens(plain, "llama_winogrande", "0,_d,x,y,1\n", 0, "120|100\n121|100\n");

    spec.post = "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
                "\"<s>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
                "\"pair\": [], \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [259], "
                "\"tokens\": [\"<s>\"]}}}";
    const char *with = test_tokenizer_write(&spec, "with_bos.json");
    expect_tokens(with, "llama_winogrande", "0,_ d e,x,yy,1\n", 0,
                  "259 120|32 100 32\n259 121 121|32 100 32\n");
    expect_tokens(with, "llama_winogrande", "0,_d,x,y,1\n", 0, "259|120\n259|121\n");
}

/* --- the mean over tokens decides; of equals the first, of two sentences the second --- */

static void means(void **state) {
    (void)state;
    pare_task_set s;
    pare_task_grade g;
    parse(&s, "llama_hellaswag", all("a\n1\nc\nd\ne\nf\n"), 0);
    pare_task_score four[] = {
        {.ll = -4, .n = 2}, {.ll = -5, .n = 3}, {.ll = -9, .n = 4}, {.ll = -2, .n = 1}};
    assert_ok(pare_task_grade_make(&g, &s, four, err));
    assert_true(g.right[0] && !g.right_norm);
    pare_task_grade_free(&g);
    four[1].ll = -6; /* as the first */
    assert_ok(pare_task_grade_make(&g, &s, four, err));
    assert_false(g.right[0]);
    pare_task_grade_free(&g);
    pare_task_set_free(&s);

    parse(&s, "llama_winogrande", all("0,_,a,b,2\n"), 0);
    pare_task_score two[] = {{.ll = -4, .n = 2}, {.ll = -6, .n = 3}};
    assert_ok(pare_task_grade_make(&g, &s, two, err));
    assert_true(g.right[0]);
    pare_task_grade_free(&g);
    two[0].ll = -3.9;
    assert_ok(pare_task_grade_make(&g, &s, two, err));
    assert_false(g.right[0]);
    pare_task_grade_free(&g);
    pare_task_set_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(six_lines),       cmocka_unit_test(sentences),
        cmocka_unit_test(multiple_choice), cmocka_unit_test(which_tokens),
        cmocka_unit_test(means),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Log-likelihoods of requests: the same bits whatever is computed together, the value that a
 * request has alone, closed forms; the run over tasks. */
#include "support/model_files.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include "eval/task.h"
#include "pare/compress.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

enum { DOCS = 40, MOST_IDS = 200 };

/* Requests of random ids: 1 to 4 a document with a common beginning, which may reach into the
 * continuations, be all of the inputs (one scored token) or be missing. */
typedef struct requests {
    pare_task_set set;
    pare_task_tokens tokens;
    pare_task_doc docs[DOCS];
    pare_task_request texts[DOCS * 4];
    pare_task_item items[DOCS * 4];
    int32_t ids[DOCS * 4 * MOST_IDS];
} requests;

static uint32_t draw(uint32_t *state, uint32_t n) {
    *state = *state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)*state * n) >> 32);
}

static void make_requests(requests *r, size_t vocab, uint32_t longest) {
    static const pare_task task = {.name = "random", .metrics = PARE_TASK_ACC};
    uint32_t state = 7;
    *r = (requests){.set = {.task = &task, .file = "random", .docs = r->docs, .n_docs = DOCS},
                    .tokens = {.set = &r->set, .items = r->items}};
    r->set.requests = r->texts;
    size_t n = 0, at = 0;
    for (size_t d = 0; d < DOCS; d++) {
        size_t context = 1 + draw(&state, d % 3 ? 20 : longest), first = at;
        r->docs[d] = (pare_task_doc){.first = n, .n = 1 + d % 4};
        for (size_t i = 0; i < r->docs[d].n; i++) {
            size_t scored = d % 5 ? 1 + draw(&state, 14) : 1, all = context + scored;
            size_t shared = d % 7 ? context + (d % 2 && scored > 1) : 0;
            for (size_t k = 0; k < all; k++)
                r->ids[at + k] =
                    i && k < shared ? r->ids[first + k] : (int32_t)draw(&state, (uint32_t)vocab);
            r->items[n++] = (pare_task_item){at, context, scored};
            at += all;
        }
    }
    r->set.n_requests = n;
    r->tokens.ids = (pare_ids){.data = r->ids, .n = at};
}

static void score(pare_task_score *scores, const requests *r, const char *path, int threads,
                  pare_isa isa, const pare_task_score_options *o, size_t *n_computed) {
    pare_runtime *rt = test_runtime(threads, isa);
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, path, err));
    pare_task_work work = {.tokens = &r->tokens, .scores = scores};
    assert_ok(pare_task_score_all(&work, 1, rt, m, o, err));
    *n_computed = work.n_computed;
    pare_model_free(m);
    pare_runtime_free(rt);
}

/* Each request in a session of its own, by the function that perplexity uses. */
static void check_alone(const requests *r, const char *path, const pare_task_score *scores) {
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, path, err));
    for (size_t i = 0; i < r->set.n_requests; i++) {
        const pare_task_item *item = &r->items[i];
        size_t n = item->n_context + item->n_scored;
        float logprob[MOST_IDS];
        double ll = 0;
        pare_session *s;
        pare_session_options so = pare_session_options_default();
        so.compute = PARE_COMPUTE_EXACT;
        so.n_ctx = n;
        assert_ok(pare_session_create(&s, m, &so, err));
        assert_ok(
            pare_session_logprobs(s, r->ids + item->at, n, item->n_context - 1, logprob, err));
        for (size_t k = 0; k < item->n_scored; k++) ll += (double)logprob[k];
        /* both paths are f32: some 1e-6 a token */
        if (!(fabs(ll - scores[i].ll) <= 2e-5 * (double)item->n_scored))
            fail_msg("request %zu: %.9g, alone %.9g", i, scores[i].ll, ll);
        pare_session_free(s);
    }
    pare_model_free(m);
    pare_runtime_free(rt);
}

static void same_scores(const pare_task_score *a, const pare_task_score *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (a[i].ll != b[i].ll || a[i].greedy != b[i].greedy)
            fail_msg("request %zu: %.17g and %.17g", i, a[i].ll, b[i].ll);
}

static size_t vocab_of(const char *path) {
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, path, err));
    size_t vocab = pare_model_vocab_size(m);
    pare_model_free(m);
    pare_runtime_free(rt);
    return vocab;
}

typedef struct order {
    const pare_task_work *work;
    size_t n;
} order;
static pare_status on_scored(void *arg, const pare_task_work *work, pare_error *err) {
    (void)err;
    order *o = arg;
    assert_ptr_equal(work, o->work + o->n);
    o->n++;
    return PARE_OK;
}

/* Two tasks in one pass, whose batches go on across them: each the scores that it has alone. */
static void check_two(const requests *r, const char *path, const pare_task_score *whole,
                      size_t n_computed) {
    pare_task_score scores[2][DOCS * 4];
    pare_task_work work[2] = {{.tokens = &r->tokens, .scores = scores[0]},
                              {.tokens = &r->tokens, .scores = scores[1]}};
    order seen = {.work = work};
    pare_task_score_options o = {
        .compute = PARE_COMPUTE_EXACT, .batch_tokens = 700, .on_scored = on_scored, .arg = &seen};
    pare_runtime *rt = test_runtime(2, PARE_ISA_REF);
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, path, err));
    assert_ok(pare_task_score_all(work, 2, rt, m, &o, err));
    assert_int_equal(seen.n, 2);
    for (int i = 0; i < 2; i++) {
        same_scores(whole, scores[i], r->set.n_requests);
        assert_int_equal(work[i].n_computed, n_computed);
    }
    assert_true(work[0].seconds > 0 && work[1].seconds > 0);
    pare_model_free(m);
    pare_runtime_free(rt);
}

/* Batches, sharing and threads change no bit, in both modes and at every level. */
static void check_independence(const char *path, uint32_t longest) {
    static requests r;
    pare_task_score whole[DOCS * 4], other[DOCS * 4];
    size_t n = 0, shared, alone;
    make_requests(&r, vocab_of(path), longest);
    n = r.set.n_requests;
    for (int mode = 0; mode < 2; mode++)
        for (int level = 0; level < 2; level++) {
            pare_isa isa = level ? pare_isa_best() : PARE_ISA_REF;
            pare_task_score_options o = {.compute = (pare_compute)mode};
            score(whole, &r, path, 2, isa, &o, &shared);
            if (mode == PARE_COMPUTE_EXACT && level) check_alone(&r, path, whole);
            if (mode == PARE_COMPUTE_EXACT && !level) check_two(&r, path, whole, shared);
            o.batch_tokens = 1; /* a document at a time */
            score(other, &r, path, 1, isa, &o, &alone);
            same_scores(whole, other, n);
            assert_int_equal(shared, alone);
            o.batch_tokens = 700;
            o.alone = true;
            score(other, &r, path, 2, isa, &o, &alone);
            same_scores(whole, other, n);
            assert_true(shared < alone);
        }
    size_t tokens = 0; /* what all inputs hold, each on its own */
    for (size_t i = 0; i < n; i++) tokens += r.items[i].n_context + r.items[i].n_scored - 1;
    assert_int_equal(alone, tokens);
}

/* log p of the last token after all others, by a session of its own. */
static double last_alone(pare_model *m, const int32_t *ids, size_t n) {
    pare_session_options so = {.n_ctx = n, .compute = PARE_COMPUTE_EXACT};
    float *logits = pare_calloc(pare_model_vocab_size(m), sizeof *logits);
    pare_session *s;
    assert_ok(pare_session_create(&s, m, &so, err));
    assert_ok(pare_session_eval(s, ids, n - 1, logits, err));
    double sum = 0;
    for (size_t i = 0; i < pare_model_vocab_size(m); i++) sum += exp((double)logits[i]);
    double logprob = (double)logits[ids[n - 1]] - log(sum);
    pare_session_free(s);
    pare_free(logits);
    return logprob;
}

/* Inputs with one grid for all rows of a pass: a request's pass has its own rows alone, whatever
 * else is asked. */
static void one_grid_a_pass(void **state) {
    (void)state;
    static requests r;
    static pare_task_score scores[4][DOCS * 4];
    const char *path = tiny_model("joint", NULL);
    make_requests(&r, vocab_of(path), 30);
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, path, err));
    assert_ok(pare_model_quantize_act(m, &(pare_act_options){.spec = "w8a8:act=per_tensor_dynamic"},
                                      err));
    pare_task_work work[2] = {{.tokens = &r.tokens}, {.tokens = &r.tokens}};
    for (int i = 0; i < 3; i++) { /* together, a document at a time, beside another task */
        pare_task_score_options o = {.compute = PARE_COMPUTE_EXACT,
                                     .batch_tokens = i == 1 ? 1 : 700};
        work[0].scores = scores[i];
        work[1].scores = scores[3];
        assert_ok(pare_task_score_all(work, i == 2 ? 2 : 1, rt, m, &o, err));
        if (i) same_scores(scores[0], scores[i], r.set.n_requests);
    }
    same_scores(scores[0], scores[3], r.set.n_requests);
    size_t n = 0;
    for (size_t i = 0; i < r.set.n_requests; i++) {
        const pare_task_item *item = &r.items[i];
        if (item->n_scored != 1) continue;
        double ll = last_alone(m, r.ids + item->at, item->n_context + 1);
        assert_true(fabs(ll - scores[0][i].ll) < 2e-5);
        n++;
    }
    assert_true(n > 5);
    pare_model_free(m);
    pare_runtime_free(rt);
}

static void independence(void **state) {
    (void)state;
    check_independence(fixture_path("llama"), 120);
    check_independence(fixture_path("gemma3"), 120); /* a sliding window of 7 */
    check_independence(fixture_path("gpt2"), 45);    /* has 64 positions */
}

/* Logits that are all 0: a token costs ln V; nothing else than the id 0 is ever the largest. */
static void uniform(void **state) {
    (void)state;
    static requests r;
    pare_task_score scores[DOCS * 4];
    size_t n;
    const char *path = tiny_model("uniform", &(tiny_options){.scale = 1e-30f});
    make_requests(&r, TINY_VOCAB, 120);
    score(scores, &r, path, 2, pare_isa_best(), &(pare_task_score_options){0}, &n);
    for (size_t i = 0; i < r.set.n_requests; i++) {
        const pare_task_item *item = &r.items[i];
        assert_true(fabs(scores[i].ll / (double)item->n_scored + log(TINY_VOCAB)) < 1e-6);
        bool zeros = true;
        for (size_t k = 0; k < item->n_scored; k++)
            zeros &= r.ids[item->at + item->n_context + k] == 0;
        assert_true(scores[i].greedy == zeros);
    }
}

/* What the model itself would write is greedy; any other token in it is not. */
static void greedy(void **state) {
    (void)state;
    const char *path = tiny_model("greedy", NULL);
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    pare_model *m;
    pare_session *s;
    float logits[TINY_VOCAB];
    int32_t ids[8] = {5, 9, 44};
    pare_session_options so = pare_session_options_default();
    so.compute = PARE_COMPUTE_EXACT;
    assert_ok(pare_model_load(&m, rt, path, err));
    assert_ok(pare_session_create(&s, m, &so, err));
    assert_ok(pare_session_eval(s, ids, 2, NULL, err));
    for (size_t i = 3; i < 8; i++) {
        assert_ok(pare_session_eval(s, ids + i - 1, 1, logits, err));
        for (int32_t v = 0; v < TINY_VOCAB; v++)
            if (logits[v] > logits[ids[i]]) ids[i] = v;
    }
    pare_session_free(s);
    static requests r;
    make_requests(&r, TINY_VOCAB, 120);
    r.set.n_docs = r.set.n_requests = 1;
    r.docs[0].n = 1;
    r.items[0] = (pare_task_item){0, 3, 5};
    memcpy(r.ids, ids, sizeof ids);
    pare_task_score score;
    pare_task_work work = {.tokens = &r.tokens, .scores = &score};
    const pare_task_score_options o = {0};
    assert_ok(pare_task_score_all(&work, 1, rt, m, &o, err));
    assert_true(score.greedy);
    assert_int_equal(work.n_computed, 7);
    r.ids[5] = (r.ids[5] + 1) % TINY_VOCAB;
    assert_ok(pare_task_score_all(&work, 1, rt, m, &o, err));
    assert_false(score.greedy);
    pare_model_free(m);
    pare_runtime_free(rt);
}

static void refused_scores(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    pare_model *m;
    pare_session *s;
    assert_ok(pare_model_load(&m, rt, tiny_model("refused", NULL), err));
    assert_ok(pare_session_create(&s, m, NULL, err));
    const int32_t ids[2] = {1, 2};
    const int32_t *const lists[1] = {ids};
    const size_t n[1] = {2};
    pare_score bad[][2] = {{{.row = 2}},
                           {{.sequence = 1}},
                           {{.target = -1}},
                           {{.target = TINY_VOCAB}},
                           {{.row = 1}, {.row = 0}}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(pare_session_score_many(&s, 1, lists, n, bad[i], 2, err), PARE_ERR_ARG,
                     "expected rows that are there, in order, and a token");
    assert_int_equal(pare_session_position(s), 0);
    pare_session_free(s);
    pare_model_free(m);
    pare_runtime_free(rt);
}

/* --- a run over tasks --- */

static const char copa_rows[] =
    "{\"premise\": \"I ran.\", \"choice1\": \"I fell.\", \"choice2\": \"It rained.\","
    " \"question\": \"effect\", \"label\": 0}\n"
    "{\"premise\": \"It was late.\", \"choice1\": \"Night came.\", \"choice2\": \"I sang.\","
    " \"question\": \"cause\", \"label\": 0}\n"
    "{\"premise\": \"He slept.\", \"choice1\": \"He dreamt.\", \"choice2\": \"He ate.\","
    " \"question\": \"effect\", \"label\": 1}\n";

typedef struct seen {
    size_t tasks, documents;
} seen;
static void on_task(void *arg, const pare_task_result *r, const pare_task_pair *p) {
    seen *s = arg;
    assert_true(r->n > 0 && p);
    s->tasks++;
}
static void on_documents(void *arg, const char *task, size_t done, size_t total) {
    assert_true(task && done < total);
    ((seen *)arg)->documents++;
}

static void task_run(void **state) {
    (void)state;
    assert_int_equal(mkdir(test_path("copa"), 0777), 0);
    test_write("copa/val.jsonl", copa_rows, sizeof copa_rows - 1);
    const char *path = tiny_model("run", NULL),
               *path2 = tiny_model("run2", &(tiny_options){.seed = 1});
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    pare_model *m, *base;
    pare_tokenizer *tok;
    assert_ok(pare_tokenizer_load(&tok, path, err));
    assert_ok(pare_model_load(&m, rt, path, err));
    assert_ok(pare_model_load(&base, rt, path2, err));
    const char *const names[] = {"copa", "copa_one_space"};
    pare_task_result r[2], alone[1];
    pare_task_pair p[2];
    seen count = {0};
    pare_tasks_options o = pare_tasks_options_default();
    o.data = test_folder();
    o.on_task = on_task;
    o.on_documents = on_documents;
    o.arg = &count;
    assert_ok(pare_eval_tasks(r, p, rt, m, tok, base, tok, names, 2, &o, err));
    assert_int_equal(count.tasks, 2);
    assert_int_equal(count.documents, 2); /* one batch a model */
    assert_true(r[0].n == 3 && r[0].n_requests == 6 && r[0].n_scored == r[1].n_scored + 6);
    assert_true(r[0].n_computed < r[0].n_tokens - 6 && r[0].compute == PARE_COMPUTE_EXACT);
    assert_true(fabs(r[0].acc - p[0].base_acc - p[0].diff) < 1e-15);
    /* the base's figures are those that it has as the model */
    o.on_task = NULL;
    o.on_documents = NULL;
    assert_ok(pare_eval_tasks(alone, NULL, rt, base, tok, NULL, NULL, names, 1, &o, err));
    assert_true(alone[0].acc == p[0].base_acc && alone[0].crc32 == r[0].crc32);
    o.limit = 2;
    assert_ok(pare_eval_tasks(alone, NULL, rt, m, tok, NULL, NULL, names, 1, &o, err));
    assert_int_equal(alone[0].n, 2);

    const char *const unknown[] = {"copa", "copra"}, *const missing[] = {"copa", "rte"};
    assert_fails(pare_eval_tasks(r, NULL, rt, m, tok, NULL, NULL, unknown, 2, &o, err),
                 PARE_ERR_ARG, "task: found 'copra', expected one of lambada_openai, hellaswag");
    assert_fails(pare_tasks_check(missing, 2, &o, err), PARE_ERR_INPUT, "rte/dev.jsonl: found no");
    pare_model_free(m);
    pare_model_free(base);
    pare_tokenizer_free(tok);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(independence),   cmocka_unit_test(one_grid_a_pass),
        cmocka_unit_test(uniform),        cmocka_unit_test(greedy),
        cmocka_unit_test(refused_scores), cmocka_unit_test(task_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

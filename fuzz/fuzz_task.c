/* Files of tasks: rows of any kind become documents of every task, or an error that names the file.
 */
#include "seeds.h"

#include "eval/task.h"

static void check(const pare_task_set *set) {
    FUZZ_CHECK(set->n_docs > 0);
    size_t next = 0;
    for (size_t i = 0; i < set->n_docs; i++) {
        const pare_task_doc *d = &set->docs[i];
        FUZZ_CHECK(d->first == next && d->n > 0 && d->gold < d->n);
        next += d->n;
    }
    FUZZ_CHECK(next == set->n_requests);
    for (size_t i = 0; i < set->n_requests; i++) {
        const pare_task_request *r = &set->requests[i];
        FUZZ_CHECK(r->context.at + r->context.n <= set->text.n);
        FUZZ_CHECK(r->continuation.at + r->continuation.n <= set->text.n);
        FUZZ_CHECK(r->n_chars <= r->continuation.n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    pare_span rows = {(const char *)data, n}, labels = {"0\n1\n", 4};
    for (const pare_task *t = pare_tasks; t->name; t++) {
        pare_task_set set;
        pare_error err = {0};
        pare_status st =
            pare_task_parse(&set, t, "x.jsonl", rows, t->labels ? &labels : NULL, 3, &err);
        FUZZ_CHECK(st == PARE_OK || (st == PARE_ERR_INPUT && strstr(err.message, "x.jsonl: ")));
        if (st == PARE_OK) check(&set);
        pare_task_set_free(&set);
    }
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    static const char *const seeds[] = {
        "{\"text\": \"the last word\"}\n{\"text\": \" \"}\n",
        "{\"query\": \"q\", \"choices\": [\" a\", \"b\", \"c\", \"d\"], \"gold\": 1}",
        "{\"activity_label\": \"A\", \"ctx_a\": \"b [title] c\", \"ctx_b\": \"d[x]\", \"label\": "
        "\"3\", \"endings\": [\"[a] b\", \"\", \"[\", \"]  [\"]}",
        "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n\n",
        "{\"sentence\": \"a _ b\", \"option1\": \"x\", \"option2\": \"y\", \"answer\": \"2\"}",
        "{\"question\": \"q\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\", \"B\"]}, "
        "\"answerKey\": \"B\"}",
        "{\"passage\": \"p\", \"question\": \"q\", \"label\": 1}",
        "{\"sentence1\": \"a\", \"sentence2\": \"b\", \"label\": 0}",
        "{\"premise\": \"\\u00c9 a.\", \"choice1\": \"\\u0130\", \"choice2\": \"\", \"question\": "
        "\"effect\", \"label\": 1}",
        "Roof: A man\n2\nsits.\nruns.\nstands.\nflies.\n",
        "0,\"So _ was, and \"\"b\"\" too.\",A,B b,2\n1,_ a,x,y,1\n",
    };
    /* one task: "q", answers "a" and "bc", no second list */
    static const char binary[] = "\1\0\0\0\10\0\0\0\1\0\0\0q\2\0\0\0\1\0\0\0a\2\0\0\0"
                                 "bc\0\0\0\0\1\0\0\0\0\0\0";
    if (i == sizeof seeds / sizeof seeds[0]) return fuzz_copy(out, capacity, binary, sizeof binary);
    if (i > sizeof seeds / sizeof seeds[0]) return 0;
    return fuzz_copy(out, capacity, seeds[i], strlen(seeds[i]));
}

/* The tasks: how a row of a task's file becomes requests, and the table. A new task is a function
 * and a line in the table. Where data sets are handed round in two forms, both are read. */
#include "eval/task.h"

#include "text/unicode.h"

#include <string.h>
#include <utf8proc.h>

/* --- helpers --- */

static pare_span all(const char *s) { return (pare_span){s, strlen(s)}; }

#define CONTEXT(row, err, ...)                                                                     \
    pare_task_context(row, (const pare_span[]){__VA_ARGS__, {NULL, 0}}, err)

static pare_status text_at(const pare_task_row *row, const char *key, const char **out,
                           pare_error *err) {
    return pare_json_str(&row->json, key, PARE_REQUIRED, out, err);
}

/* The gold number at a key: an integer, or one in a string; counted from `base` in the file. */
static pare_status gold_at(pare_task_row *row, const char *key, size_t base, size_t n,
                           pare_error *err) {
    const json_t *value = pare_json_get(&row->json, key);
    const char *s = json_string_value(value);
    if (s && s[0] >= '0' && s[0] <= '9' && !s[1]) {
        row->gold = (size_t)(s[0] - '0');
        if (row->gold >= base && row->gold - base < n) {
            row->gold -= base;
            return PARE_OK;
        }
    }
    PARE_TRY(pare_json_size(&row->json, key, PARE_REQUIRED, base, base + n - 1, &row->gold, err));
    row->gold -= base;
    return PARE_OK;
}

static pare_status gold_from_labels(pare_task_row *row, size_t n, pare_error *err) {
    if (row->label < 0 || (size_t)row->label >= n)
        return pare_fail(err, PARE_ERR_INPUT, "%s: found label %lld, expected 0 to %zu",
                         row->json.place, (long long)row->label, n - 1);
    row->gold = (size_t)row->label;
    return PARE_OK;
}

/* Two to ten choices from an array of strings, as they are. */
static pare_status choices_at(pare_task_row *row, const char *key, size_t *n, pare_error *err) {
    json_t *list;
    PARE_TRY(pare_json_array(&row->json, key, PARE_REQUIRED, &list, err));
    *n = json_array_size(list);
    if (*n < 2 || *n > 10)
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found %zu choices, expected 2 to 10",
                         row->json.place, key, *n);
    for (size_t i = 0; i < *n; i++) {
        char path[64];
        const char *choice;
        snprintf(path, sizeof path, "%s.%zu", key, i);
        PARE_TRY(text_at(row, path, &choice, err));
        PARE_TRY(pare_task_choice(row, " ", all(choice), err));
    }
    return PARE_OK;
}

/* White space as Python's str.strip knows it. */
static bool is_space(int32_t cp) { return pare_is_white_space(cp) || (cp >= 0x1C && cp <= 0x1F); }

static pare_span strip(pare_span t) {
    int32_t cp;
    for (size_t k; t.n && (k = pare_utf8_next(t.s, t.n, &cp)) && is_space(cp);) {
        t.s += k;
        t.n -= k;
    }
    size_t end = 0; /* after the last character that is no white space */
    for (size_t i = 0; i < t.n;) {
        i += pare_utf8_next(t.s + i, t.n - i, &cp);
        if (!is_space(cp)) end = i;
    }
    t.n = end;
    return t;
}

/* Appends a text, its first letter by `first` and the others by `rest` (NULL: as they are). */
static bool add_cased(pare_text_buffer *out, const char *s, utf8proc_int32_t (*first)(int32_t),
                      utf8proc_int32_t (*rest)(int32_t)) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n;) {
        int32_t cp;
        char letter[4];
        size_t k = pare_utf8_next(s + i, n - i, &cp);
        utf8proc_int32_t (*change)(int32_t) = i ? rest : first;
        bool changed = change && cp >= 0;
        size_t m = changed ? pare_utf8_put(letter, (uint32_t)change(cp)) : k;
        if (!pare_text_buffer_add(out, changed ? letter : s + i, m)) return false;
        i += k;
    }
    return true;
}

/* --- LAMBADA: the last word of a passage --- */

static pare_status read_lambada(pare_task_row *row, pare_error *err) {
    const char *text;
    PARE_TRY(text_at(row, "text", &text, err));
    const char *space = strrchr(text, ' ');
    if (!space)
        return pare_fail(err, PARE_ERR_INPUT, "%s: text: found no space, expected several words",
                         row->json.place);
    PARE_TRY(CONTEXT(row, err, {text, (size_t)(space - text)}));
    return pare_task_choice(row, " ", all(space + 1), err);
}

/* --- HellaSwag: how a text about an activity goes on --- */

/* Removes s[at, at + n) and puts the m <= n bytes of `by` there; returns the new length. */
static size_t replace(char *s, size_t len, size_t at, size_t n, const char *by, size_t m) {
    memcpy(s + at, by, m);
    memmove(s + at + m, s + at + n, len - at - n);
    return len - n + m;
}

/* The marks that WikiHow's texts still carry, in place; returns the new length. */
static size_t clean(char *s, size_t len) {
    static const char title[] = " [title]";
    const size_t n_title = sizeof title - 1;
    for (size_t i = 0; i + n_title <= len; i++)
        if (memcmp(s + i, title, n_title) == 0) len = replace(s, len, i, n_title, ". ", 2);
    for (size_t i = 0; i < len;) { /* the shortest "[...]" on a line */
        size_t end = i;
        if (s[i] == '[')
            while (end < len && s[end] != ']' && s[end] != '\n') end++;
        if (s[i] == '[' && end < len && s[end] == ']')
            len = replace(s, len, i, end - i + 1, "", 0);
        else
            i++;
    }
    for (size_t i = 0; i + 1 < len; i++) /* once, from left to right */
        if (s[i] == ' ' && s[i + 1] == ' ') len = replace(s, len, i, 2, " ", 1);
    return len;
}

static pare_span cleaned(pare_text_buffer *b) {
    pare_span t = strip((pare_span){b->data, b->n});
    if (!t.n) return (pare_span){"", 0};
    size_t skip = (size_t)(t.s - b->data);
    return (pare_span){t.s, clean(b->data + skip, t.n)};
}

/* activity_label + ": " + ctx_a + " " + ctx_b with one capital */
static pare_status hellaswag_context(pare_task_row *row, pare_text_buffer *b, pare_error *err) {
    const char *activity, *a, *rest;
    PARE_TRY(text_at(row, "activity_label", &activity, err));
    PARE_TRY(text_at(row, "ctx_a", &a, err));
    PARE_TRY(text_at(row, "ctx_b", &rest, err));
    if (!add_cased(b, activity, NULL, NULL) || !add_cased(b, ": ", NULL, NULL) ||
        !add_cased(b, a, NULL, NULL) || !add_cased(b, " ", NULL, NULL) ||
        !add_cased(b, rest, utf8proc_totitle, utf8proc_tolower))
        return pare_text_buffer_fail(err);
    return CONTEXT(row, err, cleaned(b));
}

static pare_status hellaswag_endings(pare_task_row *row, pare_text_buffer *b, pare_error *err) {
    for (size_t i = 0; i < 4; i++) {
        char path[16];
        const char *ending;
        snprintf(path, sizeof path, "endings.%zu", i);
        PARE_TRY(text_at(row, path, &ending, err));
        b->n = 0;
        if (!add_cased(b, ending, NULL, NULL)) return pare_text_buffer_fail(err);
        PARE_TRY(pare_task_choice(row, " ", cleaned(b), err));
    }
    return gold_at(row, "label", 0, 4, err);
}

/* Rows of the original set, or cleaned already: {query, choices, gold}. */
static pare_status read_hellaswag(pare_task_row *row, pare_error *err) {
    const char *query;
    size_t n;
    if (pare_json_get(&row->json, "query")) {
        PARE_TRY(text_at(row, "query", &query, err));
        PARE_TRY(CONTEXT(row, err, all(query)));
        PARE_TRY(choices_at(row, "choices", &n, err));
        return gold_at(row, "gold", 0, n, err);
    }
    pare_text_buffer b = {0};
    pare_status st = hellaswag_context(row, &b, err);
    if (st == PARE_OK) st = hellaswag_endings(row, &b, err);
    pare_text_buffer_free(&b);
    return st;
}

/* --- PIQA: which of two ways reaches a goal --- */

static pare_status read_piqa(pare_task_row *row, pare_error *err) {
    const char *goal, *one, *two;
    PARE_TRY(text_at(row, "goal", &goal, err));
    PARE_TRY(text_at(row, "sol1", &one, err));
    PARE_TRY(text_at(row, "sol2", &two, err));
    PARE_TRY(CONTEXT(row, err, all("Question: "), all(goal), all("\nAnswer:")));
    PARE_TRY(pare_task_choice(row, " ", all(one), err));
    PARE_TRY(pare_task_choice(row, " ", all(two), err));
    return gold_from_labels(row, 2, err);
}

/* --- WinoGrande: whom a pronoun means; the options are in the contexts, the same rest is scored */

static pare_status read_winogrande(pare_task_row *row, pare_error *err) {
    const char *sentence, *option[2];
    PARE_TRY(text_at(row, "sentence", &sentence, err));
    PARE_TRY(text_at(row, "option1", &option[0], err));
    PARE_TRY(text_at(row, "option2", &option[1], err));
    const char *blank = strchr(sentence, '_');
    if (!blank)
        return pare_fail(err, PARE_ERR_INPUT, "%s: sentence: found no '_', expected one",
                         row->json.place);
    for (size_t i = 0; i < 2; i++) {
        PARE_TRY(CONTEXT(row, err, {sentence, (size_t)(blank - sentence)}, all(option[i])));
        PARE_TRY(pare_task_choice(row, " ", strip(all(blank + 1)), err));
    }
    return gold_at(row, "answer", 1, 2, err);
}

/* llama.cpp's form: the sentence as it is. */
static pare_status read_winogrande_whole(pare_task_row *row, pare_error *err) {
    const char *sentence, *option[2];
    PARE_TRY(text_at(row, "sentence", &sentence, err));
    PARE_TRY(text_at(row, "option1", &option[0], err));
    PARE_TRY(text_at(row, "option2", &option[1], err));
    PARE_TRY(pare_task_options(row, all(sentence),
                               (const pare_span[]){all(option[0]), all(option[1])}, row->json.place,
                               err));
    return gold_at(row, "answer", 1, 2, err);
}

/* --- ARC and OpenBookQA: questions about science --- */

/* The place of answerKey among the labels of the choices. */
static pare_status gold_by_key(pare_task_row *row, size_t n, pare_error *err) {
    const char *answer, *label;
    PARE_TRY(text_at(row, "answerKey", &answer, err));
    for (size_t i = 0; i < n; i++) {
        char path[32];
        snprintf(path, sizeof path, "choices.label.%zu", i);
        PARE_TRY(text_at(row, path, &label, err));
        row->gold = i;
        if (strcmp(label, answer) == 0) return PARE_OK;
    }
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: answerKey: found \"%.*s\", expected a choice's label", row->json.place,
                     pare_clip(answer, strlen(answer), 20), answer);
}

/* {choices: [text...], gold: number}, or {choices: {text, label}, answerKey}. */
static pare_status science_choices(pare_task_row *row, pare_error *err) {
    size_t n;
    bool keyed = json_is_object(pare_json_get(&row->json, "choices"));
    PARE_TRY(choices_at(row, keyed ? "choices.text" : "choices", &n, err));
    return keyed ? gold_by_key(row, n, err) : gold_at(row, "gold", 0, n, err);
}

static pare_status read_arc(pare_task_row *row, pare_error *err) {
    const char *question;
    PARE_TRY(text_at(row, "question", &question, err));
    PARE_TRY(CONTEXT(row, err, all("Question: "), all(question), all("\nAnswer:")));
    return science_choices(row, err);
}

static pare_status read_openbookqa(pare_task_row *row, pare_error *err) {
    const char *question;
    bool stem = pare_json_get(&row->json, "question_stem") != NULL;
    PARE_TRY(text_at(row, stem ? "question_stem" : "question", &question, err));
    PARE_TRY(CONTEXT(row, err, all(question)));
    return science_choices(row, err);
}

/* --- BoolQ: a question about a passage --- */

static pare_status read_boolq(pare_task_row *row, pare_error *err) {
    const char *passage, *question;
    PARE_TRY(text_at(row, "passage", &passage, err));
    PARE_TRY(text_at(row, "question", &question, err));
    PARE_TRY(
        CONTEXT(row, err, all(passage), all("\nQuestion: "), all(question), all("?\nAnswer:")));
    PARE_TRY(pare_task_choice(row, " ", all("no"), err));
    PARE_TRY(pare_task_choice(row, " ", all("yes"), err));
    return gold_at(row, "label", 0, 2, err);
}

/* --- RTE: does one sentence follow from another; GLUE's names of the fields or SuperGLUE's --- */

static pare_status read_rte(pare_task_row *row, pare_error *err) {
    const char *premise, *hypothesis;
    bool super = pare_json_get(&row->json, "premise") != NULL;
    PARE_TRY(text_at(row, super ? "premise" : "sentence1", &premise, err));
    PARE_TRY(text_at(row, super ? "hypothesis" : "sentence2", &hypothesis, err));
    PARE_TRY(CONTEXT(row, err, all(premise), all("\nQuestion: "), all(hypothesis),
                     all(" True or False?\nAnswer:")));
    PARE_TRY(pare_task_choice(row, " ", all("True"), err));
    PARE_TRY(pare_task_choice(row, " ", all("False"), err));
    return gold_at(row, "label", 0, 2, err);
}

/* --- COPA: a cause or an effect --- */

static pare_status copa_choice(pare_task_row *row, const char *key, const char *before,
                               pare_error *err) {
    const char *choice;
    PARE_TRY(text_at(row, key, &choice, err));
    pare_text_buffer b = {0};
    pare_status st = PARE_OK;
    if (!add_cased(&b, choice, utf8proc_tolower, NULL)) st = pare_text_buffer_fail(err);
    if (st == PARE_OK) st = pare_task_choice(row, before, (pare_span){b.data, b.n}, err);
    pare_text_buffer_free(&b);
    return st;
}

static pare_status copa(pare_task_row *row, const char *before, pare_error *err) {
    const char *premise, *asked;
    PARE_TRY(text_at(row, "premise", &premise, err));
    PARE_TRY(text_at(row, "question", &asked, err));
    bool cause = strcmp(asked, "cause") == 0;
    if (!cause && strcmp(asked, "effect") != 0)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: question: found \"%.*s\", expected \"cause\" or \"effect\"",
                         row->json.place, pare_clip(asked, strlen(asked), 20), asked);
    pare_span start = strip(all(premise)); /* without its full stop */
    int32_t cp;
    size_t last = 0;
    for (size_t i = 0; i < start.n; i += pare_utf8_next(start.s + i, start.n - i, &cp)) last = i;
    start.n = last;
    PARE_TRY(CONTEXT(row, err, start, all(cause ? " because" : " therefore")));
    PARE_TRY(copa_choice(row, "choice1", before, err));
    PARE_TRY(copa_choice(row, "choice2", before, err));
    return gold_at(row, "label", 0, 2, err);
}

/* From version 0.4 of the harness on a second space stands before the choice. */
static pare_status read_copa(pare_task_row *row, pare_error *err) { return copa(row, "  ", err); }
static pare_status read_copa_one(pare_task_row *row, pare_error *err) {
    return copa(row, " ", err);
}

/* --- the table --- */

#define FILES(...) ((const char *const[]){__VA_ARGS__, NULL})

enum { ACC = PARE_TASK_ACC, BOTH = PARE_TASK_ACC | PARE_TASK_ACC_NORM, WORD = PARE_TASK_WORD };

/* A multiple-choice file of llama.cpp. */
#define LLAMA_CHOICE(name, split, file)                                                            \
    {                                                                                              \
        "llama_" name, split, name " as llama.cpp scores it: a mean over tokens",                  \
            FILES("llama.cpp/" file), NULL, ACC, false, true, NULL, PARE_SCORE_MEAN,               \
            pare_task_parse_binary                                                                 \
    }

const pare_task pare_tasks[] = {
    {"lambada_openai", "test", "the last word of a passage",
     FILES("lambada_openai/lambada_test.jsonl"), NULL, WORD, false, false, read_lambada,
     PARE_SCORE_SUM, NULL},
    {"hellaswag", "validation", "how an everyday activity goes on",
     FILES("hellaswag/hellaswag_val.jsonl", "hellaswag/hellaswag_val_harness_1000.jsonl"), NULL,
     BOTH, true, false, read_hellaswag, PARE_SCORE_SUM, NULL},
    {"piqa", "validation", "which of two ways reaches a physical goal", FILES("piqa/valid.jsonl"),
     "piqa/valid-labels.lst", BOTH, false, false, read_piqa, PARE_SCORE_SUM, NULL},
    {"winogrande", "validation", "which of two words fits a sentence; its rest is scored",
     FILES("winogrande/dev.jsonl"), NULL, ACC, false, false, read_winogrande, PARE_SCORE_SUM, NULL},
    {"arc_easy", "test", "science questions of school, the easy ones",
     FILES("arc/ARC-Easy-Test.jsonl"), NULL, BOTH, false, false, read_arc, PARE_SCORE_SUM, NULL},
    {"arc_challenge", "test", "science questions of school, the hard ones",
     FILES("arc/ARC-Challenge-Test.jsonl"), NULL, BOTH, true, false, read_arc, PARE_SCORE_SUM,
     NULL},
    {"openbookqa", "test", "science facts applied", FILES("openbookqa/test.jsonl"), NULL, BOTH,
     true, false, read_openbookqa, PARE_SCORE_SUM, NULL},
    {"boolq", "validation", "yes or no about a passage", FILES("boolq/val.jsonl"), NULL, ACC, false,
     false, read_boolq, PARE_SCORE_SUM, NULL},
    {"rte", "validation", "does a sentence follow from another", FILES("rte/dev.jsonl"), NULL, ACC,
     false, false, read_rte, PARE_SCORE_SUM, NULL},
    {"copa", "validation", "cause or effect; two spaces before a choice", FILES("copa/val.jsonl"),
     NULL, ACC, false, false, read_copa, PARE_SCORE_SUM, NULL},
    {"copa_one_space", "validation", "copa as the harness had it before version 0.4",
     FILES("copa/val.jsonl"), NULL, ACC, false, true, read_copa_one, PARE_SCORE_SUM, NULL},
    {"arc_easy_validation", "validation", "arc_easy, a smaller split",
     FILES("arc/ARC-Easy-Dev.jsonl"), NULL, BOTH, false, true, read_arc, PARE_SCORE_SUM, NULL},
    {"arc_challenge_validation", "validation", "arc_challenge, a smaller split",
     FILES("arc/ARC-Challenge-Dev.jsonl"), NULL, BOTH, true, true, read_arc, PARE_SCORE_SUM, NULL},
    {"openbookqa_validation", "validation", "openbookqa, another split",
     FILES("openbookqa/dev.jsonl"), NULL, BOTH, true, true, read_openbookqa, PARE_SCORE_SUM, NULL},
    {"llama_hellaswag", "validation", "hellaswag as llama.cpp scores it: a mean over tokens",
     FILES("hellaswag/hellaswag_val_full.txt"), NULL, ACC, false, true, NULL, PARE_SCORE_MEAN,
     pare_task_parse_lines},
    {"llama_winogrande", "validation", "winogrande as llama.cpp scores it: a mean over tokens",
     FILES("llama.cpp/winogrande-debiased-eval.csv", "winogrande/dev.jsonl"), NULL, ACC, false,
     true, read_winogrande_whole, PARE_SCORE_REST, pare_task_parse_csv},
    LLAMA_CHOICE("arc_easy", "validation", "arc-easy-validation.bin"),
    LLAMA_CHOICE("arc_challenge", "validation", "arc-challenge-validation.bin"),
    LLAMA_CHOICE("mmlu", "validation", "mmlu-validation.bin"),
    LLAMA_CHOICE("truthful_qa", "validation", "truthful-qa-validation.bin"),
    {0},
};

const pare_task *pare_task_find(const char *name) {
    for (const pare_task *t = pare_tasks; t->name; t++)
        if (strcmp(t->name, name) == 0) return t;
    return NULL;
}

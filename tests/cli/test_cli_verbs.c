/* The verbs that read a model, on a tiny one: the examples of --help run as they are, every key of
 * the contract is there, errors are one line, interruption is safe. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Data of two tasks, and a folder whose file is broken. */
static void make_tasks(void) {
    static const char copa[] =
        "{\"premise\": \"I ran.\", \"choice1\": \"I fell.\", \"choice2\": \"It rained.\","
        " \"question\": \"effect\", \"label\": 0}\n";
    static const char rte[] = "{\"sentence1\": \"A.\", \"sentence2\": \"B.\", \"label\": 0}\n"
                              "{\"sentence1\": \"C.\", \"sentence2\": \"D.\", \"label\": 1}\n";
    static const char *const folders[] = {"tasks", "tasks/copa", "tasks/rte", "bad", "bad/rte"};
    for (size_t i = 0; i < 5; i++) mkdir(test_path(folders[i]), 0777);
    test_write("tasks/copa/val.jsonl", copa, sizeof copa - 1);
    test_write("tasks/rte/dev.jsonl", rte, sizeof rte - 1);
    static const char bad[] = "{}\n{\"sentence1\": \n";
    test_write("bad/rte/dev.jsonl", bad, sizeof bad - 1);
}

static int make_files(void **state) {
    (void)state;
    tiny_model("tiny", NULL);
    program_result r = program_run(NULL, "pare convert tiny model.gguf");
    if (r.code != 0) fail_msg("convert: %s", r.err);
    program_free(&r);
    tiny_model("other", &(tiny_options){.seed = 1});
    tiny_model("nochat", &(tiny_options){.template = ""});
    tiny_model("strange", &(tiny_options){.template = "{{ messages | tojson }}"});
    tiny_model("nan", &(tiny_options){.poison = NAN});
    tiny_model("wild", &(tiny_options){.final_norm = 3e38f}); /* its logits are no numbers */
    char text[40000];
    size_t n = 0;
    for (int i = 0; n + 80 < sizeof text; i++)
        n += (size_t)sprintf(text + n, i % 9 ? " Line %d , of a text with words .\n" : " \n", i);
    test_write("wiki.test.raw", text, n);
    make_tasks();
    return 0;
}

/* The examples of every verb that takes a model. */
static void examples(void **state) {
    (void)state;
    program_result overview = program_run(NULL, "pare help");
    size_t n_run = 0;
    for (const char *p = strstr(overview.out, "Verbs:\n") + 7; *p == ' '; p = strchr(p, '\n') + 1) {
        char verb[32];
        sscanf(p, "%31s", verb);
        program_result help = program_runf(NULL, "pare help %s", verb);
        const char *line = strstr(help.out, "\nExamples:\n") + 11;
        for (; strncmp(line, "  ", 2) == 0; line = strchr(line, '\n') + 1) {
            program_result r = program_runf(NULL, "%.*s", (int)strcspn(line, "\n"), line);
            if (r.code != 0)
                fail_msg("%.*s: exit %d: %s", (int)strcspn(line, "\n"), line, r.code, r.err);
            if (r.out_len == 0) fail_msg("%.*s: no output", (int)strcspn(line, "\n"), line);
            program_free(&r);
            n_run++;
        }
        program_free(&help);
    }
    assert_true(n_run >= 10);
    program_free(&overview);
}

static json_int_t integer(json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}
static double number(json_t *o, const char *key) {
    return json_number_value(json_object_get(o, key));
}
static const char *string(json_t *o, const char *key) {
    return json_string_value(json_object_get(o, key));
}

static void info(void **state) {
    (void)state;
    json_t *o = program_json(NULL, "pare info model.gguf --tensors --memory --ctx 100 --verify");
    program_has(o, "arch,n_params,file_bytes,bits_per_weight,ctx_max,vocab_size,tokenizer,"
                   "encodings.f32.tensors,encodings.f32.params,encodings.f32.bytes,tensors,"
                   "memory.kv_bytes.f16");
    assert_string_equal(string(o, "arch"), "llama");
    assert_int_equal(integer(o, "ctx_max"), TINY_CTX);
    assert_int_equal(integer(o, "vocab_size"), TINY_VOCAB);
    assert_int_equal(json_array_size(json_object_get(o, "tensors")), 2 + 9 * TINY_LAYERS);
    json_t *f32 = json_object_get(json_object_get(o, "encodings"), "f32");
    assert_int_equal(integer(f32, "params"), integer(o, "n_params"));
    assert_int_equal(integer(f32, "bytes"), 4 * integer(o, "n_params"));
    assert_true(number(o, "bits_per_weight") == 32);
    json_decref(o);
    program_result r = program_run(NULL, "pare info nan --verify");
    assert_int_equal(r.code, 2);
    assert_int_equal(program_lines(r.err), 1);
    assert_non_null(strstr(r.err, "row 5, column 3: found nan"));
    program_free(&r);
}

static bool exists(const char *name) { return access(test_path(name), F_OK) == 0; }

static void write_text(const char *name, const char *text) { test_write(name, text, strlen(text)); }

/* A tokenizer that is only looked at or copied is opened all the same. */
static void broken_tokenizers(void **state) {
    (void)state;
    static const struct {
        const char *text, *told;
    } cases[] = {
        {"{\"model\": ", "broken/tokenizer.json: line 1, column 10"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}",
         "broken/tokenizer.json: model.merges.0: found"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}}",
         "broken/tokenizer.json: token \"a\": found id -1"},
    };
    static const char *const commands[] = {"pare info broken",
                                           "pare convert broken made",
                                           "pare convert broken made.gguf",
                                           "pare compress broken -o made -r q8_0",
                                           "pare compress broken -o made -r q8_0 --dry-run",
                                           "pare compress broken -o made.gguf -r q8_0 --dry-run"};
    tiny_model("broken", NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text("broken/tokenizer.json", cases[i].text);
        for (size_t k = 0; k < sizeof commands / sizeof *commands; k++)
            program_refuses(commands[k], cases[i].told);
        assert_false(exists("made") || exists("made.gguf"));
    }

    /* a kind that pare does not know may be right for others: told, and copied as it is */
    write_text("broken/tokenizer.json",
               "{\"model\": {\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}}}");
    json_t *o = program_json(NULL, "pare info broken");
    assert_non_null(strstr(string(o, "tokenizer"), "unknown: "));
    assert_non_null(strstr(string(o, "tokenizer"), "WordPiece"));
    json_decref(o);
    program_result r = program_run(NULL, "pare convert broken made");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.err, "WordPiece"));
    assert_non_null(strstr(r.err, "copied as it is"));
    program_free(&r);
    r = program_run(NULL, "cmp broken/tokenizer.json made/tokenizer.json");
    assert_int_equal(r.code, 0);
    program_free(&r);
    program_refuses("pare convert broken made.gguf", "WordPiece");
    program_refuses("pare compress broken -o made.gguf -r q8_0 --dry-run", "WordPiece");

    /* no tokenizer at all */
    assert_int_equal(remove(test_path("broken/tokenizer.json")), 0);
    o = program_json(NULL, "pare info broken");
    assert_string_equal(string(o, "tokenizer"), "");
    json_decref(o);
    r = program_run(NULL, "pare convert broken bare");
    assert_int_equal(r.code, 0);
    program_free(&r);
}

/* The same for the vocabulary of a GGUF file: the type of its first token is bent. */
static void broken_vocabulary(void **state) {
    (void)state;
    static const char key[] = "tokenizer.ggml.token_type";
    program_result r = program_run(NULL, "cat model.gguf");
    char *at = memmem(r.out, r.out_len, key, sizeof key - 1);
    assert_non_null(at);
    at[sizeof key - 1 + 16] = 7; /* behind the types of the value and of its items, and the count */
    test_write("bent.gguf", r.out, r.out_len);
    program_free(&r);
    static const char *const commands[] = {"pare info bent.gguf", "pare convert bent.gguf x.gguf",
                                           "pare convert bent.gguf x"};
    for (size_t k = 0; k < sizeof commands / sizeof *commands; k++)
        program_refuses(commands[k], "bent.gguf: tokenizer.ggml.token_type: token 0: found type 7");
    assert_false(exists("x") || exists("x.gguf"));
}

static void tokenize(void **state) {
    (void)state;
    json_t *o = program_json("a\xC3\xA9\xFF<|im_end|>", "pare tokenize model.gguf");
    program_has(o, "ids,n_tokens,crc32");
    assert_int_equal(integer(o, "n_tokens"),
                     14); /* bytes: the special token's name is plain text */
    json_decref(o);
    o = program_json("a<|im_end|>", "pare tokenize model.gguf --parse-special");
    assert_int_equal(integer(o, "n_tokens"), 2);
    json_decref(o);
    /* bytes that are no UTF-8 come back as they were, and as U+FFFD in JSON */
    program_result r = program_run("97 255 98", "pare tokenize model.gguf --decode");
    assert_int_equal(r.out_len, 3);
    assert_memory_equal(r.out,
                        "a\xFF"
                        "b",
                        3);
    program_free(&r);
    o = program_json("[97, 255, 98]", "pare tokenize model.gguf --decode");
    assert_string_equal(string(o, "text"), "a\xEF\xBF\xBD"
                                           "b");
    json_decref(o);
    r = program_run("258 97", "pare tokenize model.gguf --decode --no-special");
    assert_string_equal(r.out, "a");
    program_free(&r);
}

static void run_once(void **state) {
    (void)state;
    static const char command[] = "pare run model.gguf -p hello -n 24 --ignore-eos --seed 3";
    json_t *a = program_json(NULL, command), *b = program_json(NULL, command);
    program_has(a, "text,token_ids,prompt_tokens,generated_tokens,prefill_tokens_per_s,"
                   "decode_tokens_per_s,first_token_s,peak_rss_bytes,stop_reason");
    assert_int_equal(integer(a, "prompt_tokens"), 5);
    assert_int_equal(integer(a, "generated_tokens"), 24);
    assert_int_equal(json_array_size(json_object_get(a, "token_ids")), 24);
    assert_string_equal(string(a, "stop_reason"), "length");
    assert_true(json_equal(json_object_get(a, "token_ids"), json_object_get(b, "token_ids")));
    json_decref(b);
    b = program_json(NULL, "pare run model.gguf -p hello -n 24 --ignore-eos --seed 4");
    assert_false(json_equal(json_object_get(a, "token_ids"), json_object_get(b, "token_ids")));
    json_decref(a);
    json_decref(b);
    /* a prompt from a file, from standard input and as an argument */
    test_write("prompt.txt", "hello", 5);
    const char *const same[] = {"pare run model.gguf -f prompt.txt -n 8 --temp 0",
                                "pare run model.gguf -n 8 --temp 0",
                                "pare run model.gguf -p hello -n 8 --temp 0"};
    json_t *first = program_json(NULL, same[0]);
    for (int i = 1; i < 3; i++) {
        b = program_json(i == 1 ? "hello" : NULL, same[i]);
        assert_string_equal(string(b, "text"), string(first, "text"));
        json_decref(b);
    }
    /* what is streamed is what the object holds */
    program_result r = program_runf(NULL, "%s -q", same[0]);
    size_t n = strlen(string(first, "text"));
    assert_memory_equal(r.out, string(first, "text"), n);
    assert_string_equal(r.err, "");
    program_free(&r);
    json_decref(first);
}

static void run_limits(void **state) {
    (void)state;
    json_t *o = program_json(NULL, "pare run model.gguf -p hello --ctx 16 --ignore-eos");
    assert_string_equal(string(o, "stop_reason"), "context");
    json_decref(o);
    program_result r = program_run(NULL, "pare run model.gguf -p hello --ctx 16 --ignore-eos");
    assert_non_null(strstr(r.err, "; fast; "));
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.err, "context of 16 positions is full"));
    program_free(&r);
}

static void run_errors(void **state) {
    (void)state;
    const struct {
        const char *command, *told;
    } cases[] = {
        {"pare run model.gguf -p '' -n 4", "found 0 tokens, expected at least 1"},
        {"pare run model.gguf -p 'too long for it' --ctx 8", "found 15 tokens, expected at most 8"},
        {"pare run model.gguf -p a -f b", "both -p and -f"},
        {"pare run model.gguf -i -p a", "found -i with -p"},
        {"pare run model.gguf -p a --system b", "--system needs --chat or -i"},
        {"pare run model.gguf -p a --draft-max 7", "--draft-max needs --draft or --speculate"},
        {"pare run nochat --chat -p a", "found none"},
        {"pare run strange --chat -p a", "unknown format"},
        {"pare run model.gguf -p a --kv q7", "q7"},
        {"pare run wild -p aaa -n 4 --temp 0", "NaN"},
        {"pare run model.gguf -p a --top-p 1.5",
         "--top-p: found '1.5', expected a number from 0 to 1"},
        {"pare run model.gguf -p a --temp nan", "--temp: found 'nan'"},
        {"pare run model.gguf -p a --temp 0,5", "--temp: found '0,5'"},
        {"pare run model.gguf -p a --compute slow", "expected exact|fast"},
        {"pare run wiki.test.raw -p a", "wiki.test.raw"},
        {"pare run model.gguf -f no/such/file", "no/such/file"},
        {"pare run model.gguf -p a --speculate ngram --act w8a8:act=per_tensor_dynamic",
         "speculate: found activations quantized as "},
        {"pare run model.gguf -p a --draft model.gguf --act w8a8:act=per_tensor_dynamic",
         "expected a scheme that treats each token alone"},
        {"pare run model.gguf -p a --speculate maybe", "expected off|ngram"},
        {"pare run model.gguf -p a --speculate ngram --draft other",
         "both --draft and --speculate"},
        {"pare run model.gguf -p a --draft-max 8", "--draft-max: found '8'"},
        {"pare run model.gguf -p a --draft-max 0", "--draft-max: found '0'"},
        {"pare run model.gguf -p a --draft no/such", "no/such"},
        {"pare run model.gguf -p a --draft foreign",
         "foreign: token 257: found \"<|im_begin|>\", expected \"<|im_start|>\" as in model.gguf"},
        {"pare run model.gguf -p a --draft nan", "nan"},
    };
    tiny_model("foreign", NULL);
    program_result r = program_run(NULL, "sed -i s/im_start/im_begin/g foreign/tokenizer.json");
    assert_int_equal(r.code, 0);
    program_free(&r);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        program_refuses(cases[i].command, cases[i].told);
}

/* Guesses change nothing but the speed, in one shot and in a conversation. */
static void guesses(void **state) {
    (void)state;
    static const char *const with[] = {"--speculate ngram", "--draft model.gguf", "--draft other"};
    static const char once[] = "pare run model.gguf -p abcabcabcabc -n 40 --ignore-eos --temp 0";
    static const char talk[] = "pare run model.gguf -i -n 20 --ignore-eos --temp 0 -q";
    json_t *a = program_json(NULL, once);
    assert_int_equal(integer(a, "drafted_tokens"), 0);
    assert_int_equal(integer(a, "accepted_tokens"), 0);
    program_result answers = program_run("hello\nhello again\nbye\n", talk);
    size_t drafted = 0;
    for (size_t i = 0; i < 3; i++) {
        char command[256];
        snprintf(command, sizeof command, "%s %s --draft-max 5", once, with[i]);
        json_t *b = program_json(NULL, command);
        assert_string_equal(string(b, "text"), string(a, "text"));
        assert_true(json_equal(json_object_get(b, "token_ids"), json_object_get(a, "token_ids")));
        assert_true(integer(b, "accepted_tokens") <= integer(b, "drafted_tokens"));
        drafted += (size_t)integer(b, "drafted_tokens");
        json_decref(b);
        program_result r = program_runf("hello\nhello again\nbye\n", "%s %s", talk, with[i]);
        assert_int_equal(r.code, 0);
        assert_int_equal(r.out_len, answers.out_len);
        assert_memory_equal(r.out, answers.out, r.out_len);
        program_free(&r);
    }
    assert_true(drafted > 0);
    program_free(&answers);
    json_decref(a);
}

/* A conversation: one object a line, and the second answer has the first question before it. */
static void conversation(void **state) {
    (void)state;
    program_result r = program_run("hello\nand now?\n",
                                   "pare run model.gguf -i -n 6 --temp 0 --ignore-eos --json");
    assert_int_equal(r.code, 0);
    assert_int_equal(program_lines(r.out), 2);
    size_t prompt[2];
    char *line = r.out;
    for (int i = 0; i < 2; i++) {
        json_t *o = json_loadb(line, strcspn(line, "\n"), 0, NULL);
        assert_non_null(o);
        prompt[i] = (size_t)integer(o, "prompt_tokens");
        json_decref(o);
        line += strcspn(line, "\n") + 1;
    }
    program_free(&r);
    /* tokens are bytes: all of the first turn is kept, only what follows the answer is computed */
    assert_int_equal(prompt[0], strlen("user\nhello\nassistant\n") + 3);
    assert_in_range(prompt[1], strlen("\nuser\nand now?\nassistant\n") + 4, 40);
    r = program_run("hello\n/exit\nignored\n", "pare run model.gguf -i -n 3 -q --system S");
    assert_int_equal(r.code, 0);
    assert_string_equal(r.err, "");
    program_free(&r);
}

static void eval(void **state) {
    (void)state;
    json_t *o =
        program_json(NULL, "pare eval model.gguf --text wiki.test.raw --ctx 64 --windows 3");
    program_has(o, "perplexity.protocol,perplexity.ctx,perplexity.ppl,perplexity.ppl_stderr,"
                   "perplexity.nll_sum,perplexity.n_scored,perplexity.n_tokens,"
                   "perplexity.n_windows,perplexity.crc32,perplexity.seconds,"
                   "perplexity.tokens_per_s,perplexity.compute");
    json_t *hf = json_object_get(o, "perplexity");
    assert_string_equal(string(hf, "protocol"), "hf");
    assert_string_equal(string(hf, "compute"), "exact");
    assert_int_equal(integer(hf, "n_scored"), 3 * 63);
    assert_true(fabs(number(hf, "ppl") - exp(number(hf, "nll_sum") / (3 * 63))) < 1e-9);
    /* random weights: near the size of the vocabulary */
    assert_true(number(hf, "ppl") > 100 && number(hf, "ppl") < 600);
    json_decref(o);
    o = program_json(NULL,
                     "pare eval model.gguf --text wiki.test.raw --protocol llama.cpp --ctx 64 "
                     "--windows 3 --compute fast --kv f16");
    json_t *llama = json_object_get(o, "perplexity");
    assert_string_equal(string(llama, "protocol"), "llama.cpp");
    assert_string_equal(string(llama, "compute"), "fast");
    assert_int_equal(integer(llama, "n_scored"), 3 * 31);
    json_decref(o);
}

static void analyze(void **state) {
    (void)state;
    json_t *o = program_json(NULL, "pare analyze outliers model.gguf --text wiki.test.raw --ctx 64 "
                                   "--windows 3 --top 2 --records analyze.db");
    program_has(o, "analysis,ctx,n_windows,n_tokens,crc32,compute,sites,layers,seconds,record_id");
    assert_int_equal(integer(o, "n_windows"), 3);
    json_t *sites = json_object_get(o, "sites"), *layers = json_object_get(o, "layers");
    assert_int_equal(json_array_size(sites), 5 * TINY_LAYERS);
    assert_int_equal(json_array_size(layers), TINY_LAYERS);
    program_has(json_array_get(layers, 0), "layer,attention_first");
    json_t *site = json_array_get(sites, 3);
    program_has(site, "layer,site,width,top1,top10,top10_mean,median,largest,largest_behind_first,"
                      "tokens");
    assert_string_equal(string(site, "site"), "ffn_down");
    assert_int_equal(json_array_size(json_object_get(site, "tokens")), 2);
    program_has(json_array_get(json_object_get(site, "tokens"), 0),
                "window,position,channel,token_id,token,value");
    json_decref(o);
    program_result r = program_run(NULL, "pare records show 1 --records analyze.db");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "block_out"));
    program_free(&r);
    r = program_run(NULL, "pare report --records analyze.db");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "id=\"outliers\""));
    program_free(&r);
    program_refuses("pare analyze outlier model.gguf --text wiki.test.raw",
                    "found 'outlier', expected outliers");
    program_refuses("pare analyze outliers model.gguf", "expected --text FILE");
    program_refuses("pare analyze outliers wild --text none.txt", "none.txt");
}

static void eval_against(void **state) {
    (void)state;
    json_t *o = program_json(
        NULL,
        "pare eval model.gguf --text wiki.test.raw --ctx 64 --windows 2 --against model.gguf");
    program_has(o,
                "against.kl_mean,against.kl_p99,against.same_top,against.ppl_ratio,against.flips");
    json_t *same = json_object_get(o, "against"), *ppl = json_object_get(o, "perplexity");
    assert_true(number(same, "kl_mean") == 0 && number(same, "kl_p99") == 0);
    assert_true(number(same, "same_top") == 1 && number(same, "ppl_ratio") == 1);
    /* the way through logits gives the perplexity of the way through log-probabilities */
    json_t *alone =
        program_json(NULL, "pare eval model.gguf --text wiki.test.raw --ctx 64 --windows 2");
    double a = number(ppl, "ppl"), b = number(json_object_get(alone, "perplexity"), "ppl");
    assert_true(fabs(a / b - 1) < 1e-5);
    json_decref(alone);
    json_decref(o);
    o = program_json(
        NULL, "pare eval model.gguf --text wiki.test.raw --ctx 64 --windows 2 --against other");
    json_t *apart = json_object_get(o, "against");
    assert_true(number(apart, "kl_mean") > 1e-3 &&
                number(apart, "kl_p99") > number(apart, "kl_mean"));
    assert_true(number(apart, "same_top") < 1);
    json_decref(o);
}

/* A base file of llama.cpp: two windows of 64 tokens, every distribution even. */
static void write_even_logits(const char *name) {
    enum { LOGITS_CTX = 64, LOGITS_ROWS = 31, LOGITS_CODES = 2 * ((TINY_VOCAB + 1) / 2) + 4 };
    const int32_t counts[] = {LOGITS_CTX, TINY_VOCAB, 2};
    const float range[] = {0, -logf(TINY_VOCAB)};
    const size_t n = 8 + sizeof counts + 4 * 2 * LOGITS_CTX;
    static char data[8 + 12 + 4 * 2 * LOGITS_CTX + 2 * LOGITS_ROWS * LOGITS_CODES * 2];
    memcpy(data, "_logits_", 8);
    memcpy(data + 8, counts, sizeof counts);
    for (size_t i = 0; i < 2 * LOGITS_ROWS; i++)
        memcpy(data + n + i * LOGITS_CODES * 2, range, sizeof range);
    test_write(name, data, sizeof data);
}

static void eval_against_logits(void **state) {
    (void)state;
    write_even_logits("base.kld");
    json_t *o = program_json(NULL, "pare eval model.gguf --against base.kld");
    program_has(o, "against.kl_mean,against.kl_p99,against.same_top,against.ppl_ratio,"
                   "against.flips,perplexity.crc32,record_id");
    json_t *ppl = json_object_get(o, "perplexity"), *against = json_object_get(o, "against");
    assert_string_equal(string(ppl, "protocol"), "llama.cpp");
    assert_true(integer(ppl, "ctx") == 64 && integer(ppl, "n_windows") == 2);
    assert_true(integer(ppl, "n_scored") == 62 && integer(ppl, "n_tokens") == 128);
    assert_true(fabs(number(against, "base_ppl") / TINY_VOCAB - 1) < 1e-5);
    assert_true(number(against, "kl_mean") > 0);
    json_decref(o);
    program_result r = program_run(NULL, "pare eval model.gguf --against base.kld --windows 1 "
                                         "--protocol llama.cpp --ctx 64");
    assert_int_equal(r.code, 0);
    assert_true(strstr(r.out, "llama.cpp-64") && strstr(r.out, "KL mean"));
    program_free(&r);
    const struct {
        const char *options, *told;
    } cases[] = {
        {"--protocol hf", "found --protocol hf, expected llama.cpp"},
        {"--tasks rte --data tasks", "expected a model to answer them too"},
        {"--ctx 128", "found 128 tokens, expected the 64 of base.kld"},
        {"--text wiki.test.raw", "base.kld: token 0: found id 0, expected "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char command[160];
        snprintf(command, sizeof command, "pare eval model.gguf --against base.kld %s",
                 cases[i].options);
        program_refuses(command, cases[i].told);
    }
}

static void eval_save_logits(void **state) {
    (void)state;
    json_decref(program_json(NULL, "pare eval model.gguf --text wiki.test.raw --ctx 32 --windows 2 "
                                   "--save-logits own.kld"));
    json_t *o = program_json(NULL, "pare eval model.gguf --against own.kld");
    json_t *against = json_object_get(o, "against");
    assert_true(fabs(number(against, "kl_mean")) < 1e-4);
    assert_true(number(against, "same_top") == 1);
    json_decref(o);
#define SAVE "pare eval model.gguf --save-logits other.kld "
    program_refuses(SAVE "--tasks rte --data tasks", "found --save-logits without a --text");
    program_refuses(SAVE "--text wiki.test.raw --protocol hf", "expected llama.cpp");
    program_refuses(SAVE "--text wiki.test.raw --against model.gguf", "expected one of them");
    program_refuses("pare eval model.gguf --text wiki.test.raw --ctx 32 --save-logits model.gguf",
                    "model.gguf: found something else than a base file");
#undef SAVE
}

static void eval_tasks(void **state) {
    (void)state;
    json_t *o =
        program_json(NULL, "pare eval model.gguf --tasks rte,copa --data tasks --bos never");
    json_t *rte = json_array_get(json_object_get(o, "tasks"), 0);
    program_has(rte, "name,n,acc,acc_norm,acc_stderr,acc_norm_stderr,ppl,n_requests,n_tokens,"
                     "n_scored,n_computed,n_cut,crc32,bos,compute,seconds");
    program_has(o, "tasks_mean.acc,tasks_mean.acc_stderr,tasks_mean.quoted");
    assert_null(json_object_get(o, "perplexity"));
    assert_string_equal(string(rte, "name"), "rte");
    assert_true(integer(rte, "n") == 2 && integer(rte, "n_requests") == 4);
    json_decref(o);

    /* beside the perplexity, and against a model: itself changes nothing */
    o = program_json(NULL, "pare eval model.gguf --tasks rte --limit 1 --data tasks --text "
                           "wiki.test.raw --ctx 64 --windows 2 --against model.gguf");
    program_has(o, "perplexity.ppl,against.kl_mean,against.flips,against.tasks");
    json_t *against = json_object_get(o, "against");
    json_t *pair = json_array_get(json_object_get(against, "tasks"), 0);
    assert_int_equal(integer(against, "flips"), 0);
    assert_true(number(pair, "diff") == 0 && number(pair, "diff_stderr") == 0);
    assert_int_equal(integer(json_array_get(json_object_get(o, "tasks"), 0), "n"), 1);
    json_decref(o);
    program_result r = program_run(NULL, "pare eval model.gguf --tasks copa --data tasks --against "
                                         "other");
    assert_int_equal(r.code, 0);
    assert_true(strstr(r.out, "gained") && strstr(r.out, "mean acc "));
    program_free(&r);
}

static void eval_errors(void **state) {
    (void)state;
    test_write("short.txt", "too short", 9);
    test_write("empty.txt", "", 0);
    const struct {
        const char *command, *told;
    } cases[] = {
        {"pare eval model.gguf", "found no --text and no --tasks"},
        {"pare eval model.gguf --text wiki.test.raw --limit 5",
         "--limit: found it without --tasks"},
        {"pare eval model.gguf --text wiki.test.raw --bos always", "--bos: found it without --tas"},
        {"pare eval model.gguf --text wiki.test.raw --data no", "--data: found it without --tasks"},
        {"pare eval model.gguf --tasks rte --data tasks --protocol hf",
         "--protocol: found it with"},
        {"pare eval model.gguf --tasks rte --data tasks --ctx 64",
         "--ctx: found it without --text"},
        {"pare eval model.gguf --tasks rte --data tasks --windows 1",
         "--windows: found it without"},
        {"pare eval model.gguf --tasks rte,copia --data tasks", "did you mean 'copa'?"},
        {"pare eval model.gguf --tasks , --data tasks", "--tasks: found none"},
        {"pare eval model.gguf --tasks qqqqqqqq --data tasks", "expected some of all, lambada_op"},
        {"pare eval model.gguf --tasks rte,rte --data tasks", "found 'rte' twice"},
        {"pare eval model.gguf --tasks all --data tasks", "lambada_test.jsonl: found no such file"},
        {"pare eval model.gguf --tasks rte --data bad",
         "bad/rte/dev.jsonl: line 1: sentence1: fou"},
        {"pare eval model.gguf --tasks rte --data tasks --bos maybe", "--bos"},
        {"pare eval model.gguf --text no/file", "no/file"},
        {"pare eval model.gguf --text .", "found a folder"},
        {"pare eval model.gguf --text empty.txt", "found 0 tokens, expected at least 512"},
        {"pare eval model.gguf --text short.txt --ctx 64", "found 9 tokens, expected at least 64"},
        {"pare eval model.gguf --text short.txt --ctx 5 --protocol llama.cpp", "at least 10 (two"},
        {"pare eval model.gguf --text wiki.test.raw --ctx 513", "expected 2 to 512"},
        {"pare eval model.gguf --text wiki.test.raw --protocol HF", "did you mean 'hf'?"},
        {"pare eval wild --text wiki.test.raw --ctx 64", "log p = "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        program_refuses(cases[i].command, cases[i].told);
}

/* What is wrong with the recipe or the output is told before the evaluation, which may take hours.
 */
static void compress_errors(void **state) {
    (void)state;
    const struct {
        const char *command, *told;
    } cases[] = {
        {"pare compress model.gguf -o x.gguf -r q9_0 --eval empty.txt", "did you mean"},
        {"pare compress model.gguf -o x.gguf -r q8_0 --eval empty.txt", "found 0 tokens"},
        {"pare compress model.gguf -o . -r q8_0 --eval empty.txt", "a folder with files"},
    };
    test_write("empty.txt", "", 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        program_refuses(cases[i].command, cases[i].told);
}

static void bench(void **state) {
    (void)state;
    json_t *o = program_json(NULL, "pare bench model.gguf --pp 32 --tg 4 --batch 1,4 --depth 0,16 "
                                   "--reps 2");
    program_has(o, "compute,act,prefix_positions,limits,rows");
    json_t *rows = json_object_get(o, "rows"), *row;
    size_t i, n_prefill = 0;
    assert_int_equal(json_array_size(rows), 6);
    json_array_foreach(rows, i, row) {
        program_has(row, "what,n,batch,tokens_per_s,stddev,bytes_per_token,share_of_bandwidth,"
                         "flop_per_s,op_limit,share_of_peak");
        n_prefill += strcmp(string(row, "what"), "prefill") == 0;
        assert_true(number(row, "tokens_per_s") > 0 && number(row, "flop_per_s") > 0);
        assert_true(number(row, "share_of_bandwidth") > 0 &&
                    number(row, "share_of_bandwidth") <= 1);
        assert_true(number(row, "share_of_peak") > 0 && number(row, "share_of_peak") <= 1);
    }
    assert_int_equal(n_prefill, 2);
    json_decref(o);
    program_result r = program_run(NULL, "pare bench model.gguf --pp 600");
    assert_int_equal(r.code, 2);
    assert_non_null(strstr(r.err, "found 600 tokens"));
    program_free(&r);
}

/* A target chooses the largest mix that meets it; what none meets is told with what there is. */
static void targets(void **state) {
    (void)state;
    double last = 0;
    static const char *const limits[] = {"5.6", "7", "9", "40"};
    for (size_t i = 0; i < 4; i++) {
        char command[200];
        snprintf(command, sizeof command, "pare compress model.gguf --target-bpw %s --dry-run",
                 limits[i]);
        json_t *o = program_json(NULL, command);
        double bits = json_number_value(json_object_get(o, "bits_per_weight"));
        if (!(bits <= atof(limits[i])) || !(bits >= last))
            fail_msg("%s: %g bits after %g", command, bits, last);
        last = bits;
        json_decref(o);
    }
    assert_true(last >= 16);
    program_result r = program_run(NULL, "pare compress model.gguf --target-size 2KB --dry-run");
    assert_int_equal(r.code, 2);
    assert_non_null(strstr(r.err, "target: found none that fits, expected at least"));
    program_free(&r);
}

/* Every kernel is there, with what the limits are and how far from them it is. */
static void bench_kernels(void **state) {
    (void)state;
    static const char *const kernels[] = {
        "linear_exact", "linear_fast", "encode",      "decode",        "attention",
        "kv_store",     "kv_load",     "rmsnorm",     "rope",          "softmax",
        "logsumexp",    "argmax",      "silu_mul",    "gelu_mul",      "softcap",
        "quantize",     "layernorm",   "add_rmsnorm", "attention_fast"};
    json_t *o = program_json(NULL, "pare bench --kernels --shape 64x256 --rows 1,20 --encodings "
                                   "q4_k,nm24_q8 --heads 4/2/32 --ctx 96 --cached --reps 1");
    program_has(o, "limits.dram_read_bytes_per_s,limits.f32_flop_per_s,limits.int4_op_per_s");
    json_t *rows = json_object_get(o, "rows"), *row;
    size_t i;
    /* 2 encodings, 5 codecs, one of them in integers for one row, 12 operators */
    assert_int_equal(json_array_size(rows), 2 * (2 * 2 + 2) + 5 * (2 + 2) + 1 + 12 * 2);
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++) {
        bool found = false;
        json_array_foreach(rows, i, row) found |= strcmp(string(row, "kernel"), kernels[k]) == 0;
        if (!found) fail_msg("no row for %s", kernels[k]);
    }
    json_array_foreach(rows, i, row) {
        program_has(row, "kernel,encoding,rows,time_s,bytes_per_s,share_of_bandwidth,op_per_s,"
                         "share_of_peak,limit,share_of_limit,rms_error");
        assert_true(number(row, "time_s") > 0 && number(row, "bytes_per_s") > 0);
        assert_true(number(row, "share_of_limit") > 0 && number(row, "share_of_limit") <= 1);
        bool linear = strncmp(string(row, "kernel"), "linear", 6) == 0;
        assert_int_equal(json_is_number(json_object_get(row, "rms_error")), linear);
        if (strcmp(string(row, "kernel"), "linear_exact") == 0)
            assert_true(number(row, "rms_error") <= 1e-6);
    }
    json_decref(o);

    program_result r = program_run(NULL, "pare bench --kernels --only rope --rows 3 --reps 1");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "rope    f32          3"));
    assert_non_null(strstr(r.out, "limits in this run: memory"));
    program_free(&r);
    /* what has no effect is told */
    r = program_run(NULL, "pare bench --kernels --only kv_load --encodings q4_0 --heads 2/1/80 "
                          "--rows 1 --ctx 64 --cached --reps 1");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.err, "--encodings q4_0: --only kv_load measures nothing that has"));
    assert_non_null(strstr(r.err, "q8_0: 80 values a head are no multiple of its blocks"));
    assert_null(strstr(r.err, "--ctx"));
    program_free(&r);
    r = program_run(NULL, "pare bench --kernels --only rope --ctx 64 --rows 1 --reps 1");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.err, "--ctx 64: --only rope measures nothing that has a context"));
    program_free(&r);
}

static void bench_errors(void **state) {
    (void)state;
    static const struct {
        const char *command, *told;
    } cases[] = {
        {"pare bench", "found neither a model nor --kernels"},
        {"pare bench model.gguf --kernels", "found both, expected either"},
        {"pare bench model.gguf --shape 64x64", "--shape: found it with a model"},
        {"pare bench --kernels --tg 4", "--tg: found it with --kernels, expected a model"},
        {"pare bench --kernels --shape 64", "--shape: found '64', expected OUTxIN"},
        {"pare bench --kernels --shape -1x64", "found '-1x64'"},
        {"pare bench --kernels --shape 64x64x64", "found '64x64x64'"},
        {"pare bench --kernels --shape 0x64", "outputs: found 0, expected 1 to"},
        {"pare bench --kernels --shape 64x99999999999999999999", "expected OUTxIN"},
        {"pare bench --kernels --shape 64x9999999", "inputs: found 9999999"},
        {"pare bench --kernels --heads 32/8", "--heads: found '32/8', expected N/KV/DIM"},
        {"pare bench --kernels --heads 5/2/64", "expected a multiple"},
        {"pare bench --kernels --heads 4/2/63", "an even width"},
        {"pare bench --kernels --heads 4/8/64", "key-value heads: found 8, expected 1 to 4"},
        {"pare bench --kernels --rows 0", "--rows: found '0'"},
        {"pare bench --kernels --encodings q4k", "found 'q4k', expected names with commas; did you "
                                                 "mean 'q4_k'?"},
        {"pare bench --kernels --encodings q4_k,", "--encodings: found ''"},
        {"pare bench --kernels --only ropes", "did you mean 'rope'?"},
        {"pare bench --kernels --encodings q4_k --shape 8x100", "expected a multiple of 256"},
        {"pare bench --kernels --encodings q4_k --shape 8x100",
         "shape 8x100, encoding q4_k: found"},
        {"pare bench --kernels --encodings nvfp4 --shape 8x64", "nvfp4 can only be read"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        program_refuses(cases[i].command, cases[i].told);
}

/* SIGINT and SIGTERM stop long work within 5 s with their exit codes; a second one does too. */
static void interrupted(void **state) {
    (void)state;
    const int signals[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < 4; i++) {
        const char *const argv[] = {"pare", "bench",  "model.gguf", "--pp",
                                    "512",  "--reps", "1000",       NULL};
        pid_t pid = program_start(argv);
        usleep(300000);
        kill(pid, signals[i % 2]);
        if (i >= 2) kill(pid, signals[i % 2]);
        assert_int_equal(program_wait(pid, 5), 128 + signals[i % 2]);
        program_result r = program_run(NULL, "cat err");
        if (i < 2) {
            assert_non_null(strstr(r.out, "interrupted"));
            assert_int_equal(program_lines(r.out), 1);
        }
        program_free(&r);
    }
}

/* A reader that closes early ends the program quietly. */
static void closed_pipe(void **state) {
    (void)state;
    program_result r = program_run(
        NULL,
        "(pare run model.gguf -p hello --ignore-eos -q; echo $? >&2) | head -c 10 >/dev/null");
    assert_string_equal(r.err, "0\n");
    program_free(&r);
}

/* The same bytes whatever the number of threads. */
static void threads(void **state) {
    (void)state;
    double ppl[3];
    for (int n = 1; n <= 3; n++) {
        char command[200];
        snprintf(command, sizeof command,
                 "pare eval model.gguf --text wiki.test.raw --ctx 64 --windows 2 --threads %d", n);
        json_t *o = program_json(NULL, command);
        ppl[n - 1] = number(json_object_get(o, "perplexity"), "nll_sum");
        json_decref(o);
    }
    assert_true(ppl[0] == ppl[1] && ppl[0] == ppl[2]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples),
        cmocka_unit_test(info),
        cmocka_unit_test(broken_tokenizers),
        cmocka_unit_test(broken_vocabulary),
        cmocka_unit_test(tokenize),
        cmocka_unit_test(run_once),
        cmocka_unit_test(run_limits),
        cmocka_unit_test(run_errors),
        cmocka_unit_test(guesses),
        cmocka_unit_test(conversation),
        cmocka_unit_test(eval),
        cmocka_unit_test(analyze),
        cmocka_unit_test(eval_against),
        cmocka_unit_test(eval_against_logits),
        cmocka_unit_test(eval_save_logits),
        cmocka_unit_test(eval_tasks),
        cmocka_unit_test(eval_errors),
        cmocka_unit_test(compress_errors),
        cmocka_unit_test(bench),
        cmocka_unit_test(targets),
        cmocka_unit_test(bench_kernels),
        cmocka_unit_test(bench_errors),
        cmocka_unit_test(interrupted),
        cmocka_unit_test(closed_pipe),
        cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}

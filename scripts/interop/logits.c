/* logits MODEL IDS OUT N_CTX [none]: i32 ids in windows of N_CTX, each from position 0, to f32
 * logits [ids][vocabulary] in exact mode, with none without the quantized inputs that the model
 * asks for. For scripts/interop; uses the public API only. */
#include <pare/compress.h>
#include <pare/model.h>

#include <stdio.h>
#include <stdlib.h>

static int fail(const char *what) {
    fprintf(stderr, "logits: %s\n", what);
    return 1;
}

static int write_rows(void *arg, size_t first, size_t n_rows, const float *logits) {
    FILE *out = ((void **)arg)[0];
    size_t vocab = *(const size_t *)((void **)arg)[1];
    (void)first;
    return fwrite(logits, sizeof *logits, n_rows * vocab, out) != n_rows * vocab;
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 6) return fail("expected MODEL IDS OUT N_CTX");
    pare_error err = {0};
    pare_options o = pare_options_default();
    pare_runtime *rt;
    pare_model *m;
    if (pare_runtime_create(&rt, &o, &err) != PARE_OK) return fail(err.message);
    if (pare_model_load(&m, rt, argv[1], &err) != PARE_OK) return fail(err.message);
    if (argc == 6 &&
        pare_model_quantize_act(m, &(pare_act_options){.spec = argv[5]}, &err) != PARE_OK)
        return fail(err.message);
    size_t n_ctx = strtoul(argv[4], NULL, 10), vocab = pare_model_vocab_size(m), n;
    FILE *in = fopen(argv[2], "rb"), *out = fopen(argv[3], "wb");
    int32_t *ids = malloc(n_ctx * sizeof *ids);
    if (!in || !out || !ids) return fail("cannot open IDS or OUT");
    while ((n = fread(ids, sizeof *ids, n_ctx, in)) > 0) {
        pare_session_options so = pare_session_options_default();
        so.n_ctx = n_ctx;
        so.compute = PARE_COMPUTE_EXACT;
        pare_session *s;
        void *arg[] = {out, &vocab};
        if (pare_session_create(&s, m, &so, &err) != PARE_OK ||
            pare_session_eval_all(s, ids, n, 0, write_rows, arg, &err) != PARE_OK)
            return fail(err.message);
        pare_session_free(s);
    }
    free(ids);
    fclose(in);
    if (fclose(out) != 0) return fail("cannot write OUT");
    pare_model_free(m);
    pare_runtime_free(rt);
    return 0;
}

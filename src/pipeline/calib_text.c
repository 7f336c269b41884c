#include "pipeline/calib_text.h"

#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "eval/perplexity.h"
#include "pare/eval.h"

#include <string.h>

enum { MAX_TEXT = 1 << 30 };

static pare_status choose(int32_t **out, const pare_runtime *rt, const pare_ids *all, int32_t bos,
                          const char *text, size_t n, size_t ctx, size_t vocab_size,
                          pare_error *err) {
    size_t from_text = ctx - (bos >= 0), count;
    if (all->n < from_text)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found %zu tokens, expected at least %zu for a calibration sequence",
                         text, all->n, from_text);
    int32_t *ids = pare_mul_size(&count, n, ctx) ? pare_malloc(count, sizeof *ids) : NULL;
    if (!ids) return pare_fail(err, PARE_ERR_NOMEM, "calibration: out of memory");
    for (size_t i = 0; i < n; i++) {
        uint32_t r[4];
        pare_philox(r, pare_runtime_seed(rt), 0xCA11B, i);
        uint64_t number = (uint64_t)r[0] << 32 | r[1];
        size_t at = (size_t)(number % (all->n - from_text + 1));
        int32_t *to = ids + i * ctx;
        if (bos >= 0) *to++ = bos;
        memcpy(to, all->data + at, from_text * sizeof *to);
    }
    *out = ids;
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= vocab_size)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: found token %d, expected ids below %zu, the model's vocabulary",
                             text, ids[i], vocab_size);
    return PARE_OK;
}

pare_status pare_calib_text(int32_t **ids, size_t *text_tokens, const pare_model *m,
                            const char *text, size_t n, size_t ctx, pare_error *err) {
    char *data;
    size_t bytes;
    pare_ids all = {0};
    pare_tokenizer *tok = NULL;
    *ids = NULL;
    PARE_TRY(pare_file_read_all(&data, &bytes, text, MAX_TEXT, err));
    pare_status st = pare_tokenizer_load(&tok, pare_source_path(m->source), err);
    if (st == PARE_OK) st = pare_eval_tokens(&all, tok, data, bytes, PARE_PROTOCOL_HF, err);
    if (st == PARE_OK) {
        int32_t bos = pare_tokenizer_added_bos(tok);
        *text_tokens = all.n;
        if (pare_model_prefix_holds(m, bos)) bos = -1;
        st = choose(ids, m->rt, &all, bos, text, n, ctx, m->config.vocab_size, err);
    }
    if (st != PARE_OK) {
        pare_free(*ids);
        *ids = NULL;
    }
    pare_ids_free(&all);
    pare_tokenizer_free(tok);
    pare_free(data);
    return st;
}

pare_status pare_calib_ctx(size_t *ctx, size_t asked, size_t ctx_max, pare_error *err) {
    *ctx = asked ? asked : 512;
    if (!asked && ctx_max && *ctx > ctx_max) *ctx = ctx_max;
    if (*ctx >= 2 && (!ctx_max || *ctx <= ctx_max)) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG,
                     "calib-ctx: found %zu, expected 2 to %zu (the model's maximum)", *ctx,
                     ctx_max);
}

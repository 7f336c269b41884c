#include "pipeline/export_tokenizer.h"

#include "base/memory.h"
#include "io/json.h"
#include "text/tokenizer_export.h"
#include "text/vocab.h"

#include <string.h>

/* What transformers' generate() reads. */
static pare_status write_generation_config(const pare_tokenizer *tok, const char *folder,
                                           pare_error *err) {
    json_t *o = json_object();
    char *path = pare_path_join(folder, "generation_config.json");
    pare_status st =
        o && path ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", folder);
    if (st == PARE_OK) {
        if (pare_tokenizer_bos(tok) >= 0)
            json_object_set_new(o, "bos_token_id", json_integer(pare_tokenizer_bos(tok)));
        json_t *ends = json_array();
        for (size_t i = 0; i < pare_tokenizer_vocab_size(tok); i++)
            if (pare_tokenizer_is_end(tok, (int32_t)i))
                json_array_append_new(ends, json_integer((json_int_t)i));
        json_object_set_new(o, "eos_token_id", ends);
        st = pare_json_write(path, o, err);
    }
    json_decref(o);
    pare_free(path);
    return st;
}

pare_status pare_export_tokenizer_hf(pare_runtime *rt, const pare_gguf *header, const char *folder,
                                     pare_error *err) {
    pare_tokenizer *tok;
    PARE_TRY(pare_tokenizer_of_model(&tok, header, NULL, err));
    if (!tok) {
        pare_warn(rt, "%s: holds no tokenizer; the output folder has none", pare_gguf_path(header));
        return PARE_OK;
    }
    pare_status st = pare_tokenizer_write_json(tok, folder, err);
    if (st == PARE_OK) st = write_generation_config(tok, folder, err);
    pare_tokenizer_free(tok);
    return st;
}

pare_status pare_export_tokenizer_gguf(pare_runtime *rt, pare_gguf_writer *w, const char *model,
                                       size_t vocab_size, pare_error *err) {
    pare_tokenizer *tok;
    PARE_TRY(pare_tokenizer_of_model(&tok, NULL, model, err));
    if (!tok) {
        pare_warn(rt, "%s: holds no tokenizer.json; the output has no vocabulary", model);
        return pare_gguf_set_str(w, "tokenizer.ggml.model", "no_vocab", err);
    }
    pare_gguf_vocab vocab = {0};
    pare_status st = pare_tokenizer_to_gguf(&vocab, tok, vocab_size, err);
    if (st == PARE_OK && !vocab.exact)
        pare_warn(
            rt, "%s: GGUF cannot say everything about this tokenizer; ids may differ on rare texts",
            model);
    if (st == PARE_OK) st = pare_gguf_vocab_write(&vocab, w, err);
    pare_gguf_vocab_free(&vocab);
    pare_tokenizer_free(tok);
    return st;
}

/* Makes a random llama larger than any cache, for speed alone: 22 layers of 2048 channels, 32 heads
 * on 4 key-value heads, a feed-forward part of 5632, an output of its own, 65536 positions; f16,
 * normal weights. The tokenizer is another GGUF model's, so that every program loads the file.
 *
 *     make_llama TOKENIZER.gguf OUT.gguf
 */
#include "base/memory.h"
#include "base/rng.h"
#include "io/ggml_types.h"
#include "io/gguf_writer.h"
#include "kernels/blocks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 22, DIM = 2048, FFN = 5632, HEADS = 32, KV_HEADS = 4, HEAD = DIM / HEADS };

static pare_error failure;

static void must(pare_status st) {
    if (st == PARE_OK) return;
    fprintf(stderr, "make_llama: %s\n", failure.message);
    exit(1);
}

static void keys(pare_gguf_writer *w, const pare_gguf *tokenizer) {
    static const struct {
        const char *name;
        uint32_t value;
    } sizes[] = {
        {"llama.block_count", LAYERS},         {"llama.context_length", 65536},
        {"llama.embedding_length", DIM},       {"llama.feed_forward_length", FFN},
        {"llama.attention.head_count", HEADS}, {"llama.attention.head_count_kv", KV_HEADS},
        {"llama.rope.dimension_count", HEAD},  {"general.file_type", 1},
    };
    must(pare_gguf_set_str(w, "general.architecture", "llama", &failure));
    must(pare_gguf_set_str(w, "general.name", "random llama", &failure));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        must(pare_gguf_set_u32(w, sizes[i].name, sizes[i].value, &failure));
    must(pare_gguf_set_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f, &failure));
    must(pare_gguf_set_f32(w, "llama.rope.freq_base", 1e4f, &failure));
    for (size_t i = 0; i < pare_gguf_n_kv(tokenizer); i++) {
        pare_gguf_kv kv = pare_gguf_kv_at(tokenizer, i);
        if (strncmp(kv.key, "tokenizer.", strlen("tokenizer.")) == 0)
            must(pare_gguf_set_kv(w, &kv, &failure));
    }
}

static void fill(pare_gguf_writer *w, size_t tensor, size_t rows, size_t cols, bool norm) {
    uint16_t *row = pare_malloc(cols, sizeof *row);
    float ones[DIM];
    for (size_t c = 0; c < DIM; c++) ones[c] = 1;
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols && !norm; c++)
            row[c] = pare_f32_to_f16(0.02f * pare_rng_normal(0, tensor, r * cols + c));
        must(norm ? pare_gguf_write(w, tensor, ones, cols * sizeof *ones, &failure)
                  : pare_gguf_write(w, tensor, row, cols * sizeof *row, &failure));
    }
    pare_free(row);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        size_t rows, cols;
    } layer[] = {
        {"attn_norm", 1, DIM},
        {"attn_q", DIM, DIM},
        {"attn_k", (size_t)KV_HEADS * HEAD, DIM},
        {"attn_v", (size_t)KV_HEADS * HEAD, DIM},
        {"attn_output", DIM, DIM},
        {"ffn_norm", 1, DIM},
        {"ffn_gate", FFN, DIM},
        {"ffn_up", FFN, DIM},
        {"ffn_down", DIM, FFN},
    };
    enum { PER_LAYER = sizeof layer / sizeof *layer, N = 3 + LAYERS * PER_LAYER };
    if (argc != 3) {
        fprintf(stderr, "usage: make_llama TOKENIZER.gguf OUT.gguf\n");
        return 2;
    }
    pare_gguf *tokenizer;
    pare_gguf_writer *w;
    pare_gguf_kv tokens;
    must(pare_gguf_open(&tokenizer, argv[1], &failure));
    if (!pare_gguf_kv_find(tokenizer, "tokenizer.ggml.tokens", &tokens)) {
        fprintf(stderr, "make_llama: %s: found no tokenizer.ggml.tokens\n", argv[1]);
        return 2;
    }
    must(pare_gguf_writer_create(&w, argv[2], 0, &failure));
    keys(w, tokenizer);
    size_t rows[N], cols[N];
    for (size_t t = 0; t < N; t++) {
        char name[64];
        bool vocab = t == 0 || t == N - 1, norm = t == N - 2;
        if (vocab || norm) {
            snprintf(name, sizeof name, "%s.weight",
                     norm ? "output_norm" : (t ? "output" : "token_embd"));
            rows[t] = norm ? 1 : tokens.count;
            cols[t] = DIM;
        } else {
            size_t i = (t - 1) % PER_LAYER;
            snprintf(name, sizeof name, "blk.%zu.%s.weight", (t - 1) / PER_LAYER, layer[i].name);
            rows[t] = layer[i].rows;
            cols[t] = layer[i].cols;
        }
        norm = rows[t] == 1;
        size_t dims[2] = {rows[t], cols[t]};
        must(pare_gguf_declare(w, name, norm ? PARE_GGML_F32 : PARE_GGML_F16,
                               norm ? dims + 1 : dims, norm ? 1 : 2, &failure));
    }
    must(pare_gguf_begin(w, &failure));
    for (size_t t = 0; t < N; t++) fill(w, t, rows[t], cols[t], rows[t] == 1);
    must(pare_gguf_finish(w, &failure));
    pare_gguf_writer_free(w);
    pare_gguf_close(tokenizer);
    return 0;
}

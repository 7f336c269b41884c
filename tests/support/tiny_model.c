#include "support/tiny_model.h"

#include "support/test.h"

#include "base/rng.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, FFN = 96 };

static const char chatml[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\\n' }}{% endif %}";

static void write_json(const char *folder, const char *name, json_t *json) {
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (json_dump_file(json, path, JSON_INDENT(1)) != 0) {
        perror(path);
        exit(1);
    }
    json_decref(json);
}

/* --- tokenizer --- */

/* GPT-2's printable stand-in for a byte, as UTF-8. */
static void byte_name(char out[3], int byte) {
    int cp = byte;
    bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    if (!printable) {
        cp = 256;
        for (int b = 0; b < byte; b++)
            cp += !((b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE);
    }
    if (cp < 0x80) {
        out[0] = (char)cp;
        out[1] = '\0';
    } else {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        out[2] = '\0';
    }
}

/* What puts <|endoftext|> in front. */
static json_t *put_bos(void) {
    return json_pack("{s:s,s:[{s:{s:s,s:i}},{s:{s:s,s:i}}],s:[],s:{s:{s:s,s:[i],s:[s]}}}", "type",
                     "TemplateProcessing", "single", "SpecialToken", "id", "<|endoftext|>",
                     "type_id", 0, "Sequence", "id", "A", "type_id", 0, "pair", "special_tokens",
                     "<|endoftext|>", "id", "<|endoftext|>", "ids", 256, "tokens", "<|endoftext|>");
}

/* template: NULL = bytes only, no special tokens */
static void write_tokenizer(const char *folder, const char *template, bool bos) {
    static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    json_t *vocab = json_object(), *added = json_array();
    for (int i = 0; i < 256; i++) {
        char name[3];
        byte_name(name, i);
        json_object_set_new(vocab, name, json_integer(i));
    }
    for (int i = 0; i < 3 && template; i++) {
        json_object_set_new(vocab, special[i], json_integer(256 + i));
        json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", 256 + i,
                                               "content", special[i], "single_word", 0, "lstrip", 0,
                                               "rstrip", 0, "normalized", 0, "special", 1));
    }
    write_json(folder, "tokenizer.json",
               json_pack("{s:s,s:n,s:n,s:o,s:n,s:{s:s,s:b,s:b,s:b},s:o,s:{s:s,s:b,s:b,s:b},"
                         "s:{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:o,s:[]}}",
                         "version", "1.0", "truncation", "padding", "added_tokens", added,
                         "normalizer", "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0,
                         "trim_offsets", 1, "use_regex", 1, "post_processor",
                         bos ? put_bos() : json_null(), "decoder", "type", "ByteLevel",
                         "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1, "model", "type",
                         "BPE", "dropout", "unk_token", "continuing_subword_prefix",
                         "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "vocab", vocab,
                         "merges"));
    if (!template) return;
    json_t *config = json_pack("{s:s,s:s,s:s}", "tokenizer_class", "GPT2Tokenizer", "eos_token",
                               "<|im_end|>", "bos_token", "<|endoftext|>");
    if (*template) json_object_set_new(config, "chat_template", json_string(template));
    write_json(folder, "tokenizer_config.json", config);
}

void tiny_tokenizer(const char *folder) { write_tokenizer(folder, NULL, false); }

/* --- weights --- */

typedef struct builder {
    json_t *header;
    float *data;
    size_t n, capacity;
    const tiny_options *options;
} builder;

static void add(builder *b, const char *name, size_t rows, size_t cols, float scale) {
    size_t n = rows * cols;
    if (b->n + n > b->capacity) {
        b->capacity = 2 * (b->n + n);
        b->data = realloc(b->data, b->capacity * sizeof *b->data);
        if (!b->data) exit(1);
    }
    for (size_t i = 0; i < n; i++)
        b->data[b->n + i] = scale == 0 ? 1 : scale * pare_rng_normal(b->options->seed, 1, b->n + i);
    json_t *shape = json_array();
    if (rows > 1) json_array_append_new(shape, json_integer((json_int_t)rows));
    json_array_append_new(shape, json_integer((json_int_t)cols));
    json_object_set_new(b->header, name,
                        json_pack("{s:s,s:o,s:[I,I]}", "dtype", "F32", "shape", shape,
                                  "data_offsets", (json_int_t)(4 * b->n),
                                  (json_int_t)(4 * (b->n + n))));
    b->n += n;
}

/* The second of each two columns of the last n_rows rows becomes `factor` times the first. */
static void pair_columns(builder *b, size_t n_rows, float factor) {
    float *w = b->data + b->n - n_rows * TINY_DIM;
    for (size_t i = 0; i < n_rows * TINY_DIM; i += 2) w[i + 1] = factor * w[i];
}

/* Column c of the last rows x cols values, and row c. */
static void set_column(builder *b, size_t rows, size_t cols, size_t c, float value) {
    float *w = b->data + b->n - rows * cols;
    for (size_t r = 0; r < rows; r++) w[r * cols + c] = value;
}

static void set_row(builder *b, size_t rows, size_t cols, size_t r, float value) {
    float *w = b->data + b->n - (rows - r) * cols;
    for (size_t c = 0; c < cols; c++) w[c] = value;
}

/* Massive activations by hand: the last channel of the hidden state is that of the chosen tokens
 * alone, since no other has it in its embedding and no matrix writes it. The first unit of the
 * first block's feed-forward part sees that channel alone, some 8 there behind the norm: SiLU(240)
 * times 240, thousands of times what other units have. */
enum { MARK = TINY_DIM - 1 };

static void mark_tokens(builder *b) {
    float *embd = b->data + b->n - (size_t)TINY_VOCAB * TINY_DIM;
    set_column(b, TINY_VOCAB, TINY_DIM, MARK, 0);
    for (const char *c = b->options->outliers; *c; c++) embd[(uint8_t)*c * TINY_DIM + MARK] = 5;
}

static void mark_unit(builder *b, const char *tensor, size_t rows, size_t cols) {
    if (strstr(tensor, "o_proj") || strstr(tensor, "down_proj")) set_row(b, rows, cols, MARK, 0);
    if (!strstr(tensor, "gate_proj") && !strstr(tensor, "up_proj")) return;
    set_column(b, rows, cols, MARK, 0);
    set_row(b, rows, cols, 0, 0);
    b->data[b->n - rows * cols + MARK] = 30;
}

static void add_layer(builder *b, int layer, float scale) {
    const struct {
        const char *name;
        size_t rows, cols;
        bool norm;
    } tensors[] = {{"input_layernorm", 1, TINY_DIM, true},
                   {"self_attn.q_proj", HEADS * HEAD_DIM, TINY_DIM, false},
                   {"self_attn.k_proj", KV_HEADS * HEAD_DIM, TINY_DIM, false},
                   {"self_attn.v_proj", KV_HEADS * HEAD_DIM, TINY_DIM, false},
                   {"self_attn.o_proj", TINY_DIM, HEADS * HEAD_DIM, false},
                   {"post_attention_layernorm", 1, TINY_DIM, true},
                   {"mlp.gate_proj", FFN, TINY_DIM, false},
                   {"mlp.up_proj", FFN, TINY_DIM, false},
                   {"mlp.down_proj", TINY_DIM, FFN, false}};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, tensors[i].name);
        add(b, name, tensors[i].rows, tensors[i].cols, tensors[i].norm ? 0 : scale);
        for (size_t k = 0; i == 0 && layer == TINY_LAYERS - 1 && k < TINY_DIM; k++)
            if (b->options->last_norm != 0) b->data[b->n - 1 - k] = b->options->last_norm;
        for (size_t k = 0;
             i == 3 && layer < b->options->no_values && k < tensors[i].rows * TINY_DIM; k++)
            b->data[b->n - 1 - k] = 0;
        if (b->options->cancels && layer == 0 && i == 1) pair_columns(b, tensors[i].rows, -0.9f);
        if (b->options->outliers && layer == 0)
            mark_unit(b, tensors[i].name, tensors[i].rows, tensors[i].cols);
    }
}

static void write_weights(const char *folder, const tiny_options *options) {
    builder b = {.header = json_object(), .options = options};
    float scale = options->scale != 0 ? options->scale : 0.08f;
    add(&b, "model.embed_tokens.weight", TINY_VOCAB, TINY_DIM, scale);
    if (options->cancels) pair_columns(&b, TINY_VOCAB, 1);
    if (options->outliers) mark_tokens(&b);
    for (int i = 0; i < TINY_LAYERS; i++) add_layer(&b, i, scale);
    add(&b, "model.norm.weight", 1, TINY_DIM, 0);
    for (size_t i = 0; i < TINY_DIM && options->final_norm != 0; i++)
        b.data[b.n - 1 - i] = options->final_norm;
    if (options->poison != 0) b.data[5 * TINY_DIM + 3] = options->poison;
    char path[1200], *header = json_dumps(b.header, JSON_COMPACT);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    uint64_t n = strlen(header), padded = (n + 7) / 8 * 8;
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(&padded, 8, 1, f) == 1 && fwrite(header, 1, n, f) == n;
    for (; ok && n < padded; n++) ok = fputc(' ', f) != EOF;
    ok = ok && fwrite(b.data, sizeof *b.data, b.n, f) == b.n;
    if (!f || fclose(f) != 0 || !ok) {
        perror(path);
        exit(1);
    }
    free(header);
    free(b.data);
    json_decref(b.header);
}

const char *tiny_model(const char *name, const tiny_options *options) {
    tiny_options o = options ? *options : (tiny_options){0};
    const char *folder = test_path(name);
    mkdir(folder, 0755);
    write_json(folder, "config.json",
               json_pack("{s:[s],s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:f,s:f,s:b,s:i,s:i}",
                         "architectures", "LlamaForCausalLM", "model_type", "llama", "hidden_act",
                         "silu", "hidden_size", TINY_DIM, "intermediate_size", FFN,
                         "num_hidden_layers", TINY_LAYERS, "num_attention_heads", HEADS,
                         "num_key_value_heads", KV_HEADS, "head_dim", HEAD_DIM,
                         "max_position_embeddings", TINY_CTX, "vocab_size", TINY_VOCAB,
                         "rms_norm_eps", 1e-5, "rope_theta", 10000.0, "tie_word_embeddings", 1,
                         "bos_token_id", 256, "eos_token_id", 258));
    write_tokenizer(folder, o.template ? o.template : chatml, o.bos);
    write_weights(folder, &o);
    return folder;
}

void tiny_logits(float out[TINY_VOCAB], pare_model *m, pare_compute compute, size_t n) {
    int32_t ids[TINY_CTX];
    assert_true(n <= TINY_CTX);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)((i * 37 + 11) % 200);
    pare_session_options o = {.n_ctx = n, .compute = compute, .kv = "f32"};
    pare_session *s;
    assert_ok(pare_session_create(&s, m, &o, err));
    assert_ok(pare_session_eval(s, ids, n, out, err));
    pare_session_free(s);
}

float tiny_off_by(const float *a, const float *b) {
    float off = 0;
    for (int i = 0; i < TINY_VOCAB; i++) off = fmaxf(off, fabsf(a[i] - b[i]));
    return isfinite(off) ? off : INFINITY;
}

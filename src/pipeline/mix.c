#include "pipeline/mix.h"

#include "base/memory.h"
#include "pare/compress.h"

#include <stdlib.h>
#include <string.h>

typedef enum tensor_kind { OTHER, OUTPUT, TOKEN_EMBD, ATTN_V, ATTN_OUTPUT, FFN_DOWN } tensor_kind;

/* Where a mix departs from its base, as rules over layer i of n layers. */
typedef enum rule {
    SAME = 0,          /* the base */
    ALWAYS,            /* `a` */
    FIRST_2,           /* i < 2: a, else b */
    FIRST_4,           /* i < 4: a, else the base */
    FIRST_16TH,        /* i < n/16: a, else b */
    FIRST_8TH,         /* i < n/8: a, else the base */
    FIRST_8TH_KNOWN,   /* as FIRST_8TH where importance is known */
    FIRST_8TH_UNKNOWN, /* as FIRST_8TH where it is not */
    MORE_BITS,         /* first and last eighth and every third between: a, else the base */
    GQA_4              /* four or more query heads share a key head: a, else b (NULL = the base) */
} rule;

typedef struct choice {
    rule rule;
    const char *a, *b;
} choice;

struct pare_mix {
    const char *name;
    uint32_t file_type;
    const char *base, *output;
    choice attn_v, ffn_down, attn_output;
};

static const pare_mix mixes[] = {
    {"f32", 0, "f32", "f32", {0}, {0}, {0}},
    {"f16", 1, "f16", "f16", {0}, {0}, {0}},
    {"bf16", 32, "bf16", "bf16", {0}, {0}, {0}},
    {"q4_0", 2, "q4_0", "q6_k", {0}, {FIRST_8TH_KNOWN, "q4_1", 0}, {0}},
    {"q4_1", 3, "q4_1", "q6_k", {0}, {0}, {0}},
    {"q5_0", 8, "q5_0", "q6_k", {0}, {FIRST_8TH_KNOWN, "q5_1", 0}, {0}},
    {"q5_1", 9, "q5_1", "q6_k", {0}, {0}, {0}},
    {"q8_0", 7, "q8_0", "q8_0", {0}, {0}, {0}},
    {"q2_k", 10, "q2_k", "q6_k", {GQA_4, "q4_k", "q3_k"}, {ALWAYS, "q3_k", 0}, {ALWAYS, "q3_k", 0}},
    {"q2_k_s", 21, "q2_k", "q6_k", {GQA_4, "q4_k", NULL}, {FIRST_8TH, "q4_k", 0}, {0}},
    {"q3_k_s", 11, "q3_k", "q6_k", {0}, {0}, {0}},
    {"q3_k_m",
     12,
     "q3_k",
     "q6_k",
     {FIRST_2, "q5_k", "q4_k"},
     {FIRST_16TH, "q5_k", "q4_k"},
     {ALWAYS, "q4_k", 0}},
    {"q3_k_l", 13, "q3_k", "q6_k", {ALWAYS, "q5_k", 0}, {ALWAYS, "q5_k", 0}, {ALWAYS, "q5_k", 0}},
    {"q4_k_s", 14, "q4_k", "q6_k", {FIRST_4, "q5_k", 0}, {FIRST_8TH, "q5_k", 0}, {0}},
    {"q4_k_m", 15, "q4_k", "q6_k", {MORE_BITS, "q6_k", 0}, {MORE_BITS, "q6_k", 0}, {0}},
    {"q5_k_s", 16, "q5_k", "q6_k", {0}, {0}, {0}},
    {"q5_k_m", 17, "q5_k", "q6_k", {MORE_BITS, "q6_k", 0}, {MORE_BITS, "q6_k", 0}, {0}},
    {"q6_k", 18, "q6_k", "q6_k", {0}, {0}, {0}},
    {"iq4_nl", 25, "iq4_nl", "q6_k", {GQA_4, "q5_k", NULL}, {FIRST_8TH_UNKNOWN, "q5_k", 0}, {0}},
    {"iq4_xs", 30, "iq4_xs", "q6_k", {GQA_4, "q5_k", NULL}, {FIRST_8TH_UNKNOWN, "q5_k", 0}, {0}},
};

enum { N_MIXES = sizeof mixes / sizeof mixes[0] };

const pare_mix *pare_mix_find(const char *name) {
    for (size_t i = 0; i < N_MIXES; i++)
        if (strcmp(mixes[i].name, name) == 0) return &mixes[i];
    return NULL;
}

const char *pare_mix_name_at(size_t i) { return i < N_MIXES ? mixes[i].name : NULL; }
const char *pare_mix_name(const pare_mix *m) { return m->name; }
uint32_t pare_mix_file_type(const pare_mix *m) { return m->file_type; }

const char *pare_mix_name_of_file_type(uint32_t file_type) {
    for (size_t i = 0; i < N_MIXES; i++)
        if (mixes[i].file_type == file_type) return mixes[i].name;
    return NULL;
}

bool pare_mix_takes(const char *canonical, size_t n_dims) {
    static const char *const kept[] = {"_norm.weight", "ffn_gate_inp.weight",
                                       "position_embd.weight", "token_types.weight",
                                       "ssm_conv1d.weight"};
    if (n_dims < 2 || !pare_ends_with(canonical, "weight")) return false;
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (pare_ends_with(canonical, kept[i])) return false;
    return true;
}

static tensor_kind kind_of(const char *name, bool has_output) {
    if (strcmp(name, "output.weight") == 0) return OUTPUT;
    if (strcmp(name, "token_embd.weight") == 0) return has_output ? TOKEN_EMBD : OUTPUT;
    if (strstr(name, "attn_v.weight") || strstr(name, "attn_qkv.weight")) return ATTN_V;
    if (strstr(name, "ffn_down")) return FFN_DOWN;
    if (strstr(name, "attn_output.weight")) return ATTN_OUTPUT;
    return OTHER;
}

static const char *choose(const choice *c, const char *base, size_t i, size_t n, size_t gqa,
                          bool importance) {
    bool a = true;
    const char *other = base;
    switch (c->rule) {
    case SAME:
        return base;
    case ALWAYS:
        break;
    case FIRST_2:
        a = i < 2, other = c->b;
        break;
    case FIRST_4:
        a = i < 4;
        break;
    case FIRST_16TH:
        a = i < n / 16, other = c->b;
        break;
    case FIRST_8TH:
        a = i < n / 8;
        break;
    case FIRST_8TH_KNOWN:
        a = i < n / 8 && importance;
        break;
    case FIRST_8TH_UNKNOWN:
        a = i < n / 8 && !importance;
        break;
    case MORE_BITS:
        a = i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
        break;
    case GQA_4:
        a = gqa >= 4, other = c->b ? c->b : base;
        break;
    }
    return a ? c->a : other;
}

const pare_encoding *pare_mix_encoding(const pare_mix *m, const pare_model_config *config,
                                       bool has_output, const char *canonical, bool pure,
                                       bool importance) {
    size_t n = config->n_layers, gqa = config->n_heads / config->n_kv_heads;
    size_t i = strncmp(canonical, "blk.", 4) == 0 ? strtoul(canonical + 4, NULL, 10) : 0;
    const char *name = m->base;
    switch (kind_of(canonical, has_output)) {
    case OUTPUT:
        name = m->output;
        break;
    case ATTN_V:
        name = choose(&m->attn_v, m->base, i, n, gqa, importance);
        /* as llama.cpp does for models of 70 billion weights, whose few heads of v cost little */
        if (n == 80 && gqa == 8 && (strcmp(name, "q3_k") == 0 || strcmp(name, "q4_k") == 0))
            name = "q5_k";
        break;
    case FFN_DOWN:
        name = choose(&m->ffn_down, m->base, i, n, gqa, importance);
        break;
    case ATTN_OUTPUT:
        name = choose(&m->attn_output, m->base, i, n, gqa, importance);
        break;
    case TOKEN_EMBD:
    case OTHER:
        break;
    }
    return pare_encoding_find(pure ? m->base : name);
}

const pare_encoding *pare_mix_fit(const pare_encoding *enc, size_t cols, pare_fallback fallback) {
    static const struct {
        const char *from, *ggml;
    } wider[] = {{"q2_k", "q4_0"}, {"q3_k", "q4_0"},     {"q4_k", "q5_0"},  {"q5_k", "q5_1"},
                 {"q6_k", "q8_0"}, {"iq4_xs", "iq4_nl"}, {"tq1_0", "q4_0"}, {"tq2_0", "q4_0"}};
    if (cols % enc->block_len == 0) return enc;
    if (fallback == PARE_FALLBACK_REFUSE) return NULL;
    if (fallback == PARE_FALLBACK_TAIL && cols % 32 == 0) {
        char name[64];
        size_t n = strlen(enc->name);
        if (n + 6 <= sizeof name) {
            memcpy(name, enc->name, n);
            memcpy(name + n, "_tail", 6);
            const pare_encoding *tail = pare_encoding_find(name);
            if (tail) return tail;
        }
    }
    for (size_t i = 0; i < sizeof wider / sizeof wider[0] && cols % 32 == 0; i++)
        if (strcmp(wider[i].from, enc->name) == 0) return pare_encoding_find(wider[i].ggml);
    return pare_encoding_find("f16");
}

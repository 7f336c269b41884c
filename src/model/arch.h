/* An architecture: one file arch_NAME.c with a descriptor, one line in archs.def. The descriptor
 * says what its files call things (weights), what its numbers are by default (base), what its
 * readers must do besides the common keys (hooks), and how one forward pass runs. */
#ifndef PARE_SRC_MODEL_ARCH_H
#define PARE_SRC_MODEL_ARCH_H

#include "model/config.h"

typedef struct pare_arch pare_arch;

/* The length of one side of a weight, in the words of the config. */
typedef enum pare_extent {
    PARE_X_NONE, /* of `out`: the weight is a vector of length `in` */
    PARE_X_DIM,
    PARE_X_FFN,
    PARE_X_Q,   /* n_heads * head_dim */
    PARE_X_KV,  /* n_kv_heads * head_dim */
    PARE_X_QKV, /* q + k + v, fused */
    PARE_X_HEAD,
    PARE_X_HALF_HEAD,
    PARE_X_VOCAB,
    PARE_X_POS,  /* rows of a table of positions: ctx_max + pos_offset */
    PARE_X_EMBED /* embed_dim */
} pare_extent;

/* What has to happen between the file's form and the canonical one (names.h, source.h). */
enum {
    PARE_FIX_ROPE_ROWS_Q = 1, /* pairwise -> half-split, n_heads heads */
    PARE_FIX_ROPE_ROWS_K = 2, /* the same, n_kv_heads heads */
    PARE_FIX_ADD_ONE = 4,     /* w + 1 */
    PARE_FIX_TRANSPOSE = 8    /* [in][out] -> [out][in] */
};

enum {
    PARE_WEIGHT_OPTIONAL = 1, /* the weight itself may be absent */
    PARE_BIAS_OPTIONAL = 2,
    PARE_BIAS_REQUIRED = 4
};

/* One module: a weight and perhaps a bias. '#' in a name stands for the layer's number; the names
 * end before ".weight" and ".bias". */
typedef struct pare_weight_spec {
    const char *name;         /* canonical, as in GGUF files: "blk.#.attn_q" */
    const char *hf;           /* in HF files: "model.layers.#.self_attn.q_proj" */
    uint8_t out, in;          /* pare_extent; out PARE_X_NONE: a norm, [in] f32 in memory */
    uint8_t flags;            /* PARE_WEIGHT_*, PARE_BIAS_* */
    uint8_t fix_hf, fix_gguf; /* PARE_FIX_*: of the weight; of a bias only the ROPE_ROWS */
    uint16_t offset; /* of a pare_linear or pare_norm: in pare_layer where the name has a '#', else
                        in pare_weights (model.h) */
} pare_weight_spec;

/* The feed-forward part: down(act(gate x) * (up x)), or down(act(up x)). */
typedef enum pare_ffn {
    PARE_FFN_SILU_GLU = 1,
    PARE_FFN_GELU_GLU,
    PARE_FFN_GELU,
    PARE_FFN_RELU
} pare_ffn;

struct pare_model;
struct pare_pass;
struct pare_fwd;

struct pare_arch {
    const char *name;        /* in pare_model_config.arch */
    const char *gguf;        /* general.architecture of its GGUF files; NULL = none exist */
    const char *hf;          /* model_type of its config.json */
    const char *hf_text;     /* another accepted model_type; its keys may lie under "text_config" */
    const char *hf_class;    /* architectures[0], for writers */
    const char *prefixes[6]; /* what HF names may begin with, the longest first */
    const char *activations[4]; /* accepted values of `activation_key`; the first is the default */
    const char *activation_key; /* "hidden_act", ... */
    const pare_weight_spec *weights; /* ends with name NULL */
    pare_ffn ffn;
    bool no_rope;           /* positions are learned (position_embd) */
    bool layer_norm;        /* LayerNorm; else RMSNorm */
    bool scaled_embeddings; /* embed_scale is sqrt(dim) */
    pare_model_config base; /* defaults of config.json; 0 = the key is required (see config_hf.c) */
    /* What the common keys do not say; may be NULL. Called after them. */
    pare_status (*read_hf)(pare_model_config *c, const struct pare_json *json, pare_error *err);
    pare_status (*read_gguf)(pare_model_config *c, const struct pare_gguf *g, pare_error *err);
    /* The forward pass in three steps (model.h, pare_pass_*). */
    void (*embed)(struct pare_fwd *f, const struct pare_model *m, const struct pare_pass *p,
                  float *h);
    void (*layer)(struct pare_fwd *f, const struct pare_model *m, const struct pare_pass *p,
                  size_t layer, float *h);
    void (*finish)(struct pare_fwd *f, const struct pare_model *m, float *y, const float *h,
                   size_t n);
};

/* All architectures in a fixed order: i from 0; NULL past the last. */
const pare_arch *pare_arch_at(size_t i);
/* The architecture of a GGUF file's general.architecture, of a model_type, or by pare's own name.
 */
const pare_arch *pare_arch_from_gguf(const char *name);
const pare_arch *pare_arch_from_hf(const char *model_type);
const pare_arch *pare_arch_find(const char *name);

#endif

#include "model/feeder.h"

#include <stdio.h>
#include <string.h>

/* The architecture's modules hold one of that canonical name. */
static bool has(const pare_arch *arch, const char *name) {
    for (const pare_weight_spec *s = arch->weights; s->name; s++)
        if (strcmp(s->name, name) == 0) return true;
    return false;
}

/* The feeder of a module "blk.#.FIELD", or NULL. */
static const char *feeder_of(const pare_arch *arch, const pare_model_config *c, const char *field) {
    if (strcmp(field, "attn_q") == 0 || strcmp(field, "attn_k") == 0 ||
        strcmp(field, "attn_v") == 0 || strcmp(field, "attn_qkv") == 0)
        return c->norm_before ? "attn_norm" : NULL;
    if (strcmp(field, "ffn_gate") == 0) return "ffn_norm";
    if (strcmp(field, "ffn_up") == 0) return c->norm_before ? "ffn_norm" : NULL;
    if (strcmp(field, "attn_output") == 0 && c->n_heads == c->n_kv_heads)
        return has(arch, "blk.#.attn_v") ? "attn_v" : "attn_qkv";
    /* relu(x / s) = relu(x) / s; a gelu without a gate has nothing that scales its output */
    if (strcmp(field, "ffn_down") == 0 && arch->ffn != PARE_FFN_GELU) return "ffn_up";
    return NULL;
}

bool pare_feeder(char out[PARE_NAME_MAX], const pare_arch *arch, const pare_model_config *c,
                 const char *matrix) {
    pare_name name;
    if (!pare_name_parse(&name, arch, PARE_NAMES_GGUF, matrix) || name.layer == SIZE_MAX ||
        name.is_bias)
        return false;
    const char *feeder = feeder_of(arch, c, name.spec->name + strlen("blk.#."));
    if (feeder) snprintf(out, PARE_NAME_MAX, "blk.%zu.%s", name.layer, feeder);
    return feeder != NULL;
}

bool pare_feeds(const pare_arch *arch, const pare_model_config *c, const char *tensor) {
    pare_name name;
    if (!pare_name_parse(&name, arch, PARE_NAMES_GGUF, tensor) || name.layer == SIZE_MAX)
        return false;
    const char *module = name.spec->name + strlen("blk.#.");
    for (const pare_weight_spec *s = arch->weights; s->name; s++) {
        if (s->out == PARE_X_NONE || strncmp(s->name, "blk.#.", 6) != 0) continue;
        const char *feeder = feeder_of(arch, c, s->name + 6);
        if (feeder && strcmp(feeder, module) == 0) return true;
    }
    return false;
}

#include "model/names.h"

#include <stdio.h>
#include <string.h>

/* Matches `pattern` ('#' = a number below PARE_MAX_LAYERS without leading zeros) against the start
 * of name; returns what follows, or NULL. */
static const char *match(const char *name, const char *pattern, size_t *layer) {
    *layer = SIZE_MAX;
    for (; *pattern; pattern++) {
        if (*pattern != '#') {
            if (*name++ != *pattern) return NULL;
            continue;
        }
        if (*name < '0' || *name > '9' || (*name == '0' && name[1] >= '0' && name[1] <= '9'))
            return NULL;
        size_t n = 0;
        for (; *name >= '0' && *name <= '9'; name++)
            if ((n = n * 10 + (size_t)(*name - '0')) >= PARE_MAX_LAYERS) return NULL;
        *layer = n;
    }
    return name;
}

static const char *without_prefix(const char *name, const pare_arch *arch) {
    for (size_t i = 0; i < sizeof arch->prefixes / sizeof arch->prefixes[0]; i++) {
        size_t n = arch->prefixes[i] ? strlen(arch->prefixes[i]) : 0;
        if (n && strncmp(name, arch->prefixes[i], n) == 0) return name + n;
    }
    return name;
}

bool pare_name_parse(pare_name *out, const pare_arch *arch, pare_name_form form, const char *name) {
    bool hf = form == PARE_NAMES_HF;
    if (hf) name = without_prefix(name, arch);
    for (const pare_weight_spec *s = arch->weights; s->name; s++) {
        const char *leaf = match(name, hf ? without_prefix(s->hf, arch) : s->name, &out->layer);
        if (!leaf || *leaf != '.') continue;
        leaf++;
        bool bias = strcmp(leaf, "bias") == 0;
        if (!bias && strcmp(leaf, "weight") != 0) continue;
        if (bias && !(s->flags & (PARE_BIAS_OPTIONAL | PARE_BIAS_REQUIRED))) continue;
        out->spec = s;
        out->leaf = leaf;
        out->is_bias = bias;
        return true;
    }
    return false;
}

void pare_name_print(char out[PARE_NAME_MAX], const pare_name *name, pare_name_form form) {
    const char *pattern = form == PARE_NAMES_HF ? name->spec->hf : name->spec->name;
    const char *mark = strchr(pattern, '#');
    if (mark)
        snprintf(out, PARE_NAME_MAX, "%.*s%zu%s.%s", (int)(mark - pattern), pattern, name->layer,
                 mark + 1, name->leaf);
    else
        snprintf(out, PARE_NAME_MAX, "%s.%s", pattern, name->leaf);
}

unsigned pare_name_fix(const pare_name *name, pare_name_form form) {
    unsigned fix = form == PARE_NAMES_HF ? name->spec->fix_hf : name->spec->fix_gguf;
    return name->is_bias ? fix & (PARE_FIX_ROPE_ROWS_Q | PARE_FIX_ROPE_ROWS_K) : fix;
}

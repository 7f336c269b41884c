#include "study/report_data.h"

#include "study/record_columns.h"

#include "base/hash.h"
#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_CHAIN = 16 /* compressions of compressions that are followed */
};

typedef struct grouping {
    const pare_record_list *records;
    pare_record *pool;
    pare_table made; /* hash of an output -> its newest compression */
    pare_report_model *models;
    size_t n_models;
    pare_training_group *trainings;
    size_t n_trainings;
} grouping;

static bool is_ok(const pare_record *r) { return r->status && strcmp(r->status, "ok") == 0; }
/* Made of a model, that is: a training of a new one has none. */
static bool is_made(const pare_record *r) { return r->recipe && *r->recipe && r->model; }
/* It says nothing of variants: the new model is known by its own contents, as any other. */
static bool is_new(const pare_record *r) { return r->recipe && *r->recipe && !r->model; }
static const char *content_of(const char *sha256, const char *path) {
    return sha256 ? sha256 : path ? path : "?";
}
static const char *model_key(const pare_record *r) { return content_of(r->model_sha256, r->model); }

static char *pool_text(grouping *g, const char *text) {
    return pare_record_strndup(g->pool, text, strlen(text));
}

/* "a b" */
static char *joined_text(grouping *g, const char *a, const char *b) {
    char *both = pare_asprintf("%s%s%s", a, *a ? " " : "", b);
    char *text = both ? pool_text(g, both) : NULL;
    pare_free(both);
    return text;
}

static bool same(const char *a, const char *b) { return strcmp(a ? a : "", b ? b : "") == 0; }

/* --- which variant of which model a record is about --- */

/* The compression that made a content, or NULL. */
static const pare_record *maker(const grouping *g, const char *key) {
    int64_t i = pare_table_get(&g->made, key, strlen(key));
    return i < 0 ? NULL : g->records->items[i];
}

/* From a compression back to the model that none of the records made. *recipe: all steps. */
static bool find_base(grouping *g, const pare_record *made, const char **base,
                      const char **recipe) {
    const pare_record *chain[MAX_CHAIN] = {made};
    size_t n = 1;
    while (n < MAX_CHAIN) {
        const pare_record *before = maker(g, model_key(chain[n - 1]));
        bool loop = false; /* a recipe that changed nothing: the output is the input */
        for (size_t i = 0; before && i < n; i++) loop |= before == chain[i];
        if (!before || loop || same(before->out_sha256, before->model_sha256)) break;
        chain[n++] = before;
    }
    *base = model_key(chain[n - 1]);
    *recipe = made->recipe;
    for (size_t i = 1; i < n && *recipe; i++) {
        size_t size = strlen(*recipe) + strlen(chain[i]->recipe) + 4;
        char *text = pare_record_calloc(g->pool, size, 1);
        if (text) snprintf(text, size, "%s + %s", chain[i]->recipe, *recipe);
        *recipe = text;
    }
    return *recipe != NULL;
}

/* --- filling --- */

/* Room for one more item: a list of n has the next power of two. The pool keeps the old ones. */
static void *with_room(grouping *g, const void *items, size_t n, size_t size) {
    if (n & (n - 1)) return (void *)items;
    void *more = pare_record_calloc(g->pool, n ? 2 * n : 1, size);
    if (more && n) memcpy(more, items, n * size);
    return more;
}

static pare_report_model *get_model(grouping *g, const char *key, const pare_record *r) {
    for (size_t i = 0; i < g->n_models; i++)
        if (strcmp(g->models[i].key, key) == 0) return &g->models[i];
    pare_report_model *list = with_room(g, g->models, g->n_models, sizeof *list);
    if (!list) return NULL;
    g->models = list;
    list[g->n_models] = (pare_report_model){.key = key, .any = r};
    return &list[g->n_models++];
}

static pare_variant *get_variant(grouping *g, pare_report_model *m, const char *key,
                                 const char *recipe) {
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->variants[i].key, key) == 0) return &m->variants[i];
    pare_variant *list = with_room(g, m->variants, m->n, sizeof *list);
    if (!list) return NULL;
    m->variants = list;
    list[m->n] = (pare_variant){.key = key, .recipe = recipe};
    list[m->n].cells = pare_record_calloc(g->pool, PARE_MAX_SETTINGS, sizeof(pare_report_cell));
    return list[m->n].cells ? &list[m->n++] : NULL;
}

/* The setting's number, or PARE_MAX_SETTINGS where there are too many. */
static size_t get_setting(pare_report_model *m, const pare_record *r) {
    for (size_t i = 0; i < m->n_settings; i++) {
        const pare_record *e = m->settings[i].example;
        if (same(e->protocol, r->protocol) && same(e->compute, r->compute) && same(e->kv, r->kv) &&
            same(e->crc32, r->crc32) && e->ctx == r->ctx && e->n_windows == r->n_windows)
            return i;
    }
    if (m->n_settings == PARE_MAX_SETTINGS) return PARE_MAX_SETTINGS;
    m->settings[m->n_settings] = (pare_setting){.example = r};
    return m->n_settings++;
}

/* Records come newest first, so the first one of a kind is kept. */
static void add_cell(pare_report_model *m, pare_variant *v, const pare_record *r, bool before) {
    double ppl = before ? r->base_ppl : r->ppl;
    if (!isfinite(ppl) || !(ppl > 0)) return;
    size_t s = get_setting(m, r);
    m->n_left_out += s == PARE_MAX_SETTINGS;
    if (s == PARE_MAX_SETTINGS) return;
    bool better = !v->cells[s].r || (v->cells[s].before && !before);
    if (better) v->cells[s] = (pare_report_cell){r, before};
}

static bool add_record(grouping *g, const pare_record *r) {
    /* evaluated with an adapter: the adapter is what a training made of the model */
    const char *content = r->lora_sha256 && !is_made(r) ? r->lora_sha256 : model_key(r);
    const pare_record *made = is_made(r) ? r : maker(g, content);
    const char *base = model_key(r), *recipe = "", *key = base;
    bool unknown_adapter = content == r->lora_sha256 && !made;
    if (unknown_adapter) {
        key = content;
        recipe = "an adapter";
    }
    if (made && !find_base(g, made, &base, &recipe)) return false;
    const char *front = r->prefix_sha256 ? r->prefix_sha256 : r->prefix_tokens;
    if (made == r && !r->out_sha256) { /* nothing to be joined by */
        char id[32];
        snprintf(id, sizeof id, "#%lld", (long long)r->id);
        key = pool_text(g, id);
    } else if (made) {
        key = made->out_sha256;
    }
    if (front && made != r && key) { /* the same weights behind other positions */
        key = joined_text(g, key, front);
        recipe = joined_text(g, recipe, r->prefix_sha256 ? "+ cushion" : "+ prefix tokens");
        if (!key || !recipe) return false;
    }
    pare_report_model *m = key ? get_model(g, base, r) : NULL;
    pare_variant *v = m ? get_variant(g, m, key, recipe) : NULL;
    if (!v) return false;
    if (made && !v->made) v->made = made;
    if (!v->any) v->any = made ? made : r;
    if (isfinite(r->decode_tokens_per_s) && !v->speed) v->speed = r;
    if (r->n_tasks && !v->tasks) v->tasks = r;
    if (!made && !unknown_adapter) m->any = r;
    add_cell(m, v, r, false);
    /* the dense model's perplexity that this record measured besides */
    bool dense_before = made && strcmp(model_key(made), base) == 0 && isfinite(r->base_ppl) &&
                        (made == r || same(r->against_sha256, made->model_sha256));
    if (!dense_before) return true;
    pare_variant *dense = get_variant(g, m, base, "");
    if (!dense) return false;
    if (!dense->any) dense->any = r;
    add_cell(m, dense, r, true);
    return true;
}

/* --- trainings --- */

/* With a tokenizer of another size a loss is another measure. */
static bool comparable(const pare_record *a, const pare_record *b) {
    return same(a->data_sha256, b->data_sha256) && same(a->text_sha256, b->text_sha256) &&
           a->ctx == b->ctx;
}

static bool add_training(grouping *g, const pare_record *r) {
    if (!r->n_curve || !r->data_sha256) return true;
    pare_training_group *at = NULL;
    for (size_t i = 0; i < g->n_trainings && !at; i++)
        if (comparable(g->trainings[i].runs[0], r)) at = &g->trainings[i];
    if (!at) {
        pare_training_group *list = with_room(g, g->trainings, g->n_trainings, sizeof *list);
        if (!list) return false;
        g->trainings = list;
        at = &list[g->n_trainings++];
        *at = (pare_training_group){0};
    }
    const pare_record **runs = with_room(g, at->runs, at->n, sizeof(pare_record *));
    if (!runs) return false;
    at->runs = runs;
    runs[at->n++] = r;
    return true;
}

static int by_loss(const void *a, const void *b) {
    const pare_record *x = *(const pare_record *const *)a, *y = *(const pare_record *const *)b;
    bool p = isfinite(x->val_loss), q = isfinite(y->val_loss);
    if (p != q) return p ? -1 : 1;
    if (p && x->val_loss != y->val_loss) return x->val_loss < y->val_loss ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* --- order --- */

static int by_size(const void *a, const void *b) {
    const pare_variant *x = a, *y = b;
    bool dense_x = !*x->recipe, dense_y = !*y->recipe;
    if (dense_x != dense_y) return dense_x ? -1 : 1;
    int64_t p = pare_variant_bytes(x), q = pare_variant_bytes(y);
    if (p != q) return p > q ? -1 : 1;
    return strcmp(x->recipe, y->recipe);
}

/* Rows by size, the setting with most variants first. */
static void finish_model(pare_report_model *m) {
    size_t number = 0;
    qsort(m->variants, m->n, sizeof *m->variants, by_size);
    for (size_t i = 0; i < m->n; i++) {
        m->variants[i].number = *m->variants[i].recipe ? ++number : 0;
        for (size_t s = 0; s < m->n_settings; s++)
            m->settings[s].n += m->variants[i].cells[s].r != NULL;
    }
    for (size_t s = 0; s + 1 < m->n_settings; s++) {
        size_t best = s;
        for (size_t k = s + 1; k < m->n_settings; k++)
            if (m->settings[k].n > m->settings[best].n) best = k;
        pare_setting keep = m->settings[s];
        m->settings[s] = m->settings[best];
        m->settings[best] = keep;
        for (size_t i = 0; i < m->n; i++) {
            pare_report_cell cell = m->variants[i].cells[s];
            m->variants[i].cells[s] = m->variants[i].cells[best];
            m->variants[i].cells[best] = cell;
        }
    }
}

pare_status pare_report_data_make(pare_report_data *out, const pare_record_list *records,
                                  pare_error *err) {
    *out = (pare_report_data){0};
    grouping g = {.records = records};
    PARE_TRY(pare_record_blank(&g.pool, err));
    out->pool = g.pool;
    bool enough = true;
    for (size_t i = 0; enough && i < records->n; i++) {
        const pare_record *r = records->items[i];
        if (is_ok(r) && is_made(r) && r->out_sha256)
            enough = pare_table_add(&g.made, r->out_sha256, strlen(r->out_sha256), (int64_t)i) >= 0;
    }
    for (size_t i = 0; enough && i < records->n; i++)
        if (is_ok(records->items[i]) && !is_new(records->items[i]) && !records->items[i]->n_sites)
            enough = add_record(&g, records->items[i]);
    for (size_t i = 0; enough && i < records->n; i++)
        if (is_ok(records->items[i])) enough = add_training(&g, records->items[i]);
    pare_table_free(&g.made);
    pare_status st = enough ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "report: out of memory");
    for (size_t i = 0; st == PARE_OK && i < g.n_models; i++) finish_model(&g.models[i]);
    out->models = g.models;
    out->n = g.n_models;
    for (size_t i = 0; st == PARE_OK && i < g.n_trainings; i++)
        qsort(g.trainings[i].runs, g.trainings[i].n, sizeof(pare_record *), by_loss);
    out->trainings = g.trainings;
    out->n_trainings = g.n_trainings;
    if (st != PARE_OK) pare_report_data_free(out);
    return st;
}

void pare_report_data_free(pare_report_data *data) {
    if (!data) return;
    pare_record_free(data->pool);
    *data = (pare_report_data){0};
}

/* --- what is asked of it --- */

double pare_cell_ppl(const pare_report_cell *cell) {
    if (!cell->r) return (double)NAN;
    return cell->before ? cell->r->base_ppl : cell->r->ppl;
}

/* A record of the dense model itself tells its size; one that only measured it besides tells what
 * went in. */
static bool about_itself(const pare_variant *v) { return v->made || !is_made(v->any); }

int64_t pare_variant_bytes(const pare_variant *v) {
    return about_itself(v) ? v->any->out_bytes : v->any->in_bytes;
}

double pare_variant_bits(const pare_variant *v) {
    if (about_itself(v)) return v->any->bits_per_weight;
    if (!v->any->n_params || !v->any->in_bytes) return (double)NAN;
    return 8.0 * (double)v->any->in_bytes / (double)v->any->n_params;
}

const pare_variant *pare_report_dense(const pare_report_model *m) {
    return m->n && !*m->variants[0].recipe ? &m->variants[0] : NULL;
}

const char *pare_path_name(const char *path) {
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash && slash[1] ? slash + 1 : path ? path : "?";
}

void pare_setting_text(const pare_setting *s, char *text, size_t size) {
    const pare_record *r = s->example;
    snprintf(text, size, "%s-%lld, %lld window%s of %s, %s%s%s", r->protocol ? r->protocol : "?",
             (long long)r->ctx, (long long)r->n_windows, r->n_windows == 1 ? "" : "s",
             r->text && strcmp(r->text, "-") != 0 ? pare_path_name(r->text) : "standard input",
             r->compute ? r->compute : "?", r->kv ? ", KV " : "", r->kv ? r->kv : "");
}

const char *pare_model_title(const pare_record *r) {
    return r->name && *r->name ? r->name : pare_path_name(r->model ? r->model : r->out);
}

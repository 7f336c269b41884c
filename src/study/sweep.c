/* Runs a sweep: unit by unit (a recipe on a model: compressed once, then all its evaluations), on
 * one or several threads, each with a runtime of its own. What is finished is a record, and a run
 * whose record is there is skipped: that is all there is to resuming. A run is known by the SHA-256
 * of what decides its result: contents, recipe, settings, seed, version. */
#include "study/sweep.h"

#include "base/group.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/os.h"
#include "base/runtime.h"
#include "io/common.h"
#include "pare/bench.h"
#include "study/record_columns.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { MAX_TEXT = 1 << 30 };

/* A file that runs share: its content is hashed once, before the work. */
typedef struct shared_file {
    const char *path;
    char sha256[65];
} shared_file;

typedef struct sweep_run {
    pare_sweep *s;
    const pare_sweep_options *o;
    shared_file *files;
    size_t n_files;
    char (*keys)[65];     /* [n_runs] */
    pthread_mutex_t lock; /* of all that follows, and of the database's transactions */
    size_t next_unit, n_done;
    pare_status failed; /* what stops all */
    pare_error err;
    struct best {
        double ppl;
        const char *out;
    } * best; /* [n_models], with keep = best */
} sweep_run;

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "sweep: out of memory");
}

/* --- what a run is known by --- */

static const char *hash_of(const sweep_run *w, const char *path) {
    for (size_t i = 0; path && i < w->n_files; i++)
        if (strcmp(w->files[i].path, path) == 0) return w->files[i].sha256;
    return "-";
}

static pare_status hash_shared(sweep_run *w, pare_runtime *rt, const char *path, pare_error *err) {
    pare_content content;
    if (!path || strcmp(hash_of(w, path), "-") != 0) return PARE_OK;
    PARE_TRY(pare_content_hash(&content, rt, w->o->records, path, err));
    w->files[w->n_files].path = path;
    memcpy(w->files[w->n_files++].sha256, content.sha256, sizeof content.sha256);
    return PARE_OK;
}

static void make_key(const sweep_run *w, const pare_sweep_unit *u, const pare_sweep_eval *e,
                     char key[65]) {
    const pare_sweep *s = w->s;
    pare_buffer b = {0};
    bool made = *u->recipe != '\0';
    pare_buffer_print(&b, "pare %s\nmodel %s\nseed %llu %d\nrecipe ", PARE_VERSION,
                      hash_of(w, u->model), (unsigned long long)w->o->runtime.seed,
                      w->o->runtime.deterministic);
    pare_buffer_add(&b, u->recipe, strlen(u->recipe));
    if (made)
        pare_buffer_print(&b, "\nformat %s\ncalib %s %lld %lld", s->format ? s->format : "hf",
                          hash_of(w, s->calib), (long long)s->calib_samples,
                          (long long)s->calib_ctx);
    if (made && s->imatrix) pare_buffer_print(&b, "\nimatrix %s", hash_of(w, s->imatrix));
    pare_buffer_print(&b, "\neval %d %s %d %d %lld %lld %d %lld %lld\n", (int)e->kind,
                      hash_of(w, e->path), (int)e->protocol, (int)e->compute, (long long)e->ctx,
                      (long long)e->windows, e->against && made, (long long)e->decode,
                      (long long)e->prefill);
    for (size_t i = 0; i < e->n_tasks; i++) pare_buffer_print(&b, "task %s\n", e->tasks[i]);
    if (e->n_tasks) {
        pare_buffer_print(&b, "limit %lld data ", (long long)e->limit);
        pare_buffer_add(&b, s->data, strlen(s->data));
    }
    pare_sha256 h;
    pare_sha256_init(&h);
    pare_sha256_update(&h, b.data, b.n);
    pare_sha256_hex(&h, key);
    if (b.failed) key[0] = '\0';
    pare_buffer_free(&b);
}

/* Takes what the record of an earlier run says. */
static void take_record(pare_sweep_run *run, const pare_record *r) {
    run->state = PARE_RUN_THERE;
    run->record = r->id;
    run->in_bytes = (uint64_t)r->in_bytes;
    run->out_bytes = (uint64_t)r->out_bytes;
    run->bits_per_weight = r->bits_per_weight;
    run->ppl = r->ppl;
}

static pare_status find_records(sweep_run *w, pare_error *err) {
    pare_record_list list;
    const char *filters[] = {"status=ok", "run_key!="};
    pare_record_query q = {filters, 2, 0, false};
    pare_table known = {0};
    if (!w->o->records) return PARE_OK;
    PARE_TRY(pare_records_list(&list, w->o->records, &q, err));
    pare_status st = PARE_OK;
    for (size_t i = 0; st == PARE_OK && i < list.n; i++) {
        const char *key = list.items[i]->run_key;
        if (key && pare_table_add(&known, key, strlen(key), (int64_t)i) < 0) st = fail_memory(err);
    }
    for (size_t i = 0; st == PARE_OK && i < w->s->n_runs; i++) {
        int64_t at = pare_table_get(&known, w->keys[i], strlen(w->keys[i]));
        if (at >= 0) take_record(&w->s->runs[i], list.items[at]);
    }
    pare_table_free(&known);
    pare_record_list_free(&list);
    return st;
}

/* --- one evaluation --- */

/* What the evaluations of a unit share. */
typedef struct loaded {
    pare_model *model, *base;
    pare_tokenizer *tok, *base_tok;
    char out_sha256[65]; /* "" before the first one */
} loaded;

static void unload(loaded *l) {
    pare_model_free(l->model);
    pare_model_free(l->base);
    pare_tokenizer_free(l->tok);
    pare_tokenizer_free(l->base_tok);
    *l = (loaded){0};
}

static pare_status load(pare_model **m, pare_tokenizer **tok, pare_runtime *rt, const char *path,
                        pare_error *err) {
    if (!*tok) PARE_TRY(pare_tokenizer_load(tok, path, err));
    return *m ? PARE_OK : pare_model_load(m, rt, path, err);
}

static pare_status eval_text(pare_record *r, pare_runtime *rt, const pare_sweep_unit *u,
                             const pare_sweep_eval *e, loaded *l, pare_error *err) {
    bool against = e->against && u->out;
    if (against) PARE_TRY(load(&l->base, &l->base_tok, rt, u->model, err));
    char *text;
    size_t n;
    PARE_TRY(pare_file_read_all(&text, &n, e->path, MAX_TEXT, err));
    pare_eval_options eo = pare_eval_options_default();
    eo.protocol = e->protocol;
    eo.compute = e->compute;
    eo.ctx = (size_t)e->ctx;
    eo.max_windows = (size_t)e->windows;
    eo.name = e->path;
    pare_perplexity ppl;
    pare_distance distance;
    pare_status st = against ? pare_eval_against(&ppl, &distance, rt, l->model, l->tok, l->base,
                                                 l->base_tok, text, n, &eo, err)
                             : pare_eval_perplexity(&ppl, rt, l->model, l->tok, text, n, &eo, err);
    pare_free(text);
    if (st != PARE_OK) return st;
    r->text = e->path;
    if (against) r->against = u->model;
    if (against) pare_record_set_distance(r, &distance);
    return pare_record_set_perplexity(r, &ppl, err);
}

static pare_status eval_speed(pare_record *r, pare_runtime *rt, const pare_sweep_eval *e,
                              const loaded *l, pare_error *err) {
    pare_bench_options bo = pare_bench_options_default();
    pare_bench_row row;
    if (e->prefill) {
        PARE_TRY(pare_bench_prefill(&row, rt, l->model, &bo, (size_t)e->prefill, 0, err));
        r->prefill_tokens_per_s = row.tokens_per_s;
    }
    if (e->decode) {
        PARE_TRY(pare_bench_decode(&row, rt, l->model, &bo, (size_t)e->decode, 1, err));
        r->decode_tokens_per_s = row.tokens_per_s;
    }
    r->compute = bo.compute == PARE_COMPUTE_EXACT ? "exact" : "fast";
    return PARE_OK;
}

static pare_tasks_options tasks_options(const pare_sweep *s, const pare_sweep_eval *e) {
    pare_tasks_options o = pare_tasks_options_default();
    o.data = s->data;
    o.limit = (size_t)e->limit;
    return o;
}

static pare_status eval_tasks(pare_record *r, pare_runtime *rt, const pare_sweep *s,
                              const pare_sweep_eval *e, loaded *l, pare_error *err) {
    pare_tasks_options o = tasks_options(s, e);
    bool against = e->against && r->out;
    pare_task_result *results = pare_record_calloc(r, e->n_tasks, sizeof *results);
    pare_task_pair *pairs = against ? pare_record_calloc(r, e->n_tasks, sizeof *pairs) : NULL;
    if (!results || (against && !pairs)) return fail_memory(err);
    if (against) PARE_TRY(load(&l->base, &l->base_tok, rt, r->model, err));
    PARE_TRY(pare_eval_tasks(results, pairs, rt, l->model, l->tok, against ? l->base : NULL,
                             against ? l->base_tok : NULL, e->tasks, e->n_tasks, &o, err));
    if (against) r->against = r->model;
    return pare_record_set_tasks(r, results, pairs, e->n_tasks, err);
}

/* --- one unit --- */

static void tell(sweep_run *w, const pare_sweep_run *run) {
    pthread_mutex_lock(&w->lock);
    w->n_done++;
    if (w->o->on_run) w->o->on_run(w->o->arg, run, w->n_done, w->s->n_runs);
    pthread_mutex_unlock(&w->lock);
}

/* Completes a record and adds it; a database that fails is told as a warning. */
static void keep_record(sweep_run *w, pare_runtime *rt, pare_sweep_run *run, pare_record *r) {
    pare_error err = {0};
    if (!w->o->records) return;
    if (w->o->jobs <= 1) r->peak_rss_bytes = (int64_t)pare_peak_rss_bytes();
    pthread_mutex_lock(&w->lock);
    if (run->state == PARE_RUN_DONE && pare_record_complete(r, rt, w->o->records, &err) != PARE_OK)
        pare_warn(rt, "the record is incomplete: %s", err.message);
    if (pare_records_add(w->o->records, r, &err) != PARE_OK)
        pare_warn(rt, "no record: %s", err.message);
    run->record = r->id;
    pthread_mutex_unlock(&w->lock);
}

/* The card of an output that may stay; that of the last evaluation. */
static void keep_card(const sweep_run *w, pare_runtime *rt, const pare_record *r) {
    pare_error err = {0};
    if (w->s->keep == PARE_KEEP_NONE || !r->out || !pare_path_is_folder(r->out)) return;
    if (!isfinite(r->ppl)) return; /* of a speed: it would replace one with more in it */
    if (pare_model_card_write(r->out, r, &err) != PARE_OK)
        pare_warn(rt, "no model card: %s", err.message);
}

static pare_status new_record(const sweep_run *w, pare_record **r, pare_runtime *rt,
                              const pare_sweep_unit *u, size_t i, pare_error *err) {
    PARE_TRY(pare_record_new(r, "sweep", rt, err));
    (*r)->run_key = w->keys[i];
    (*r)->model = u->model;
    (*r)->model_sha256 = hash_of(w, u->model);
    (*r)->recipe = u->recipe;
    return PARE_OK;
}

/* A failed run: its state, and a record with the reason. Interruptions are no failures. */
static pare_status fail_run(sweep_run *w, pare_runtime *rt, const pare_sweep_unit *u, size_t i,
                            const pare_error *why) {
    pare_sweep_run *run = &w->s->runs[i];
    pare_record *r;
    if (why->status == PARE_ERR_INTERRUPTED) return PARE_ERR_INTERRUPTED;
    run->state = PARE_RUN_FAILED;
    pthread_mutex_lock(&w->lock); /* of the pool too */
    run->message = pare_record_strndup(w->s->pool, why->message, strlen(why->message));
    pthread_mutex_unlock(&w->lock);
    if (new_record(w, &r, rt, u, i, NULL) == PARE_OK) {
        r->status = "failed";
        r->message = why->message;
        keep_record(w, rt, run, r);
        pare_record_free(r);
    }
    tell(w, run);
    return PARE_OK;
}

static pare_status evaluate(sweep_run *w, pare_runtime *rt, const pare_sweep_unit *u, size_t e,
                            const pare_compress_info *info, loaded *l, pare_error *err) {
    pare_sweep_run *run = &w->s->runs[u->first + e];
    const pare_sweep_eval *eval = &w->s->evals[e];
    pare_record *r;
    PARE_TRY(new_record(w, &r, rt, u, u->first + e, err));
    pare_status st = info ? pare_record_set_compression(r, info, err) : PARE_OK;
    r->out = u->out;
    if (r->calib_samples) { /* the recipe did calibrate */
        r->calib = w->s->calib;
        r->calib_sha256 = hash_of(w, w->s->calib);
    }
    if (r->imatrix_sha256) r->imatrix = w->s->imatrix;
    if (l->out_sha256[0]) r->out_sha256 = l->out_sha256;
    if (st == PARE_OK) st = load(&l->model, &l->tok, rt, u->out ? u->out : u->model, err);
    if (st == PARE_OK)
        st = eval->kind == PARE_EVAL_SPEED   ? eval_speed(r, rt, eval, l, err)
             : eval->kind == PARE_EVAL_TASKS ? eval_tasks(r, rt, w->s, eval, l, err)
                                             : eval_text(r, rt, u, eval, l, err);
    if (st == PARE_OK) {
        run->state = PARE_RUN_DONE;
        keep_record(w, rt, run, r);
        keep_card(w, rt, r);
        if (r->out_sha256 && !l->out_sha256[0])
            snprintf(l->out_sha256, sizeof l->out_sha256, "%s", r->out_sha256);
        run->in_bytes = (uint64_t)r->in_bytes;
        run->out_bytes = (uint64_t)r->out_bytes;
        run->bits_per_weight = r->bits_per_weight;
        run->ppl = r->ppl;
        tell(w, run);
    }
    pare_record_free(r);
    return st;
}

void pare_sweep_remove_output(const char *out) {
    if (!out) return;
    if (pare_path_is_folder(out))
        pare_folder_discard(out);
    else
        pare_path_remove(out);
}

/* With keep = best: the better of this output and the one kept so far stays. */
static void settle_output(sweep_run *w, const pare_sweep_unit *u) {
    const pare_sweep *s = w->s;
    const char *loser = u->out;
    if (!u->out || s->keep == PARE_KEEP_ALL) return;
    pthread_mutex_lock(&w->lock);
    size_t m = 0;
    while (s->keep == PARE_KEEP_BEST && strcmp(s->models.item[m], u->model) != 0) m++;
    struct best *best = &w->best[m];
    for (size_t e = 0; s->keep == PARE_KEEP_BEST && e < s->n_evals; e++) {
        const pare_sweep_run *run = &s->runs[u->first + e];
        if (s->evals[e].kind != PARE_EVAL_TEXT) continue; /* the first perplexity decides */
        if (run->ppl < best->ppl || (isfinite(run->ppl) && !best->out)) {
            loser = best->out;
            *best = (struct best){run->ppl, u->out};
        }
        break;
    }
    pthread_mutex_unlock(&w->lock);
    pare_sweep_remove_output(loser);
}

static pare_compress_options compress_options(const pare_sweep *s, const pare_sweep_unit *u) {
    return (pare_compress_options){.model = u->model,
                                   .out = u->out,
                                   .recipe = u->recipe,
                                   .format = s->format,
                                   .calib = s->calib,
                                   .calib_samples = s->calib ? (size_t)s->calib_samples : 0,
                                   .calib_ctx = s->calib ? (size_t)s->calib_ctx : 0,
                                   .imatrix = s->imatrix,
                                   .shared_inputs = true};
}

/* What an interrupted run left is gone on with; where it belongs to other inputs, it is dropped. */
static pare_status compress(const sweep_run *w, pare_compress_report **report, pare_runtime *rt,
                            const pare_sweep_unit *u, pare_error *err) {
    pare_compress_options co = compress_options(w->s, u);
    char *work = pare_asprintf("%s.work", u->out);
    if (!work) return fail_memory(err);
    bool begun = pare_path_exists(work);
    pare_free(work);
    if (pare_path_exists(u->out))
        pare_sweep_remove_output(u->out); /* of a run that ended before its record */
    pare_status st = pare_compress(report, rt, &co, err);
    if (!begun || (st != PARE_ERR_ARG && st != PARE_ERR_INPUT)) return st;
    co.restart = true;
    return pare_compress(report, rt, &co, err);
}

/* Every run of the unit that has no record yet. Fails only by an interruption. */
static pare_status run_unit(sweep_run *w, pare_runtime *rt, const pare_sweep_unit *u) {
    pare_compress_report *report = NULL;
    pare_error err = {0};
    loaded l = {0};
    size_t n_left = 0;
    for (size_t e = 0; e < w->s->n_evals; e++) {
        pare_sweep_run *run = &w->s->runs[u->first + e];
        n_left += run->state == PARE_RUN_WAITING;
        if (run->state == PARE_RUN_THERE) tell(w, run);
    }
    if (!n_left) return PARE_OK;
    if (w->o->jobs <= 1) pare_peak_rss_reset();
    pare_status made = u->out ? compress(w, &report, rt, u, &err) : PARE_OK, st = PARE_OK;
    const pare_compress_info *info = report ? pare_compress_result(report) : NULL;
    for (size_t e = 0; st == PARE_OK && e < w->s->n_evals; e++) {
        if (w->s->runs[u->first + e].state != PARE_RUN_WAITING) continue;
        pare_error own = err;
        pare_status one = made == PARE_OK ? evaluate(w, rt, u, e, info, &l, &own) : made;
        if (one != PARE_OK) st = fail_run(w, rt, u, u->first + e, &own);
    }
    unload(&l);
    pare_compress_report_free(report);
    if (made == PARE_OK) settle_output(w, u);
    return st;
}

/* --- all of them --- */

static const pare_sweep_unit *next_unit(sweep_run *w) {
    pthread_mutex_lock(&w->lock);
    const volatile sig_atomic_t *cancel = w->o->runtime.cancel;
    if (cancel && *cancel && w->failed == PARE_OK)
        w->failed = pare_fail(&w->err, PARE_ERR_INTERRUPTED, "interrupted");
    while (w->next_unit < w->s->n_units && !pare_sweep_is_mine(w->next_unit)) w->next_unit++;
    bool more = w->failed == PARE_OK && w->next_unit < w->s->n_units;
    const pare_sweep_unit *u = more ? &w->s->units[w->next_unit++] : NULL;
    pthread_mutex_unlock(&w->lock);
    return u;
}

static void stop_all(sweep_run *w, pare_status st, const pare_error *err) {
    pthread_mutex_lock(&w->lock);
    if (w->failed == PARE_OK) {
        w->failed = st;
        w->err = *err;
    }
    pthread_mutex_unlock(&w->lock);
}

static void *work(void *arg) {
    sweep_run *w = arg;
    pare_options options = w->o->runtime;
    pare_runtime *rt = NULL;
    pare_error err = {0};
    if (w->o->jobs > 1) { /* callbacks are for one thread */
        options.progress = NULL;
        options.warn = NULL;
    }
    pare_status st = pare_runtime_create(&rt, &options, &err);
    const pare_sweep_unit *u;
    while (st == PARE_OK && (u = next_unit(w)))
        if ((st = run_unit(w, rt, u)) != PARE_OK) pare_fail(&err, st, "interrupted");
    if (st != PARE_OK) stop_all(w, st, &err);
    pare_runtime_free(rt);
    return NULL;
}

static pare_status work_together(sweep_run *w, pare_error *err) {
    enum { MAX_JOBS = 64 };
    pthread_t threads[MAX_JOBS];
    int n = 0;
    pare_group_alone(true); /* ranks share the runs, not what is in one */
    while (n < w->o->jobs - 1 && pthread_create(&threads[n], NULL, work, w) == 0) n++;
    work(w); /* this thread is one of them */
    while (n > 0) pthread_join(threads[--n], NULL);
    pare_group_alone(false);
    if (w->failed != PARE_OK && err) *err = w->err;
    return w->failed;
}

/* Sizes, without writing anything. */
static pare_status plan(sweep_run *w, pare_runtime *rt, pare_error *err) {
    for (size_t i = 0; i < w->s->n_units; i++) {
        const pare_sweep_unit *u = &w->s->units[i];
        pare_compress_report *report = NULL;
        pare_error own = {0};
        pare_compress_options co = compress_options(w->s, u);
        co.out = NULL;
        co.format = w->s->format ? w->s->format : "hf";
        co.dry_run = true;
        pare_status st = pare_compress(&report, rt, &co, &own);
        const pare_compress_info *info = st == PARE_OK ? pare_compress_result(report) : NULL;
        for (size_t e = 0; st != PARE_ERR_INTERRUPTED && e < w->s->n_evals; e++) {
            pare_sweep_run *run = &w->s->runs[u->first + e];
            if (info) {
                run->in_bytes = info->in_bytes;
                run->out_bytes = info->out_bytes;
                run->bits_per_weight = info->bits_per_weight;
            } else if (run->state == PARE_RUN_WAITING) {
                run->state = PARE_RUN_FAILED;
                run->message = pare_record_strndup(w->s->pool, own.message, strlen(own.message));
            }
            tell(w, run);
        }
        pare_compress_report_free(report);
        if (st == PARE_ERR_INTERRUPTED) return pare_fail(err, st, "interrupted");
    }
    return PARE_OK;
}

/* All that concerns every run, before any work: inputs are there, and their hashes. */
static pare_status prepare(sweep_run *w, pare_runtime *rt, pare_error *err) {
    pare_sweep *s = w->s;
    w->files = pare_calloc(s->models.n + s->n_evals + 2, sizeof *w->files);
    w->keys = pare_calloc(s->n_runs, sizeof *w->keys);
    w->best = pare_calloc(s->models.n, sizeof *w->best);
    if (!w->files || !w->keys || !w->best) return fail_memory(err);
    for (size_t i = 0; i < s->models.n; i++) {
        pare_description *d;
        PARE_TRY(pare_describe(&d, s->models.item[i], err));
        pare_description_free(d);
        PARE_TRY(hash_shared(w, rt, s->models.item[i], err));
    }
    for (size_t i = 0; i < s->n_evals; i++) {
        const pare_sweep_eval *e = &s->evals[i];
        pare_tasks_options o = tasks_options(s, e);
        PARE_TRY(hash_shared(w, rt, e->path, err));
        if (e->n_tasks) PARE_TRY(pare_tasks_check(e->tasks, e->n_tasks, &o, err));
    }
    PARE_TRY(hash_shared(w, rt, s->calib, err));
    PARE_TRY(hash_shared(w, rt, s->imatrix, err));
    for (size_t i = 0; i < s->n_units; i++)
        for (size_t e = 0; e < s->n_evals; e++)
            make_key(w, &s->units[i], &s->evals[e], w->keys[s->units[i].first + e]);
    return find_records(w, err);
}

pare_status pare_sweep_run_all(pare_sweep *s, const pare_sweep_options *options, pare_error *err) {
    pare_sweep_options o = *options;
    if (o.jobs == 0) o.jobs = 1;
    if (o.jobs < 1 || o.jobs > 64)
        return pare_fail(err, PARE_ERR_ARG, "sweep: found %d jobs, expected 1 to 64", o.jobs);
    sweep_run w = {.s = s, .o = &o};
    pare_runtime *rt;
    PARE_TRY(pare_runtime_create(&rt, &o.runtime, err));
    int share = pare_runtime_threads(rt) / o.jobs;
    pthread_mutex_init(&w.lock, NULL);
    pare_status st = prepare(&w, rt, err);
    if (st == PARE_OK && o.dry_run) {
        pare_group_alone(true);
        st = plan(&w, rt, err);
        pare_group_alone(false);
    }
    pare_runtime_free(rt); /* each job makes its own */
    o.runtime.n_threads = share > 0 ? share : 1;
    if (st == PARE_OK && !o.dry_run) st = pare_folder_make(s->out, err);
    if (st == PARE_OK && !o.dry_run) {
        pare_group_barrier(); /* no rank adds records before all have read them */
        st = work_together(&w, err);
        st = pare_sweep_gather(s, st, err);
    }
    pthread_mutex_destroy(&w.lock);
    pare_free(w.files);
    pare_free(w.keys);
    pare_free(w.best);
    return st;
}

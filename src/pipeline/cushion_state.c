/* What a search that was cut off goes on from: the steps that are over, in the manifest of the work
 * folder, and within a step how far it is. That is a few numbers there and the errors on the screen
 * in a file beside, 8 bytes a candidate, whose order is the order of the search. */
#include "pipeline/cushion.h"

#include "base/group.h"
#include "base/os.h"
#include "io/json.h"
#include "pipeline/checkpoint.h"

#include <math.h>
#include <stdio.h>

static const char steps_key[] = "cushion", within_key[] = "cushion_token";

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "cushion: out of memory");
}

static json_int_t integer_of(const json_t *j, const char *key) {
    return json_integer_value(json_object_get(j, key));
}

static double error_or_infinity(const json_t *j, const char *key) {
    const double v = pare_json_number_of(json_object_get(j, key));
    return isfinite(v) ? v : (double)INFINITY;
}

/* --- the errors on the screen --- */

static bool errors_at(void *arg, size_t i, pare_saved *out) {
    pare_cushion_within *w = arg;
    *out = (pare_saved){.name = "errors",
                        .dtype = "U8",
                        .data = w->screen,
                        .n_bytes = w->n_screened * sizeof(double)};
    return i == 0;
}

/* NULL: out of memory. */
static char *path_of(const pare_cushion_state *s, const json_t *state) {
    char kind[48];
    snprintf(kind, sizeof kind, "screen-%lld", (long long)integer_of(state, "step"));
    return pare_checkpoint_path(pare_work_path(s->work), kind,
                                (uint64_t)integer_of(state, "screened"), "safetensors");
}

/* Nothing names it any more. */
static void remove_file(const pare_cushion_state *s, const json_t *state) {
    char *path = state && pare_group_rank() == 0 ? path_of(s, state) : NULL;
    if (path) pare_path_remove(path);
    pare_free(path);
}

/* --- steps --- */

json_t *pare_cushion_steps_json(const pare_cushion_result *r) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->n_steps; i++) {
        const pare_cushion_step *s = &r->steps[i];
        json_array_append_new(list, json_pack("{s:i, s:f, s:o, s:b, s:f, s:f, s:I}", "token_id",
                                              (int)s->token, "error_before", s->before,
                                              "error_after", pare_json_number(s->after), "kept",
                                              s->kept, "work", s->work, "brute_force_work",
                                              s->whole, "n_finished", (json_int_t)s->n_finished));
    }
    return list;
}

pare_status pare_cushion_keep_steps(pare_cushion_state *s, const pare_cushion_result *r,
                                    pare_error *err) {
    if (!s->work) return PARE_OK;
    PARE_TRY(pare_work_keep(s->work, steps_key, pare_cushion_steps_json(r), err));
    remove_file(s, pare_work_kept(s->work, within_key)); /* of a step that is over */
    return PARE_OK;
}

void pare_cushion_resume_steps(const pare_cushion_state *s, const pare_cushion_options *o,
                               pare_cushion_result *r) {
    const json_t *list = s->work ? pare_work_kept(s->work, steps_key) : NULL;
    for (size_t i = 0; i < json_array_size(list) && r->n < (size_t)o->max_len &&
                       r->n_steps < PARE_CUSHION_MAX_LEN;
         i++) {
        const json_t *j = json_array_get(list, i);
        pare_cushion_step step = {.token = (int32_t)integer_of(j, "token_id"),
                                  .before = json_number_value(json_object_get(j, "error_before")),
                                  .after = error_or_infinity(j, "error_after"),
                                  .kept = json_is_true(json_object_get(j, "kept")),
                                  .work = json_number_value(json_object_get(j, "work")),
                                  .whole =
                                      json_number_value(json_object_get(j, "brute_force_work")),
                                  .n_finished = (size_t)integer_of(j, "n_finished")};
        r->steps[r->n_steps++] = step;
        if (step.kept) r->ids[r->n++] = step.token;
    }
}

/* --- within a step --- */

static json_t *within_json(pare_cushion_within *w) {
    const size_t failures = pare_json_failures();
    return pare_json_whole(
        json_pack("{s:I, s:I, s:I, s:I, s:i, s:o, s:f, s:f, s:I}", "step", (json_int_t)w->number,
                  "screened", (json_int_t)w->n_screened, "tried", (json_int_t)w->n_tried,
                  "finished", (json_int_t)w->n_finished, "best", (int)w->best, "best_error",
                  pare_json_number(w->best_lq), "error_before", w->before, "work", w->work, "crc32",
                  (json_int_t)pare_checkpoint_crc32(errors_at, w)),
        failures);
}

static bool same_file(const json_t *a, const json_t *b) {
    return integer_of(a, "step") == integer_of(b, "step") &&
           integer_of(a, "screened") == integer_of(b, "screened");
}

static pare_status keep(pare_cushion_state *s, pare_cushion_within *w, json_t *now,
                        pare_error *err) {
    json_t *before = json_incref((json_t *)pare_work_kept(s->work, within_key));
    const bool there = before && same_file(before, now) && !s->stale;
    char *path = path_of(s, now);
    pare_status st = path ? PARE_OK : fail_memory(err);
    if (st == PARE_OK && !there && pare_group_rank() == 0)
        st = pare_checkpoint_write(path, errors_at, w, err);
    if (st == PARE_OK) st = pare_work_keep(s->work, within_key, json_incref(now), err);
    if (st == PARE_OK && before && !same_file(before, now)) remove_file(s, before);
    if (st == PARE_OK) s->stale = false;
    pare_free(path);
    json_decref(before);
    return st;
}

pare_status pare_cushion_keep_within(pare_cushion_state *s, const pare_cushion_within *w, bool last,
                                     pare_error *err) {
    pare_cushion_within copy = *w;
    if (!s->work || (!last && pare_now_s() - s->saved_s < s->every_s)) return PARE_OK;
    json_t *now = within_json(&copy);
    pare_status st = now ? keep(s, &copy, now, err) : fail_memory(err);
    json_decref(now);
    s->saved_s = pare_now_s();
    return st;
}

/* What the manifest says, where it can be. */
static bool read_within(pare_cushion_within *w, const json_t *j, size_t n_candidates) {
    const json_int_t n = (json_int_t)n_candidates, screened = integer_of(j, "screened"),
                     tried = integer_of(j, "tried"), finished = integer_of(j, "finished");
    w->n_screened = (size_t)screened;
    w->n_tried = (size_t)tried;
    w->n_finished = (size_t)finished;
    w->best = (int32_t)integer_of(j, "best");
    w->best_lq = error_or_infinity(j, "best_error");
    w->before = json_number_value(json_object_get(j, "error_before"));
    w->work = json_number_value(json_object_get(j, "work"));
    return screened > 0 && screened <= n && tried >= 0 && tried <= n && finished >= 0 &&
           finished <= tried && (!tried || screened == n);
}

pare_status pare_cushion_resume_within(pare_cushion_state *s, pare_cushion_within *w,
                                       size_t n_candidates, pare_error *err) {
    const json_t *j = s->work ? pare_work_kept(s->work, within_key) : NULL;
    pare_cushion_within found = *w;
    pare_error own = {0};
    if (!j || integer_of(j, "step") != (json_int_t)w->number) return PARE_OK;
    char *path = path_of(s, j);
    if (!path) return fail_memory(err);
    pare_status st =
        read_within(&found, j, n_candidates)
            ? pare_checkpoint_read(path, (uint32_t)integer_of(j, "crc32"), errors_at, &found, &own)
            : pare_fail(&own, PARE_ERR_INPUT, "%s: not one of this search", path);
    pare_free(path);
    if (st == PARE_OK) {
        *w = found;
        return PARE_OK;
    }
    if (st == PARE_ERR_NOMEM) return fail_memory(err);
    s->stale = true; /* missing or damaged */
    pare_warn(s->rt, "cushion: the search for token %zu begins anew: %s", w->number + 1,
              own.message);
    return PARE_OK;
}

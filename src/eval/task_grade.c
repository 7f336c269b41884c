/* Right or wrong, and what follows from it. */
#include "eval/task.h"

#include "base/memory.h"

#include <math.h>

void pare_task_grade_free(pare_task_grade *grade) {
    pare_free(grade->right);
    pare_free(grade->right_norm);
    *grade = (pare_task_grade){0};
}

/* A choice without a character loses against all others. */
static double value_of(const pare_task_set *set, const pare_task_request *r,
                       const pare_task_score *s, bool norm) {
    if (set->task->scoring != PARE_SCORE_SUM) return s->ll / (double)s->n;
    if (!norm) return s->ll;
    return r->n_chars ? s->ll / (double)r->n_chars : -INFINITY;
}

/* Does the gold request have the largest value? The first of equals wins, or the last. */
static bool is_right(const pare_task_set *set, const pare_task_doc *doc,
                     const pare_task_score *scores, bool norm) {
    if (set->task->metrics & PARE_TASK_WORD) return scores[doc->first].greedy;
    bool last_wins = set->task->scoring == PARE_SCORE_REST;
    size_t best = 0;
    double largest = 0;
    for (size_t i = 0; i < doc->n; i++) {
        size_t at = doc->first + i;
        double value = value_of(set, &set->requests[at], &scores[at], norm);
        if (i && !(value > largest) && !(last_wins && value == largest)) continue;
        best = i;
        largest = value;
    }
    return best == doc->gold;
}

static pare_status check_scores(const pare_task_set *set, const pare_task_doc *doc,
                                const pare_task_score *scores, pare_error *err) {
    for (size_t i = 0; i < doc->n; i++)
        if (!isfinite(scores[doc->first + i].ll))
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: line %zu, request %zu: found a log-likelihood of %g, expected a "
                             "finite number",
                             set->file, doc->line, i, scores[doc->first + i].ll);
    return PARE_OK;
}

static pare_status grade_docs(pare_task_grade *grade, const pare_task_set *set,
                              const pare_task_score *scores, pare_error *err) {
    double sum = 0, sum2 = 0, n = (double)set->n_docs;
    for (size_t i = 0; i < set->n_docs; i++) {
        const pare_task_doc *doc = &set->docs[i];
        PARE_TRY(check_scores(set, doc, scores, err));
        grade->right[i] = is_right(set, doc, scores, false);
        if (grade->right_norm) grade->right_norm[i] = is_right(set, doc, scores, true);
        sum += scores[doc->first + doc->gold].ll;
    }
    grade->ll_mean = sum / n;
    for (size_t i = 0; i < set->n_docs; i++) {
        double d = scores[set->docs[i].first + set->docs[i].gold].ll - grade->ll_mean;
        sum2 += d * d;
    }
    grade->ll_sd = n > 1 ? sqrt(sum2 / (n - 1)) : 0;
    return PARE_OK;
}

pare_status pare_task_grade_make(pare_task_grade *grade, const pare_task_set *set,
                                 const pare_task_score *scores, pare_error *err) {
    bool norm = set->task->metrics & PARE_TASK_ACC_NORM;
    *grade = (pare_task_grade){.set = set, .right = pare_calloc(set->n_docs, sizeof(bool))};
    if (norm) grade->right_norm = pare_calloc(set->n_docs, sizeof(bool));
    pare_status st = PARE_OK;
    if (!grade->right || (norm && !grade->right_norm))
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", set->file);
    if (st == PARE_OK) st = grade_docs(grade, set, scores, err);
    if (st != PARE_OK) pare_task_grade_free(grade);
    return st;
}

static void share_of(double *share, double *stderr_, const bool *right, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += right[i];
    double p = (double)count / (double)n;
    *share = p;
    *stderr_ = n > 1 ? sqrt(p * (1 - p) / (double)(n - 1)) : 0;
}

void pare_task_grade_result(pare_task_result *out, const pare_task_grade *grade) {
    size_t n = grade->set->n_docs;
    out->name = grade->set->task->name;
    out->n = n;
    share_of(&out->acc, &out->acc_stderr, grade->right, n);
    out->acc_norm = out->acc_norm_stderr = out->ppl = out->ppl_stderr = NAN;
    if (grade->right_norm) share_of(&out->acc_norm, &out->acc_norm_stderr, grade->right_norm, n);
    if (!(grade->set->task->metrics & PARE_TASK_WORD)) return;
    out->ppl = exp(-grade->ll_mean);
    out->ppl_stderr = out->ppl * grade->ll_sd / sqrt((double)n);
}

/* Mean and error of d_i = right_i - base_i, which is -1, 0 or 1. */
static void paired(double *diff, double *stderr_, size_t *gained, size_t *lost, const bool *right,
                   const bool *base, size_t n) {
    *gained = *lost = 0;
    for (size_t i = 0; i < n; i++) {
        *gained += right[i] && !base[i];
        *lost += !right[i] && base[i];
    }
    double mean = ((double)*gained - (double)*lost) / (double)n;
    double squares = (double)(*gained + *lost) - (double)n * mean * mean;
    *diff = mean;
    *stderr_ = n > 1 && squares > 0 ? sqrt(squares / (double)(n - 1) / (double)n) : 0;
}

void pare_task_grade_pair(pare_task_pair *out, const pare_task_grade *model,
                          const pare_task_grade *base) {
    size_t n = base->set->n_docs;
    pare_task_result r;
    pare_task_grade_result(&r, base);
    *out = (pare_task_pair){.base_acc = r.acc,
                            .base_acc_norm = r.acc_norm,
                            .base_ppl = r.ppl,
                            .diff_norm = NAN,
                            .diff_norm_stderr = NAN};
    paired(&out->diff, &out->diff_stderr, &out->gained, &out->lost, model->right, base->right, n);
    if (base->right_norm)
        paired(&out->diff_norm, &out->diff_norm_stderr, &out->gained_norm, &out->lost_norm,
               model->right_norm, base->right_norm, n);
}

bool pare_task_at(pare_task_info *info, size_t i) {
    for (size_t k = 0; k <= i; k++)
        if (!pare_tasks[k].name) return false;
    const pare_task *t = &pare_tasks[i];
    *info = (pare_task_info){.name = t->name,
                             .split = t->split,
                             .summary = t->summary,
                             .has_acc_norm = t->metrics & PARE_TASK_ACC_NORM,
                             .has_ppl = t->metrics & PARE_TASK_WORD,
                             .quoted_norm = t->quoted_norm,
                             .variant = t->variant};
    return true;
}

pare_task_mean pare_task_mean_of(const pare_task_result *results, size_t n) {
    pare_task_mean mean = {.n = n};
    for (size_t i = 0; i < n; i++) {
        const pare_task_result *r = &results[i];
        const pare_task *task = pare_task_find(r->name);
        bool norm = task && task->quoted_norm;
        double error = norm ? r->acc_norm_stderr : r->acc_stderr;
        mean.acc += r->acc / (double)n;
        mean.acc_stderr += r->acc_stderr * r->acc_stderr;
        mean.quoted += (norm ? r->acc_norm : r->acc) / (double)n;
        mean.quoted_stderr += error * error;
    }
    if (!n) return mean;
    mean.acc_stderr = sqrt(mean.acc_stderr) / (double)n;
    mean.quoted_stderr = sqrt(mean.quoted_stderr) / (double)n;
    return mean;
}

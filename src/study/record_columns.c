#include "study/record_columns.h"

#include <math.h>
#include <string.h>

#define TEXT(type_, field_)                                                                        \
    { #field_, PARE_COLUMN_TEXT, offsetof(type_, field_) }
#define INT(type_, field_)                                                                         \
    { #field_, PARE_COLUMN_INT, offsetof(type_, field_) }
#define COUNT(type_, field_)                                                                       \
    { #field_, PARE_COLUMN_COUNT, offsetof(type_, field_) }
#define REAL(type_, field_)                                                                        \
    { #field_, PARE_COLUMN_REAL, offsetof(type_, field_) }

#define R pare_record
const pare_column pare_record_columns[] = {
    INT(R, id),
    INT(R, time),
    TEXT(R, verb),
    TEXT(R, version),
    TEXT(R, status),
    TEXT(R, message),
    TEXT(R, run_key),
    TEXT(R, cpu),
    TEXT(R, isa),
    COUNT(R, threads),
    INT(R, deterministic),
    INT(R, seed),
    TEXT(R, model),
    TEXT(R, model_sha256),
    TEXT(R, arch),
    TEXT(R, name),
    TEXT(R, licence),
    TEXT(R, recipe),
    TEXT(R, out),
    TEXT(R, out_sha256),
    TEXT(R, format),
    TEXT(R, calib),
    TEXT(R, calib_sha256),
    COUNT(R, calib_samples),
    COUNT(R, calib_ctx),
    TEXT(R, calib_crc32),
    TEXT(R, calib_compute),
    TEXT(R, keep),
    COUNT(R, true_sequential),
    TEXT(R, imatrix),
    TEXT(R, imatrix_sha256),
    TEXT(R, text),
    TEXT(R, text_sha256),
    TEXT(R, against),
    TEXT(R, against_sha256),
    TEXT(R, lora),
    TEXT(R, lora_sha256),
    TEXT(R, prefix),
    TEXT(R, prefix_sha256),
    TEXT(R, prefix_tokens),
    TEXT(R, data),
    TEXT(R, data_sha256),
    TEXT(R, teacher),
    TEXT(R, teacher_sha256),
    TEXT(R, options),
    COUNT(R, n_params),
    COUNT(R, in_bytes),
    COUNT(R, out_bytes),
    REAL(R, bits_per_weight),
    REAL(R, sparsity),
    TEXT(R, protocol),
    TEXT(R, compute),
    TEXT(R, kv),
    TEXT(R, act),
    REAL(R, clamped),
    COUNT(R, ctx),
    COUNT(R, n_windows),
    COUNT(R, n_scored),
    COUNT(R, n_tokens),
    TEXT(R, crc32),
    REAL(R, ppl),
    REAL(R, ppl_stderr),
    REAL(R, nll_sum),
    REAL(R, base_ppl),
    REAL(R, base_prefix_ppl),
    REAL(R, kl_mean),
    REAL(R, kl_mean_stderr),
    REAL(R, kl_p99),
    REAL(R, kl_max),
    REAL(R, same_top),
    REAL(R, ppl_ratio),
    COUNT(R, steps),
    COUNT(R, train_tokens),
    REAL(R, train_loss),
    REAL(R, val_loss),
    REAL(R, val_ppl),
    COUNT(R, val_step),
    REAL(R, first_val_loss),
    REAL(R, train_tokens_per_s),
    REAL(R, seconds),
    REAL(R, eval_seconds),
    REAL(R, eval_tokens_per_s),
    REAL(R, prefill_tokens_per_s),
    REAL(R, decode_tokens_per_s),
    COUNT(R, peak_rss_bytes),
    {0},
};
#undef R

#define L pare_record_layer
const pare_column pare_layer_columns[] = {
    TEXT(L, name),      TEXT(L, from),       TEXT(L, encoding),        COUNT(L, n_params),
    COUNT(L, in_bytes), COUNT(L, out_bytes), REAL(L, bits_per_weight), REAL(L, sparsity),
    REAL(L, error),     REAL(L, seconds),    REAL(L, output_error),    {0},
};
#undef L

#define T pare_record_task
const pare_column pare_task_columns[] = {
    TEXT(T, name),
    COUNT(T, n),
    REAL(T, acc),
    REAL(T, acc_stderr),
    REAL(T, acc_norm),
    REAL(T, acc_norm_stderr),
    REAL(T, ppl),
    REAL(T, ppl_stderr),
    TEXT(T, crc32),
    INT(T, bos),
    REAL(T, diff),
    REAL(T, diff_stderr),
    REAL(T, diff_norm),
    REAL(T, diff_norm_stderr),
    INT(T, gained),
    INT(T, lost),
    {0},
};
#undef T

#define P pare_record_point
const pare_column pare_point_columns[] = {
    INT(P, step),      REAL(P, loss), REAL(P, val_loss), REAL(P, lr), REAL(P, grad_norm),
    REAL(P, sparsity), {0},
};
#undef P

#define S pare_record_site
const pare_column pare_site_columns[] = {
    INT(S, layer),
    TEXT(S, site),
    REAL(S, top1),
    REAL(S, top10),
    REAL(S, top10_mean),
    REAL(S, median),
    REAL(S, largest),
    REAL(S, largest_behind),
    INT(S, position),
    INT(S, channel),
    INT(S, token_id),
    REAL(S, attention_first),
    REAL(S, attention_prefix),
    {0},
};
#undef S

const pare_column *pare_column_find(const pare_column *table, const char *name, size_t len) {
    for (; table->name; table++)
        if (strlen(table->name) == len && memcmp(table->name, name, len) == 0) return table;
    return NULL;
}

static const void *field(const pare_column *c, const void *item) {
    return (const char *)item + c->offset;
}

const char *pare_column_text(const pare_column *c, const void *item) {
    return *(const char *const *)field(c, item);
}

int64_t pare_column_int(const pare_column *c, const void *item) {
    return *(const int64_t *)field(c, item);
}

double pare_column_real(const pare_column *c, const void *item) {
    return *(const double *)field(c, item);
}

bool pare_column_known(const pare_column *c, const void *item) {
    if (c->type == PARE_COLUMN_TEXT) return pare_column_text(c, item) != NULL;
    if (c->type == PARE_COLUMN_REAL) return isfinite(pare_column_real(c, item));
    return c->type == PARE_COLUMN_INT || pare_column_int(c, item) != 0;
}

void pare_columns_clear(const pare_column *table, void *item) {
    for (; table->name; table++) {
        char *at = (char *)item + table->offset;
        if (table->type == PARE_COLUMN_TEXT)
            *(const char **)(void *)at = NULL;
        else if (table->type == PARE_COLUMN_REAL)
            *(double *)(void *)at = (double)NAN;
        else
            *(int64_t *)(void *)at = 0;
    }
}

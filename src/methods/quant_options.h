/* What the quantizers of single weights have in common: bits, groups and the grid, and the encoding
 * that stores them. */
#ifndef PARE_SRC_METHODS_QUANT_OPTIONS_H
#define PARE_SRC_METHODS_QUANT_OPTIONS_H

#include "methods/method.h"
#include "tensor/grid.h"

typedef struct pare_quant_options {
    int bits, group;  /* group 0 = a whole row */
    int grid, search; /* pare_grid_kind, pare_grid_search */
} pare_quant_options;

/* Four lines of a method's table; `options` has the member `q`. */
#define PARE_QUANT_PARAMS(options, grid_, search_)                                                 \
    {.name = "bits",                                                                               \
     .type = PARE_PARAM_INT,                                                                       \
     .offset = offsetof(options, q.bits),                                                          \
     .def = 4,                                                                                     \
     .min = 2,                                                                                     \
     .max = 8,                                                                                     \
     .help = "bits of a code: 2, 3, 4, 5, 6 or 8"},                                                \
        {.name = "group",                                                                          \
         .type = PARE_PARAM_INT,                                                                   \
         .offset = offsetof(options, q.group),                                                     \
         .def = 64,                                                                                \
         .min = 0,                                                                                 \
         .max = 128,                                                                               \
         .help = "inputs that share a scale: 32, 64, 128, or 0 for a whole row"},                  \
        {.name = "grid",                                                                           \
         .type = PARE_PARAM_CHOICE,                                                                \
         .offset = offsetof(options, q.grid),                                                      \
         .def = grid_,                                                                             \
         .choices = PARE_GRID_CHOICES,                                                             \
         .help = "how codes stand for numbers: docs/encodings.md, Grids"},                         \
    {                                                                                              \
        .name = "search", .type = PARE_PARAM_CHOICE, .offset = offsetof(options, q.search),        \
        .def = search_, .choices = PARE_GRID_SEARCH_CHOICES,                                       \
        .help = "which scale: the plain one, that of least squared error weighted by the inputs, " \
                "or of least |error|^2.4"                                                          \
    }

static inline pare_grid pare_quant_grid(const pare_quant_options *q) {
    return (pare_grid){(pare_grid_kind)q->grid, q->bits, (pare_grid_search)q->search};
}

static inline const pare_encoding *pare_quant_encoding(const pare_quant_options *q) {
    pare_grid grid = pare_quant_grid(q);
    return pare_encoding_of_grid(q->bits, !pare_grid_symmetric(&grid), (size_t)q->group);
}

static inline pare_status pare_quant_check(const pare_quant_options *q, pare_error *err) {
    if (q->bits == 7)
        return pare_fail(err, PARE_ERR_ARG, "bits: found 7, expected 2, 3, 4, 5, 6 or 8");
    if (q->group != 0 && q->group != 32 && q->group != 64 && q->group != 128)
        return pare_fail(err, PARE_ERR_ARG,
                         "group: found %d, expected 32, 64, 128, or 0 for a whole row", q->group);
    return PARE_OK;
}

/* Scale and zero point of a job's row from column c on, where a group begins. */
static inline size_t pare_quant_group_at(const pare_weight_job *job, size_t row, size_t c) {
    const pare_grid_form *g = job->enc->grid;
    return row * pare_grid_groups(g, job->cols) + (g->group ? c / g->group : 0);
}

/* Rounds w[rows][cols] in place to the nearest points of the grid, fitted to each group of `group`
 * inputs (0: a row). importance [cols]: weights of the squared errors of a search, NULL: all alike.
 * scale, zero [rows][groups]; may be NULL. */
void pare_quant_round(pare_runtime *rt, float *w, size_t rows, size_t cols, size_t group,
                      const pare_grid *grid, const float *importance, float *scale, uint8_t *zero);

/* Mean squares of the inputs as weights of a search, f32 [cols], on average 1; all 1 where no token
 * was seen. NULL without statistics or memory. Free with pare_free. */
float *pare_quant_importance(const pare_weight_job *job);

#endif

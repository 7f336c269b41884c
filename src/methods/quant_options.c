#include "methods/quant_options.h"

#include "base/memory.h"

typedef struct round_job {
    float *w, *scale;
    uint8_t *zero;
    size_t cols, group;
    const pare_grid *grid;
    const float *importance;
    const pare_encode_kernels *k;
} round_job;

static void round_rows(void *arg, size_t begin, size_t end) {
    const round_job *j = arg;
    size_t step = j->group ? j->group : j->cols, groups = (j->cols + step - 1) / step;
    int max = (1 << j->grid->bits) - 1;
    for (size_t r = begin; r < end; r++)
        for (size_t c = 0; c < j->cols; c += step) {
            size_t n = j->cols - c < step ? j->cols - c : step, at = r * groups + c / step;
            float *w = j->w + r * j->cols + c, scale;
            uint8_t zero;
            pare_grid_fit(&scale, &zero, j->grid, j->k, w, j->importance ? j->importance + c : NULL,
                          n);
            for (size_t i = 0; i < n; i++)
                w[i] = pare_grid_value(pare_grid_code(w[i], scale, zero, max), scale, zero);
            if (j->scale) j->scale[at] = scale;
            if (j->zero) j->zero[at] = zero;
        }
}

void pare_quant_round(pare_runtime *rt, float *w, size_t rows, size_t cols, size_t group,
                      const pare_grid *grid, const float *importance, float *scale, uint8_t *zero) {
    round_job j = {w,     scale, zero,       cols,
                   group, grid,  importance, pare_encode_kernels_get(pare_runtime_isa(rt))};
    pare_parallel_for(rt, rows, 8, round_rows, &j);
}

float *pare_quant_importance(const pare_weight_job *job) {
    if (!job->x || !job->x->squares) return NULL;
    float *h = pare_malloc(job->cols, sizeof *h);
    if (!h) return NULL;
    double sum = 0.0;
    for (size_t c = 0; c < job->cols; c++) sum += job->x->squares[c];
    for (size_t c = 0; c < job->cols; c++)
        h[c] = sum > 0.0 ? (float)(job->x->squares[c] * (double)job->cols / sum) : 1.0f;
    return h;
}

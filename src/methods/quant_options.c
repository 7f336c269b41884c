#include "methods/quant_options.h"

#include "base/memory.h"

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

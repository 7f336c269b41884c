/* An adapter's part added to the matrix that it stands beside: w + s b a. */
#include "base/memory.h"
#include "base/runtime.h"
#include "pipeline/compress_run.h"

typedef struct merge_job {
    float *w;
    const pare_tensor *stored;
    const pare_adapter *adapter;
    bool keep_zeros;
} merge_job;

static void merge_rows(void *arg, size_t begin, size_t end) {
    const merge_job *j = arg;
    const pare_view *v = &j->stored->view;
    const float *a = j->adapter->a.view.part[0], *b = j->adapter->b.view.part[0];
    size_t rank = j->adapter->a.view.rows, cols = v->cols;
    for (size_t r = begin; r < end; r++) {
        float *w = j->w + r * cols;
        j->stored->enc->decode(w, v, r, 0, cols);
        for (size_t k = 0; k < cols; k++) {
            if (j->keep_zeros && w[k] == 0.0f) continue;
            float sum = 0;
            for (size_t i = 0; i < rank; i++) sum += b[r * rank + i] * a[i * cols + k];
            w[k] += j->adapter->scale * sum;
        }
    }
}

pare_status compress_merge(const compress_run *c, const tensor_plan *p, pare_tensor *t,
                           pare_error *err) {
    size_t bytes = p->rows * p->cols * sizeof(float);
    float *w = pare_big_alloc(bytes);
    if (!w)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: %zu bytes to merge an adapter", p->t->canonical,
                         bytes);
    merge_job job = {w, t, &p->adapter->adapter, c->o->lora_keep_zeros};
    pare_parallel_for(c->rt, p->rows, 8, merge_rows, &job);
    pare_tensor_free(t);
    *t = pare_tensor_wrap(pare_encoding_find("f32"), w, p->rows, p->cols);
    t->storage = w;
    t->storage_bytes = bytes;
    return PARE_OK;
}

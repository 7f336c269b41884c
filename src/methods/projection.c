#include "methods/projection.h"

#include <math.h>

enum { PIECE = 512 /* values that are treated at once, on the stack */ };

typedef struct row_sums {
    double gw, gg, ww, dw; /* products of gradient, weights and direction */
} row_sums;
enum { N_SUMS = sizeof(row_sums) / sizeof(double) };

typedef struct projection {
    const pare_update *u;
    const pare_projected *step;
    row_sums *sums; /* [rows] */
    bool fired;     /* the gradient is nearly orthogonal to the weights */
    bool whole;     /* of the tensor as a whole, else of each row */
    double *row;    /* [rows] coefficients */
    double all;     /* the coefficient of the whole */
    float keep;
} projection;

size_t pare_projected_work(const void *options, const pare_update *u) {
    (void)options;
    return u->is_vector ? 0 : (N_SUMS + 1) * u->rows;
}

static void sum_rows(void *arg, size_t begin, size_t end) {
    const projection *p = arg;
    const pare_update *u = p->u;
    float d[PIECE];
    for (size_t r = begin; r < end; r++) {
        double sums[N_SUMS] = {0};
        for (size_t i = r * u->cols, stop = i + u->cols, next; i < stop; i = next) {
            next = stop - i < PIECE ? stop : i + PIECE;
            p->step->direction(d, u, p->step->rule, true, i, next);
            u->k->dots(sums, &u->a, d, i, next);
        }
        p->sums[r] = (row_sums){.gw = sums[0], .gg = sums[1], .ww = sums[2], .dw = sums[3]};
    }
}

/* n: kept weights. A gradient of zeros is orthogonal to everything. */
static bool is_orthogonal(const row_sums *s, size_t n, double delta, double eps) {
    double cosine = fabs(s->gw) / fmax(sqrt(s->gg) * sqrt(s->ww), eps);
    return n == 0 || cosine < delta / sqrt((double)n);
}

static double coefficient(const row_sums *s, double eps) {
    double norm = sqrt(s->ww) + eps;
    return norm > 0 ? s->dw / (norm * norm) : 0;
}

static void test(projection *p) {
    const pare_update *u = p->u;
    double delta = p->step->delta, eps = p->step->eps;
    p->sums = (row_sums *)u->work;
    p->row = u->work + N_SUMS * u->rows;
    pare_parallel_for(u->rt, u->rows, 1 + PARE_UPDATE_BLOCK / u->cols, sum_rows, p);
    row_sums all = {0};
    size_t n = 0;
    p->fired = true;
    for (size_t r = 0; r < u->rows; r++) {
        const row_sums *s = &p->sums[r];
        size_t kept = pare_update_n_kept(u->a.mask, r * u->cols, (r + 1) * u->cols);
        p->fired &= is_orthogonal(s, kept, delta, eps);
        p->row[r] = coefficient(s, eps);
        all.gw += s->gw;
        all.gg += s->gg;
        all.ww += s->ww;
        all.dw += s->dw;
        n += kept;
    }
    u->cuts->n_steps++;
    u->cuts->n_rows += p->fired;
    if (p->fired) return;
    p->whole = true;
    p->fired = is_orthogonal(&all, n, delta, eps);
    p->all = coefficient(&all, eps);
    u->cuts->n_whole += p->fired;
}

static void move_rows(void *arg, size_t begin, size_t end) {
    const projection *p = arg;
    const pare_projected *step = p->step;
    const pare_update *u = p->u;
    float d[PIECE];
    for (size_t r = begin; r < end; r++) {
        float c = !p->fired ? 0.0f : (float)(p->whole ? p->all : p->row[r]);
        for (size_t i = r * u->cols, stop = i + u->cols, next; i < stop; i = next) {
            next = stop - i < PIECE ? stop : i + PIECE;
            step->direction(d, u, step->rule, u->is_vector, i, next); /* a vector is not tested */
            u->k->move(&u->a, d, p->keep, step->size, c, step->cut_momentum, i, next);
        }
    }
}

void pare_projected_update(const pare_update *u, const pare_projected *step) {
    projection p = {.u = u, .step = step};
    if (!u->is_vector) test(&p);
    p.keep = p.fired ? step->keep_if_cut : step->keep;
    pare_parallel_for(u->rt, u->rows, 1 + PARE_UPDATE_BLOCK / u->cols, move_rows, &p);
}

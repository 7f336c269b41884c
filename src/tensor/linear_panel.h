/* Inside of the path of many rows: what the loops (linear_tile.c) and the forms of a panel
 * (linear_panel.c) share. */
#ifndef PARE_SRC_TENSOR_LINEAR_PANEL_H
#define PARE_SRC_TENSOR_LINEAR_PANEL_H

#include "tensor/linear_job.h"

enum {
    PARE_PANELS = 4,      /* of an item, at most */
    PARE_RUN_PANELS = 16, /* of one whose kernel takes many blocks and panels */
    PARE_SLAB = 512,      /* rows of x at a time, at most */
    PARE_BF16_PARTS = 3,  /* bf16 parts of an f32 number in `exact` */
    PARE_RUN_BLOCKS =
        4,             /* of KC inputs, summed at once in bf16 where the level has such a kernel */
    PARE_MAX_RUNS = 6, /* products of a block's parts; PARE_RUN_BLOCKS blocks of one */
};

typedef enum pare_form {
    PARE_FORM_F32,
    PARE_FORM_WEIGHTS, /* f32, but lists of single weights: of all matrices of a call, or none */
    PARE_FORM_BF16,
    PARE_FORM_BF16X3,
    PARE_FORM_U8,
    PARE_FORM_S16,
    PARE_FORMS
} pare_form;

/* A block of KC inputs of a panel, in the form of its kernel. */
typedef struct pare_panel_space {
    float *panel;                       /* [KC][NR] */
    uint16_t *panel16[PARE_BF16_PARTS]; /* [KC / 2][NR][2] */
    float *scale, *offset;              /* [KC / 16][NR] */
    bool has_offset;
    size_t n_inputs; /* rows of `panel` */
    bool listed;     /* only these inputs of the block, not all */
    uint16_t inputs[PARE_TILE_KC];
    /* as lists of single weights (linear_weights.c): values in `panel`, places in panel16[0] */
    size_t piece_at[PARE_TILE_KC / PARE_TILE_PIECE]; /* where a piece's lists begin */
    uint8_t count[PARE_TILE_KC / PARE_TILE_PIECE][PARE_TILE_NR];
} pare_panel_space;

/* What the forms need of x: block kb of KC inputs begins at row kb * slab of each array. */
typedef struct pare_many_space {
    size_t slab, n_kb; /* slab: rows */
    float *x;          /* [n_kb][slab][KC + NR] of the f32 form; in `exact` x16 is its memory */
    /* of the f32 form: block kb of row m at x_f32 + kb * x_block + m * x_ld; x, or the caller's */
    const float *x_f32;
    size_t x_block, x_ld;
    uint16_t *x16[PARE_BF16_PARTS];
    int8_t *q; /* [n_kb][slab][KC] */
    int16_t *q16;
    float *d;      /* [n_kb][slab][KC / 32] */
    float *sum[2]; /* d * (sum of q) per 16 and per 32: [n_kb][slab][KC / 16], [..][KC / 32] */
    /* of this thread */
    float *c;                          /* [PARE_RUN_PANELS][slab][NR] */
    float *rows;                       /* [NR][KC]: decoded rows; codes of 8 or 16 bits */
    uint16_t *rows16[PARE_BF16_PARTS]; /* [NR][KC]: their bf16 parts */
    int8_t *codes;                     /* [KC / 4][NR][4] on their way to f32; rows16's memory */
    float *scale_rows, *offset_rows;   /* [NR][KC / 16] */
    pare_panel_space panels[PARE_PANELS];
    uint16_t *runs; /* [PARE_RUN_BLOCKS][PARE_RUN_PANELS][KC / 2][NR][2], of parts in their place;
                       of s8 [2 PARE_RUN_BLOCKS][PARE_RUN_PANELS][KC / 4][NR][4] */
} pare_many_space;

/* Rows [row0, row0 + NR) of a matrix, or columns where it is transposed; fewer at its end, the
 * others count as zero. */
typedef struct pare_panel_at {
    const pare_linear_out *out;
    size_t row0, n_rows;
    const uint64_t *live; /* the panel's words (tensor/live.h), or NULL: all of it */
    pare_form form;
    bool places; /* its last block puts the sums in their place */
} pare_panel_at;

/* Is every weight a bf16 number? */
static inline bool pare_holds_bf16(const pare_encoding *enc) {
    return enc->dotf == PARE_DOTF_bf16 || enc->dotf == PARE_DOTF_bitmap_bf16 ||
           enc->dotf == PARE_DOTF_nm_bf16 || enc->dotf == PARE_DOTF_nm24_bf16;
}

/* Inputs of block kb, and the same up to a multiple of 32. */
static inline size_t pare_block_k(size_t in, size_t kb) {
    return in - kb * PARE_TILE_KC < PARE_TILE_KC ? in - kb * PARE_TILE_KC : PARE_TILE_KC;
}
static inline size_t pare_padded(size_t k) { return (k + 31) & ~(size_t)31; }

/* Brings block kb of a panel into its form. */
void pare_panel_unpack(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                       size_t kb, pare_panel_space *to);

/* Multiplies it with m rows from row m0 of the slab on, added to c[m][NR] but for kb 0. */
void pare_panel_multiply(const pare_linear_job *job, const pare_many_space *s,
                         const pare_panel_at *p, const pare_panel_space *w, size_t kb, size_t m0,
                         size_t m, float *c);

/* The products of blocks [kb, kb + n_blocks) of a panel with rows from m0 on, one after the other:
 * `runs`, their number returned. Part i of block j of the panel lies at panels + (j * (parts of the
 * weights) + i) * block_stride. */
size_t pare_panel_runs(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                       size_t kb, size_t n_blocks, size_t m0, const uint16_t *panels,
                       size_t block_stride, pare_tile_run runs[PARE_MAX_RUNS]);
/* Of a whole panel of s8 that has one scale a row: true, and the scales. */
bool pare_panel_row_scales(const pare_panel_at *p, float scale[PARE_TILE_NR]);
/* Its codes of block kb: [k / 4][NR][4], zeros up to a multiple of 64 inputs. */
void pare_panel_s8(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                   size_t kb, int8_t *codes);
/* Parts of the weights in bf16. */
int pare_panel_parts(const pare_panel_at *p);

/* Rows m0 + rows[0..n) of x alone, of a panel in f32 or in one part of bf16; c: of row m0. */
void pare_panel_multiply_rows(const pare_linear_job *job, const pare_many_space *s,
                              const pare_panel_at *p, const pare_panel_space *w, size_t kb,
                              size_t m0, const uint16_t *rows, size_t n, float *c);

/* pare_panel_multiply with the last block of a panel that `places`: to the rows of y from y_row on.
 */
void pare_panel_place(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                      const pare_panel_space *w, size_t m0, size_t m, const float *c, size_t y_row);

/* In place of both for lists of single weights. x: n rows of a slab, into s->x. */
void pare_weights_prepare(pare_worker *w, const pare_linear_job *job, const pare_many_space *s,
                          const float *x, size_t n);
/* Block kb of the panels as lists. */
void pare_weights_list(const pare_linear_job *job, pare_many_space *s, const pare_panel_at *panels,
                       size_t n_panels, size_t kb);
/* Multiplies them with rows [m0, m0 + PARE_TILE_PIECE): s->c, complete after the last block. */
void pare_weights_multiply(const pare_linear_job *job, const pare_many_space *s, size_t n_panels,
                           size_t kb, size_t m0);

#endif

/* The packed form of every encoding with a packed kernel: its numbers in the panels of
 * kernels/packed.h. In memory only: no name finds these encodings and no file holds them. */
#include "tensor/pack.h"

#include "kernels/packed.h"
#include "tensor/encodings/encode_common.h"

enum { NR = PARE_PACKED_NR };

/* ---- scales of super-blocks as they are stored: of 8 * (32 / group) groups, absent ones 0 ---- */

typedef struct super_scales {
    uint16_t d, dmin;
    uint8_t scale[16], min[16];
} super_scales;

/* Reads super-block `s` of a row; n values of it exist. */
typedef void read_super_fn(super_scales *to, const pare_view *w, size_t row, size_t s, size_t n);

static void read_q2_k(super_scales *to, const pare_view *w, size_t row, size_t s, size_t n) {
    const pare_q2_k *b = PARE_BLOCK_AT(pare_q2_k, w, row, 256 * s, 256);
    (void)n;
    *to = (super_scales){.d = b->d, .dmin = b->dmin};
    for (int j = 0; j < 16; j++) {
        to->scale[j] = b->scales[j] & 15;
        to->min[j] = b->scales[j] >> 4;
    }
}

static void read_q3_k(super_scales *to, const pare_view *w, size_t row, size_t s, size_t n) {
    const pare_q3_k *b = PARE_BLOCK_AT(pare_q3_k, w, row, 256 * s, 256);
    (void)n;
    *to = (super_scales){.d = b->d};
    pare_unpack_scales_q3_k((int8_t *)to->scale, b->scales);
}

static void read_head(super_scales *to, const pare_k_head *head) {
    uint8_t codes[16];
    pare_unpack_scales_k4(codes, head->scales);
    *to = (super_scales){.d = head->d, .dmin = head->dmin};
    memcpy(to->scale, codes, 8);
    memcpy(to->min, codes + 8, 8);
}

/* A short super-block begins with the same header. */
static void read_q4_k(super_scales *to, const pare_view *w, size_t row, size_t s, size_t n) {
    (void)n;
    read_head(to, (const pare_k_head *)PARE_BLOCK_AT(pare_q4_k, w, row, 256 * s, 256));
}
static void read_q5_k(super_scales *to, const pare_view *w, size_t row, size_t s, size_t n) {
    (void)n;
    read_head(to, (const pare_k_head *)PARE_BLOCK_AT(pare_q5_k, w, row, 256 * s, 256));
}

static void read_q6_k(super_scales *to, const pare_view *w, size_t row, size_t s, size_t n) {
    const pare_q6_k *b = PARE_BLOCK_AT(pare_q6_k, w, row, 256 * s, 256);
    *to = (super_scales){0};
    if (n == 256) {
        to->d = b->d;
        memcpy(to->scale, b->scales, 16);
        return;
    }
    const pare_q6_k_piece *piece = (const pare_q6_k_piece *)((const uint8_t *)b + 2);
    memcpy(&to->d, b, 2);
    for (size_t k = 0; k < n / 64; k++) memcpy(to->scale + 4 * k, piece[k].scales, 4);
}

static void read_iq4_xs(super_scales *to, const pare_view *w, size_t row, size_t s, size_t n) {
    const pare_iq4_xs *b = PARE_BLOCK_AT(pare_iq4_xs, w, row, 256 * s, 256);
    (void)n;
    *to = (super_scales){.d = b->d};
    pare_unpack_scales_iq4_xs((int8_t *)to->scale, b);
}

/* ---- the encodings ---- */

static size_t n_panels(size_t rows) { return (rows + NR - 1) / NR; }

static bool packed_bytes(size_t *bytes, pare_packed p, size_t rows, size_t cols) {
    size_t spare;
    return cols % 32 == 0 && pare_mul_size(&spare, cols, 64) && rows <= SIZE_MAX - NR &&
           pare_mul_size(bytes, n_panels(rows), pare_packed_panel_bytes(p, cols));
}

static const uint8_t *panel_of(const pare_view *w, pare_packed p, size_t row) {
    return (const uint8_t *)w->part[0] + row / NR * pare_packed_panel_bytes(p, w->cols);
}

/* The least code and the largest; a file of 8 bits may hold all. */
#define CODE_MIN(table, bits, zero)                                                                \
    ((table) == PARE_TABLE_SPARSE ? -11 : (table) || (bits) == 8 ? -128 : -(zero))
#define CODE_MAX(table, bits, zero)                                                                \
    ((table) == PARE_TABLE_SPARSE ? 9 : (table) || (bits) == 8 ? 127 : (1 << (bits)) - 1 - (zero))
#define X(name_, kind_, table_, bits_, group_, zero_, two_four_)                                   \
    static void name_##_codes(int8_t *q, float *scale, float *offset, const pare_view *w,          \
                              size_t row, size_t col, size_t n) {                                  \
        pare_packed p = pare_packed_formats[PARE_DOT_##name_];                                     \
        pare_packed_unpack_row(q, scale, offset, p, panel_of(w, p, row), row % NR, col, n);        \
    }                                                                                              \
    PARE_DECODE_BY_CODES(name_, group_, HAS_OFFSET(kind_))                                         \
    static bool name_##_sizes(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols) {            \
        return packed_bytes(bytes, pare_packed_formats[PARE_DOT_##name_], rows, cols);             \
    }                                                                                              \
    static const pare_encoding packed_##name_ = {.name = #name_,                                   \
                                                 .summary = "in packed panels",                    \
                                                 .ggml_type = -1,                                  \
                                                 .block_len = 32,                                  \
                                                 .n_parts = 1,                                     \
                                                 .parts = {{"", "U8", 1, false}},                  \
                                                 .part_sizes = name_##_sizes,                      \
                                                 .decode = name_##_decode,                         \
                                                 .codes = name_##_codes,                           \
                                                 .code_group = group_,                             \
                                                 .code_min = CODE_MIN(table_, bits_, zero_),       \
                                                 .code_max = CODE_MAX(table_, bits_, zero_),       \
                                                 .has_offset = HAS_OFFSET(kind_),                  \
                                                 .dot = PARE_DOT_##name_,                          \
                                                 .packed =                                         \
                                                     &pare_packed_formats[PARE_DOT_##name_]};
#define HAS_OFFSET(kind)                                                                           \
    ((kind) == PARE_PACKED_DM || (kind) == PARE_PACKED_KM || (kind) == PARE_PACKED_KM4)
PARE_PACKED_LIST(X)
#undef HAS_OFFSET
#undef X

static void nm24_bf16_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    pare_packed24_row(y, panel_of(w, pare_packed_nm24_bf16, row), row % NR, col, n);
}
static bool nm24_bf16_sizes(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols) {
    return packed_bytes(bytes, pare_packed_nm24_bf16, rows, cols);
}
static const pare_encoding packed_nm24_bf16 = {.name = "nm24_bf16",
                                               .summary = "in packed panels",
                                               .ggml_type = -1,
                                               .block_len = 32,
                                               .n_parts = 1,
                                               .parts = {{"", "U8", 1, false}},
                                               .part_sizes = nm24_bf16_sizes,
                                               .decode = nm24_bf16_decode,
                                               .dotf = PARE_DOTF_nm24_bf16,
                                               .packed = &pare_packed_nm24_bf16};

typedef struct packed_form {
    const pare_encoding *from, *to;
    read_super_fn *read_super; /* NULL: scales per block */
} packed_form;

static const packed_form forms[] = {
    {&pare_enc_q4_0, &packed_q4_0, NULL},
    {&pare_enc_q4_1, &packed_q4_1, NULL},
    {&pare_enc_q5_0, &packed_q5_0, NULL},
    {&pare_enc_q5_1, &packed_q5_1, NULL},
    {&pare_enc_q8_0, &packed_q8_0, NULL},
    {&pare_enc_iq4_nl, &packed_iq4_nl, NULL},
    {&pare_enc_q2_k, &packed_q2_k, read_q2_k},
    {&pare_enc_q3_k, &packed_q3_k, read_q3_k},
    {&pare_enc_q4_k, &packed_q4_k, read_q4_k},
    {&pare_enc_q4_k_tail, &packed_q4_k, read_q4_k},
    {&pare_enc_q5_k, &packed_q5_k, read_q5_k},
    {&pare_enc_q5_k_tail, &packed_q5_k, read_q5_k},
    {&pare_enc_q6_k, &packed_q6_k, read_q6_k},
    {&pare_enc_q6_k_tail, &packed_q6_k, read_q6_k},
    {&pare_enc_iq4_xs, &packed_iq4_xs, read_iq4_xs},
    {&pare_enc_nm24_q8, &packed_nm24_q8, NULL},
    {&pare_enc_nm24_q4, &packed_nm24_q4, NULL},
    {&pare_enc_nm24_bf16, &packed_nm24_bf16, NULL},
};
enum { N_FORMS = sizeof forms / sizeof *forms };

/* Grouped integers lie in the narrowest panels that hold code - zero: a zero point per group costs
 * a bit, and 2 and 3 bits take 4. */
static const pare_encoding *grid_panels(const pare_encoding *e) {
    if (e->has_offset) return NULL;
    if (e->code_min >= -8 && e->code_max <= 7) return &packed_q4_0;
    return e->code_min >= -16 && e->code_max <= 15 ? &packed_q5_0 : &packed_q8_0;
}

/* `to` NULL: there is none. */
static packed_form form_of(const pare_encoding *e) {
    if (e->grid) return (packed_form){e, grid_panels(e), NULL};
    for (size_t i = 0; i < N_FORMS; i++)
        if (forms[i].from == e) return forms[i];
    return (packed_form){e, NULL, NULL};
}

const pare_encoding *pare_encoding_packed(const pare_encoding *e) { return form_of(e).to; }

/* ---- packing ---- */

typedef struct pack_job {
    const pare_tensor *t;
    pare_packed p;
    read_super_fn *read_super;
    pare_codes_fn codes; /* of t */
    uint8_t index[256];  /* the table's inverse, by the byte of a level */
} pack_job;

static void invert_table(uint8_t index[256], pare_packed_table table) {
    const int8_t *levels = table == PARE_TABLE_IQ4 ? pare_iq4_values : pare_sparse_levels;
    memset(index, 0, 256);
    for (int i = 0; i < 16; i++) index[(uint8_t)levels[i]] = (uint8_t)i;
}

/* Where two of four values are kept: those that are not zero, two different places. */
static const uint8_t *two_places(bool a, bool b, bool c, bool d) {
    static const uint8_t places[16][2] = {{0, 3}, {0, 3}, {1, 3}, {0, 1}, {2, 3}, {0, 2},
                                          {1, 2}, {0, 1}, {3, 2}, {0, 3}, {1, 3}, {0, 1},
                                          {2, 3}, {0, 2}, {1, 2}, {0, 1}};
    return places[a | b << 1 | c << 2 | d << 3];
}

/* 256 inputs (or the row's rest) of a row as blocks of one row, to[b * NR]. */
static void take_row(pare_packed_row *to, const pack_job *job, size_t row, size_t col, size_t n) {
    pare_packed p = job->p;
    int8_t q[256];
    float scale[16], offset[16];
    super_scales super = {0};
    size_t subs = 32u / p.group;
    job->codes(q, scale, offset, &job->t->view, row, col, n);
    if (job->read_super) job->read_super(&super, &job->t->view, row, col / 256, n);
    for (size_t b = 0; b < n / 32; b++, to += NR) {
        const int8_t *codes = q + 32 * b;
        uint8_t stored[32];
        if (p.table)
            for (size_t i = 0; i < 32; i++) stored[i] = job->index[(uint8_t)codes[i]];
        else
            for (size_t i = 0; i < 32; i++) stored[i] = (uint8_t)(codes[i] + p.zero);
        if (!p.two_four) memcpy(to->code, stored, sizeof stored);
        for (size_t g = 0; g < 8 && p.two_four; g++) {
            const int8_t *four = q + 32 * b + 4 * g;
            memcpy(to->place + 2 * g, two_places(four[0], four[1], four[2], four[3]), 2);
            for (int k = 0; k < 2; k++)
                to->code[2 * g + (size_t)k] = stored[4 * g + to->place[2 * g + (size_t)k]];
        }
        if (job->read_super) {
            to->d = super.d;
            to->m = super.dmin;
            memcpy(to->scale, super.scale + b * subs, subs);
            memcpy(to->min, super.min + b * subs, subs);
        } else { /* back to where they came from */
            to->d =
                p.kind == PARE_PACKED_B ? pare_f32_to_bf16(scale[b]) : pare_f32_to_f16(scale[b]);
            to->m = p.kind == PARE_PACKED_DM ? pare_f32_to_f16(offset[b]) : 0;
        }
    }
}

static void pack_codes(void *panel, const pack_job *job, size_t row0, size_t n_rows) {
    pare_packed_row rows[8 * NR];
    size_t cols = job->t->view.cols;
    for (size_t col = 0; col < cols; col += 256) {
        size_t n = cols - col < 256 ? cols - col : 256;
        memset(rows, 0, sizeof rows);
        for (size_t r = 0; r < n_rows; r++) take_row(rows + r, job, row0 + r, col, n);
        for (size_t b = 0; b < n / 32; b++)
            pare_packed_write(panel, job->p, col / 32 + b, rows + b * NR);
    }
}

/* 2:4 in bf16. */
static void pack_values(void *panel, const pack_job *job, size_t row0, size_t n_rows) {
    for (size_t col = 0; col < job->t->view.cols; col += 32) {
        uint16_t values[NR][16] = {{0}};
        uint8_t places[NR][16] = {{0}};
        for (size_t r = 0; r < n_rows; r++) {
            float w[32];
            job->t->enc->decode(w, &job->t->view, row0 + r, col, 32);
            for (size_t g = 0; g < 8; g++) {
                const float *four = w + 4 * g;
                uint8_t *at = places[r] + 2 * g;
                memcpy(at, two_places(four[0] != 0, four[1] != 0, four[2] != 0, four[3] != 0), 2);
                for (size_t k = 0; k < 2; k++) values[r][2 * g + k] = pare_f32_to_bf16(four[at[k]]);
            }
        }
        pare_packed24_write(panel, col / 32, values, places);
    }
}

size_t pare_tensor_packed_bytes(const pare_encoding *e, size_t rows, size_t cols) {
    const pare_encoding *packed = pare_encoding_packed(e);
    size_t bytes;
    if (!packed || !packed_bytes(&bytes, *packed->packed, rows, cols)) return 0;
    return bytes;
}

size_t pare_tensor_pack_scratch(const pare_encoding *e, size_t cols) {
    return pare_tensor_packed_bytes(e, NR, cols);
}

void pare_tensor_pack(pare_tensor *t, pare_isa isa, void *scratch, void *to) {
    packed_form form = form_of(t->enc);
    if (!form.to) return;
    pack_job job = {.t = t,
                    .p = *form.to->packed,
                    .read_super = form.read_super,
                    .codes = pare_unpack_kernels_get(isa)->codes[t->enc->dot]};
    if (!job.codes) job.codes = t->enc->codes;
    invert_table(job.index, job.p.table);
    size_t panel_bytes = pare_packed_panel_bytes(job.p, t->view.cols), n = n_panels(t->view.rows);
    uint8_t *memory = to;
    /* In place: a panel that is larger than its rows overwrites rows before which all later ones
     * must have been read, a smaller one those after it. */
    bool backwards = panel_bytes > NR * t->view.row_bytes;
    for (size_t k = 0; k < n; k++) {
        size_t i = backwards ? n - 1 - k : k, row0 = i * NR;
        size_t n_rows = t->view.rows - row0 < NR ? t->view.rows - row0 : NR;
        (job.p.kind == PARE_PACKED_NONE ? pack_values : pack_codes)(scratch, &job, row0, n_rows);
        memcpy(memory + i * panel_bytes, scratch, panel_bytes);
    }
    t->enc = form.to;
    t->view = (pare_view){.rows = t->view.rows, .cols = t->view.cols, .part = {memory}};
    memset(t->part_bytes, 0, sizeof t->part_bytes);
    t->part_bytes[0] = n * panel_bytes;
}

pare_status pare_tensor_repack(pare_tensor *t, pare_isa isa, pare_error *err) {
    size_t bytes = pare_tensor_packed_bytes(t->enc, t->view.rows, t->view.cols);
    if (!bytes) return PARE_OK;
    void *memory = pare_big_alloc(bytes + 64);
    void *scratch = pare_malloc(pare_tensor_pack_scratch(t->enc, t->view.cols), 1);
    if (!memory || !scratch) {
        if (memory) pare_big_free(memory, bytes + 64);
        pare_free(scratch);
        return pare_fail(err, PARE_ERR_NOMEM, "%zu bytes to pack weights", bytes);
    }
    pare_tensor_pack(t, isa, scratch, memory);
    if (t->storage) pare_big_free(t->storage, t->storage_bytes);
    t->storage = memory;
    t->storage_bytes = bytes + 64;
    pare_free(scratch);
    return PARE_OK;
}

/* How other programs store a matrix of whole-number codes in safetensors files, and the way between
 * that and grouped integers: w[o][i] = scale * (code - zero), one scale and zero point per `group`
 * inputs. A matrix of MODULE, [rows = outputs][cols = inputs], b bits, G groups a row:
 *
 *   PACK     compressed-tensors pack-quantized
 *     weight_packed      I32 [rows][ceil(cols b / 32)]   a row is a stream of codes
 *     weight_scale       float [rows][G]
 *     weight_zero_point  I32 [ceil(rows b / 32)][G]      a column is a stream; asymmetric only
 *     weight_g_idx       I32 [cols]                      old files with actorder "group" only
 *     weight_shape       I64 [2]                         rows, cols
 *   INT      compressed-tensors int-quantized, 8 bits
 *     weight             I8 [rows][cols]                 code - 128
 *     weight_scale       float [rows][G], or [1]
 *     weight_zero_point  I8 [rows][G]                    zero - 128; asymmetric only
 *   GPTQ     qweight     I32 [cols b / 32][rows]         a column is a stream
 *            qzeros      I32 [G][rows b / 32]            a row is a stream of zero - 1 (mod 2^b)
 *            scales      float [G][rows]
 *            g_idx       I32 [cols]                      group of each input; may be absent
 *   GPTQ_V2  the same, qzeros holds the zero itself
 *   AWQ      (gemm, 4 bits) qweight I32 [cols][rows / 8], qzeros I32 [G][rows / 8], scales
 * [G][rows]: nibble k of a word is row 8 c + {0, 2, 4, 6, 1, 3, 5, 7}[k]
 *
 * A stream holds code k at bits k b .. k b + b - 1, bit t being bit t % 32 of word t / 32. */
#ifndef PARE_SRC_IO_QUANT_LAYOUT_H
#define PARE_SRC_IO_QUANT_LAYOUT_H

#include "tensor/encoding.h"

typedef enum pare_layout_kind {
    PARE_LAYOUT_NONE = 0,
    PARE_LAYOUT_PACK,
    PARE_LAYOUT_INT,
    PARE_LAYOUT_GPTQ,
    PARE_LAYOUT_GPTQ_V2,
    PARE_LAYOUT_AWQ
} pare_layout_kind;

typedef enum pare_layout_scale {
    PARE_SCALE_F16 = 0,
    PARE_SCALE_BF16,
    PARE_SCALE_F32
} pare_layout_scale;

/* The tensors of a matrix. */
enum {
    PARE_LAYOUT_CODES,
    PARE_LAYOUT_SCALES,
    PARE_LAYOUT_ZEROS,
    PARE_LAYOUT_G_IDX,
    PARE_LAYOUT_SHAPE,
    PARE_LAYOUT_PARTS
};

typedef struct pare_layout {
    pare_layout_kind kind;
    unsigned bits;
    bool asymmetric; /* GPTQ and AWQ store zeros all the same: of a symmetric matrix 2^(bits-1) */
    size_t rows, cols;
    size_t group; /* of inputs, 1 .. cols */
    pare_layout_scale scale;
    bool g_idx;     /* that part is there */
    bool one_scale; /* of the whole matrix: INT's shape [1] */
    bool padded;    /* PACK before 2026-06: floor(32 / bits) codes in a word, the rest 0 */
} pare_layout;

typedef struct pare_layout_part {
    const char *suffix; /* the tensor is MODULE.suffix; NULL = this layout has no such part */
    const char *dtype;
    size_t n_dims, dims[2];
} pare_layout_part;

static inline size_t pare_layout_groups(const pare_layout *l) {
    return l->cols / l->group + (l->cols % l->group != 0);
}

pare_layout_part pare_layout_part_at(const pare_layout *l, int which);

/* Bytes of a part, 0 when absent. Sizes fit when rows and cols come from a checked shape. */
size_t pare_layout_part_bytes(const pare_layout *l, int which);

/* Can the layout say such a matrix? On "no" the reason, as "found X, expected Y". */
bool pare_layout_holds(const pare_layout *l, char reason[160]);

/* Writes t, which has a grouped form (tensor/grouped_row.h) whose groups are multiples of the
 * layout's, into its parts. Scales are f16. Errors: PARE_ERR_UNSUPPORTED (GPTQ of version 1 cannot
 * say a zero point of 0), PARE_ERR_NOMEM. */
pare_status pare_layout_pack(void *const part[PARE_LAYOUT_PARTS], const pare_layout *l,
                             const pare_tensor *t, pare_error *err);

/* Do the groups follow each other, g_idx[i] = i / group? g_idx [cols] as stored. Errors:
 * PARE_ERR_INPUT (a number that is no group). */
pare_status pare_layout_check_g_idx(bool *in_order, const pare_layout *l, const void *g_idx,
                                    pare_error *err);

/* The encoding that holds what the layout says: grouped integers, or f16 where the groups are of no
 * length that those have, or not in order. */
const pare_encoding *pare_layout_encoding(const pare_layout *l, bool in_order);

/* Parts from an untrusted file (NULL = absent) -> rows of enc = pare_layout_encoding at `to`.
 * Errors: PARE_ERR_INPUT (zero points that a symmetric matrix cannot have, scales that f16 cannot
 * hold or that are no numbers, another shape, g_idx), PARE_ERR_NOMEM. */
pare_status pare_layout_unpack(void *to, const pare_encoding *enc, const pare_layout *l,
                               const void *const part[PARE_LAYOUT_PARTS], pare_error *err);

#endif

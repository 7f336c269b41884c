/* Weights repacked for multiplication (kernels/packed.h). */
#ifndef PARE_SRC_TENSOR_PACK_H
#define PARE_SRC_TENSOR_PACK_H

#include "kernels/unpack.h"
#include "tensor/encoding.h"

/* The packed form of an encoding (dense codes, 2:4), or NULL: an encoding with `packed` set and the
 * same codes, scales and values. */
const pare_encoding *pare_encoding_packed(const pare_encoding *e);

/* Bytes of a matrix in that form; 0 = there is none: of its encoding, of a width that is no
 * multiple of 32 (sparse forms), or a size overflows. */
size_t pare_tensor_packed_bytes(const pare_encoding *e, size_t rows, size_t cols);

/* Packs a matrix that pare_tensor_packed_bytes has a size for into memory at `to`, which t then
 * borrows. Dense forms can be packed in place: `to` is t->view.part[0], with room for both forms.
 * scratch: pare_tensor_pack_scratch bytes. */
void pare_tensor_pack(pare_tensor *t, pare_isa isa, void *scratch, void *to);
size_t pare_tensor_pack_scratch(const pare_encoding *e, size_t cols);

/* *t becomes its packed form in storage of its own; a tensor without one stays as it is. Errors:
 * PARE_ERR_NOMEM (t is as it was). */
pare_status pare_tensor_repack(pare_tensor *t, pare_isa isa, pare_error *err);

#endif

/* How the inputs of matrices are quantized, as pare's own key says it in any container: what
 * compressed-tensors' groups cannot say (paper_eq4, bmm, several formulas), and all of it in files
 * of other kinds. One object:
 *
 *     {"version": 1, "inputs": {"blk.0.attn_q.weight": {
 *         "bits": 8, "granularity": "per_tensor_static", "symmetric": false,
 *         "formula": "paper_eq4", "scale": 0.0123, "zero": -1.5}, ...}}
 *
 * granularity, formula: as the method's parameters have them. scale and zero: of static grids; zero
 * is the code of 0 where that is a whole one, of paper_eq4 the value of code 0, of symmetric grids
 * 0. "bmm": true with q, k and v, whose outputs are quantized like their input; not with static
 * grids. A matrix that is not named has its inputs as its group says, or as they are.
 *
 * config.json has it as "pare_act", in quantization_config where there is one, else at the top; a
 * GGUF file as text, in the key pare.act.inputs. */
#ifndef PARE_SRC_MODEL_ACT_TABLE_H
#define PARE_SRC_MODEL_ACT_TABLE_H

#include "tensor/act_quant.h"

#include <jansson.h>

#define PARE_ACT_KEY "pare_act"
#define PARE_ACT_GGUF_KEY "pare.act.inputs"

/* An object without inputs; NULL: out of memory. */
json_t *pare_act_table_new(void);

/* Adds a matrix by its canonical name. grid: of a static scheme. bmm is left out where the matrix
 * makes neither q nor k nor v. False: out of memory. */
bool pare_act_table_add(json_t *table, const char *canonical, const pare_act_scheme *a,
                        const pare_act_grid *grid);

#endif

/* OUT.work: what a compression run keeps of finished blocks, so that a run that was cut off goes on
 * and ends with the same bytes.
 *
 *   lock        who works here
 *   manifest    JSON: what the run depends on (fingerprint), finished units with sizes and SHA-256,
 *               their lines of the report, hidden states with sizes and CRC-32; manifest.old is the
 *               one before
 *   unit-K      tensors of block K, safetensors of bytes
 *   states-K    hidden states before block K (calibrate.h), the last two
 *
 * A file is complete before the manifest names it, and the manifest appears by rename: after a kill
 * at any moment the folder says a state that once was. What is damaged (cut, a bit turned) is found
 * by its checksum and done again from the state before.
 *
 * Of several ranks (base/group.h) the first holds the lock and writes; the others make the same
 * calls, which only note what is there. */
#ifndef PARE_SRC_PIPELINE_WORK_FOLDER_H
#define PARE_SRC_PIPELINE_WORK_FOLDER_H

#include "base/runtime.h"
#include "tensor/encoding.h"

#include <jansson.h>

typedef struct pare_work pare_work;

/* Opens OUT.work, new or of an earlier run; all ranks together. n_units: of the whole run.
 * fingerprint: an object of all that the result depends on, borrowed. restart: what is there is
 * dropped. Errors: PARE_ERR_ARG (another process works there: names it; an earlier run had another
 * fingerprint: names the fields), PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_work_open(pare_work **out, pare_runtime *rt, const char *output,
                           const json_t *fingerprint, size_t n_units, bool restart,
                           pare_error *err);

/* OUT.work of an earlier run as it is, without its lock and without a change to it: for
 * pare_work_kept, _fingerprint, _compare and _close. *out: NULL where there is none with a
 * manifest. Errors: PARE_ERR_NOMEM. */
pare_status pare_work_look(pare_work **out, pare_runtime *rt, const char *output, pare_error *err);

/* Borrowed. */
const json_t *pare_work_fingerprint(const pare_work *w);

/* Errors: PARE_ERR_ARG: as pare_work_open, the run in it had another fingerprint. */
pare_status pare_work_compare(const pare_work *w, const json_t *fingerprint, pare_error *err);

/* Gives back the lock. The folder stays. */
void pare_work_close(pare_work *w);

/* Removes the folder: the run is done. */
void pare_work_remove(pare_work *w);
/* The same of a folder that nobody has open. */
void pare_work_remove_folder(const char *folder);

const char *pare_work_path(const pare_work *w);

/* Units 0 .. n - 1 are finished, checked, and (with hidden states) the states before unit n are
 * there. */
size_t pare_work_n_done(const pare_work *w);

/* Are there hidden states at all? Without any the run begins with those before unit 0. */
bool pare_work_has_states(const pare_work *w);

/* Something that is found out once for the whole run, by name. kept: borrowed, NULL = nothing.
 * value: taken over, NULL = out of memory. */
const json_t *pare_work_kept(const pare_work *w, const char *name);
pare_status pare_work_keep(pare_work *w, const char *name, json_t *value, pare_error *err);

/* The report of a finished unit, as it was given. Borrowed. */
const json_t *pare_work_report(const pare_work *w, size_t unit);

/* Where the hidden states before a unit are or are to be written; pare_free. */
char *pare_work_states_path(const pare_work *w, size_t unit);
/* Where states lie that are no longer needed, for pare_writer_open_over; pare_free. */
char *pare_work_spare_path(const pare_work *w);

/* Notes that the states before unit 0 are written. */
pare_status pare_work_begin(pare_work *w, uint32_t crc, pare_error *err);

/* Writes the tensors of a unit; it is not finished before pare_work_finish_unit. */
pare_status pare_work_write_unit(pare_work *w, size_t unit, const char *const *names,
                                 const pare_tensor *tensors, size_t n, pare_error *err);

/* The unit is finished: report is kept (borrowed), states_crc NULL: a run without states. */
pare_status pare_work_finish_unit(pare_work *w, size_t unit, json_t *report,
                                  const uint32_t *states_crc, pare_error *err);

/* A tensor of a finished unit; *out owns its storage. */
pare_status pare_work_read(const pare_work *w, size_t unit, const char *name,
                           const pare_encoding *enc, size_t rows, size_t cols, pare_tensor *out,
                           pare_error *err);

#endif

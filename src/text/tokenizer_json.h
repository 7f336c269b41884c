/* The pieces of the tokenizer.json loader: the model in tokenizer_json.c, the steps round it in
 * tokenizer_json_steps.c. */
#ifndef PARE_SRC_TEXT_TOKENIZER_JSON_H
#define PARE_SRC_TEXT_TOKENIZER_JSON_H

#include "text/vocab.h"

#include "io/json.h"

/* Each takes the value at its key, which may be NULL or null, and refuses what it does not know by
 * name. The post-processor comes last: it names tokens by id. */
pare_status pare_json_normalizer(pare_vocab *v, const json_t *value, pare_error *err);
pare_status pare_json_pre_tokenizer(pare_vocab *v, const json_t *value, pare_error *err);
pare_status pare_json_decoder(pare_vocab *v, const json_t *value, pare_error *err);
pare_status pare_json_post_processor(pare_vocab *v, const json_t *value, pare_error *err);

/* A folder without tokenizer.json, but with the older pair vocab.json and merges.txt (GPT-2, OPT):
 * the tokenizer.json that they stand for, as a document. *out is empty when the pair is not there.
 */
pare_status pare_json_from_pair(pare_json *out, const char *folder, pare_error *err);

/* A flag of an object; false: it is there, but no boolean. */
bool pare_json_flag(const json_t *object, const char *key, bool fallback, bool *out);

#endif

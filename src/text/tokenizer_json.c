#include "text/vocab.h"
pare_status pare_tokenizer_load_json(pare_tokenizer **out, const char *path, pare_error *err) {
    *out = NULL;
    return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: tokenizer.json", path);
}

#include "methods/method.h"

#include <string.h>

#define PARE_METHOD(name) extern const pare_method pare_method_##name;
#include "methods/methods.def"
#undef PARE_METHOD

static const pare_method *const methods[] = {
#define PARE_METHOD(name) &pare_method_##name,
#include "methods/methods.def"
#undef PARE_METHOD
};

enum { N_METHODS = sizeof methods / sizeof methods[0] };

const pare_method *pare_method_at(size_t i) { return i < N_METHODS ? methods[i] : NULL; }

const pare_method *pare_step_method_at(size_t i) {
    for (size_t k = 0; k < N_METHODS; k++)
        if ((methods[k]->run || methods[k]->scales) && i-- == 0) return methods[k];
    return NULL;
}

const pare_method *pare_method_find(const char *name) {
    for (size_t i = 0; i < N_METHODS; i++)
        if (strcmp(methods[i]->name, name) == 0) return methods[i];
    return NULL;
}

const char *pare_method_name(const pare_method *m) { return m->name; }
const char *pare_method_slot(const pare_method *m) { return m->slot; }
const char *pare_method_paper(const pare_method *m) { return m->paper; }
const char *pare_method_summary(const pare_method *m) { return m->summary; }
const char *pare_method_help(const pare_method *m) { return m->help; }
const char *pare_method_example(const pare_method *m) { return m->example; }
const pare_param *pare_method_params(const pare_method *m) { return m->params; }

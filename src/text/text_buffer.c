#include "text/text_buffer.h"

bool pare_grow(void *p, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity) return true;
    size_t wanted = *capacity < 16 ? 16 : *capacity;
    if (!pare_add_size(&wanted, wanted, wanted / 2)) return false;
    if (wanted < need) wanted = need;
    void *old, *bigger;
    memcpy(&old, p, sizeof old);
    bigger = pare_realloc(old, wanted, size);
    if (!bigger) return false;
    memcpy(p, &bigger, sizeof bigger);
    *capacity = wanted;
    return true;
}

bool pare_text_buffer_reserve(pare_text_buffer *b, size_t more) {
    if (more > PARE_TEXT_MAX || b->n > PARE_TEXT_MAX - more) return false;
    return pare_grow(&b->data, &b->capacity, b->n + more, 1);
}

void pare_text_buffer_free(pare_text_buffer *b) {
    pare_free(b->data);
    *b = (pare_text_buffer){0};
}

pare_status pare_text_buffer_fail(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "text: out of memory, or more than %zu bytes",
                     PARE_TEXT_MAX);
}

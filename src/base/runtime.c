#include "base/runtime.h"

#include "base/cpu.h"
#include "base/group.h"
#include "base/memory.h"
#include "base/os.h"
#include "base/team.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The cores that the process may use, of which ranks of this machine that are not bound to cores of
 * their own take a share each. */
static int usable_cores(void) {
    long all = sysconf(_SC_NPROCESSORS_ONLN);
    int own = all > 0 ? (int)all : 1, ranks = pare_group_local_size();
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) own = CPU_COUNT(&set);
#endif
    int share = (int)(all / ranks > 0 ? all / ranks : 1);
    return ranks > 1 && own > share ? share : own;
}

pare_options pare_options_default(void) { return (pare_options){.isa = PARE_ISA_AMX}; }

pare_status pare_runtime_create(pare_runtime **out, const pare_options *options, pare_error *err) {
    *out = NULL;
    pare_options o = options ? *options : pare_options_default();
    if (o.n_threads < 0 || o.n_threads > 1024)
        return pare_fail(err, PARE_ERR_ARG, "threads: found %d, expected 0 to 1024", o.n_threads);
    if (o.n_threads == 0) o.n_threads = usable_cores();
    if ((unsigned)o.isa >= PARE_ISA_COUNT)
        return pare_fail(err, PARE_ERR_ARG, "isa: found %d, expected 0 to %d", (int)o.isa,
                         PARE_ISA_COUNT - 1);
    const char *env = getenv("PARE_ISA");
    if (env && *env) {
        pare_isa level;
        if (pare_isa_parse(&level, env, err) != PARE_OK) return pare_fail_prefix(err, "$PARE_ISA");
        if (level < o.isa) o.isa = level;
    }
    if (o.isa > pare_isa_best()) o.isa = pare_isa_best();

    pare_runtime *rt = pare_calloc(1, sizeof *rt);
    if (!rt) return pare_fail(err, PARE_ERR_NOMEM, "runtime: out of memory");
    pare_status st = pare_team_create(&rt->team, o.n_threads, err);
    if (st != PARE_OK) {
        pare_free(rt);
        return st;
    }
    rt->options = o;
    *out = rt;
    return PARE_OK;
}

void pare_runtime_free(pare_runtime *rt) {
    if (!rt) return;
    pare_team_free(rt->team);
    pare_free(rt);
}

int pare_runtime_threads(const pare_runtime *rt) { return rt->options.n_threads; }
pare_isa pare_runtime_isa(const pare_runtime *rt) { return rt->options.isa; }
uint64_t pare_runtime_seed(const pare_runtime *rt) { return rt->options.seed; }
bool pare_runtime_deterministic(const pare_runtime *rt) { return rt->options.deterministic; }

void pare_progress(pare_runtime *rt, const char *stage, double done, double total,
                   const char *unit) {
    if (!rt->options.progress) return;
    double now = pare_now_s();
    bool last = total > 0 && done >= total;
    if (!last && now - rt->last_progress_s < 0.05) return;
    rt->last_progress_s = now;
    rt->options.progress(rt->options.callback_arg, stage, done, total, unit);
}

void pare_warn(pare_runtime *rt, const char *format, ...) {
    if (!rt || !rt->options.warn) return;
    char line[1000];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    rt->options.warn(rt->options.callback_arg, line);
}

pare_status pare_check_cancel(const pare_runtime *rt, pare_error *err) {
    if (rt->options.cancel && *rt->options.cancel)
        return pare_fail(err, PARE_ERR_INTERRUPTED, "interrupted");
    return PARE_OK;
}

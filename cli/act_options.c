#include "act_options.h"

pare_status cli_act_apply(cli *c, const cli_act *o, pare_model *m) {
    if (!o->spec && (o->calib || o->calib_samples || o->calib_ctx))
        return cli_fail(c, PARE_ERR_ARG,
                        "%s: found options of calibration without --act, expected --act SPEC",
                        c->verb->name);
    if (!o->spec) return PARE_OK;
    const pare_act_options ao = {.spec = o->spec,
                                 .calib = o->calib,
                                 .calib_samples = (size_t)o->calib_samples,
                                 .calib_ctx = (size_t)o->calib_ctx,
                                 .calib_compute = PARE_COMPUTE_EXACT};
    pare_status st = pare_model_quantize_act(m, &ao, &c->err);
    cli_progress_end(c);
    return st;
}

#include "act_options.h"

#include <string.h>

pare_status cli_act_apply(cli *c, const cli_act *o, pare_model *m) {
    bool none = !o->spec || strcmp(o->spec, "none") == 0;
    if (none && (o->calib || o->calib_samples || o->calib_ctx))
        return cli_fail(c, PARE_ERR_ARG,
                        "%s: found options of calibration without --act, expected --act SPEC%s",
                        c->verb->name, o->spec ? " other than none" : "");
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

cli_clamped cli_clamped_of(const pare_model *m) {
    cli_clamped k = {0};
    pare_act_clamped_site s;
    json_t *sites = json_array();
    double n = 0, clamped = 0;
    for (size_t i = 0; pare_model_clamped_at(m, i, &s); i++) {
        const double share = (double)s.clamped / (double)s.n;
        n += (double)s.n;
        clamped += (double)s.clamped;
        if (!k.site || share > k.worst) {
            k.worst = share;
            k.layer = s.layer;
            k.site = s.site;
        }
        json_array_append_new(sites, json_pack("{s:I, s:s, s:I, s:I}", "layer", (json_int_t)s.layer,
                                               "site", s.site, "n", (json_int_t)s.n, "clamped",
                                               (json_int_t)s.clamped));
    }
    if (!k.site) {
        json_decref(sites);
        k.json = json_null();
        return k;
    }
    k.share = clamped / n;
    k.json = json_pack("{s:f, s:{s:I, s:s, s:f}, s:o}", "share", k.share, "worst", "layer",
                       (json_int_t)k.layer, "site", k.site, "share", k.worst, "sites", sites);
    return k;
}

void cli_clamped_print(cli *c, const cli_clamped *k) {
    if (k->site)
        cli_printf(c,
                   "static grids clamp %.3g%% of the inputs, most in block %zu, the input of %s: "
                   "%.3g%%\n",
                   100 * k->share, k->layer, k->site, 100 * k->worst);
}

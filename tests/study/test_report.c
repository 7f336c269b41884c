/* Reports: places of labels, joins by content, escaping, the structure of each form. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/rng.h"
#include "study/escape.h"
#include "study/report_data.h"
#include "study/report_plot.h"
#include "study/report_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* --- plots --- */

static double uniform(uint64_t seed, uint64_t i) {
    return 0.5 + 0.5 * erf((double)pare_rng_normal(seed, 7, i) / sqrt(2));
}

/* Crowded and spread points: no label on another, on a point, or outside; and most have one. */
static void labels_keep_apart(void **state) {
    (void)state;
    enum { MAX = 60 };
    static pare_label labels[MAX];
    for (uint64_t seed = 0; seed < 60; seed++) {
        size_t n = 2 + seed % (MAX - 1), shown = 0;
        double spread = seed % 3 == 0 ? 1 : seed % 3 == 1 ? 0.3 : 0.05;
        pare_box area = {50, 10, seed % 2 ? 880 : 370, 380};
        pare_box lines[] = {{100, 100, 400, 102}, {398, 100, 400, 300}};
        pare_room room = {area, lines, 2};
        for (size_t i = 0; i < n; i++) {
            double x = 0.5 + spread * (uniform(seed, 2 * i) - 0.5);
            double y = 0.5 + spread * (uniform(seed, 2 * i + 1) - 0.5);
            labels[i] = (pare_label){.x = area.x0 + x * (area.x1 - area.x0),
                                     .y = area.y0 + y * (area.y1 - area.y0),
                                     .text = i % 2 ? "q4_k" : "wanda:sparsity=2:4 + gptq:bits=4"};
            snprintf(labels[i].brief, sizeof labels[i].brief, "%zu", i);
        }
        pare_place_labels(labels, n, &room, 24);
        for (size_t i = 0; i < n; i++) {
            const pare_box *b = &labels[i].box;
            if (!labels[i].shown[0]) continue;
            shown++;
            assert_true(b->x0 >= area.x0 && b->x1 <= area.x1 && b->y0 >= area.y0 &&
                        b->y1 <= area.y1);
            for (size_t k = 0; k < n; k++) {
                double dx = fmax(fmax(b->x0 - labels[k].x, labels[k].x - b->x1), 0);
                double dy = fmax(fmax(b->y0 - labels[k].y, labels[k].y - b->y1), 0);
                assert_true(hypot(dx, dy) >= PARE_MARKER);
                if (k != i && labels[k].shown[0])
                    assert_false(pare_box_overlaps(b, &labels[k].box));
            }
        }
        /* 60 labels of 24 characters do not fit the small one; 12 do, unless they are one heap */
        if (n <= 12 && spread == 1) assert_int_equal(shown, n);
        assert_true(shown >= 1);
    }
}

static void shortening(void **state) {
    (void)state;
    char out[4 * 8 + 4];
    assert_int_equal(pare_text_shorten(out, "12345678", 8), 8);
    assert_string_equal(out, "12345678");
    assert_int_equal(pare_text_shorten(out, "123456789", 8), 8);
    assert_string_equal(out, "1234\xE2\x80\xA6"
                             "789");
    assert_int_equal(pare_text_shorten(out,
                                       "\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4"
                                       "\xC3\xA4\xC3\xB6",
                                       8),
                     8);
    assert_string_equal(out,
                        "\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xE2\x80\xA6\xC3\xA4\xC3\xA4\xC3\xB6");
    assert_int_equal(pare_text_shorten(out, "\xFF\xFF\xE2\x80", 8), 4);
}

static void scales(void **state) {
    (void)state;
    const double cases[][2] = {{1, 1},      {0, 0},    {19.92, 20.05}, {5, 312},
                               {1e-6, 3},   {-3, 4},   {70, 72},       {0.004, 0.3},
                               {1e8, 2e10}, {56, 256}, {3e5, 3.1e5},   {0, 1e-7}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pare_scale s = pare_scale_make(cases[i][0], cases[i][1], 400, 20);
        assert_in_range(s.n_ticks, 2, PARE_MAX_TICKS);
        for (int k = 0; k < 2; k++) {
            double at = pare_scale_at(&s, cases[i][k]);
            assert_true(at > 19.9 && at < 400.1);
        }
        char text[2][24] = {"", ""};
        for (size_t k = 0; k < s.n_ticks; k++) {
            double at = pare_scale_at(&s, s.ticks[k]);
            assert_true(at > 19.9 && at < 400.1);
            pare_scale_tick_text(&s, k, text[k % 2]);
            assert_string_not_equal(text[0], text[1]);
            if (fabs(s.ticks[k]) > 1e-4 && fabs(atof(text[k % 2]) / s.ticks[k] - 1) > 0.05)
                fail_msg("%s is not %g", text[k % 2], s.ticks[k]);
        }
    }
}

static void pareto(void **state) {
    (void)state;
    const pare_plot_point p[] = {{.x = 1, .y = 9}, {.x = 2, .y = 5}, {.x = 2, .y = 5},
                                 {.x = 2, .y = 6}, {.x = 3, .y = 4}, {.x = 4, .y = 4},
                                 {.x = 9, .y = 9}};
    bool front[7];
    pare_pareto_front(front, p, 7, false);
    const bool less[7] = {1, 1, 0, 0, 1, 0, 0}; /* of twins the first */
    assert_memory_equal(front, less, sizeof front);
    pare_pareto_front(front, p, 7, true);
    const bool more[7] = {0, 0, 0, 0, 0, 1, 1};
    assert_memory_equal(front, more, sizeof front);
}

static void html_text(void **state) {
    (void)state;
    pare_buffer b = {0};
    pare_html_text(&b, "<a href=\"x\">'&amp;\n\t\x01\x7F\xFF\xC3\xA4\xE2\x80\xAE\xE2\x80");
    pare_buffer_add(&b, "", 1);
    assert_string_equal((char *)b.data,
                        "&lt;a href=&quot;x&quot;&gt;&#39;&amp;amp;  \xEF\xBF\xBD\xEF\xBF\xBD"
                        "\xEF\xBF\xBD\xC3\xA4\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    pare_buffer_free(&b);
}

/* --- joins --- */

static pare_record *make(pare_record_list *list, int64_t id, const char *verb, const char *model,
                         const char *recipe, const char *out) {
    pare_record *r;
    assert_ok(pare_record_new(&r, verb, NULL, err));
    r->id = id;
    r->time = 1700000000 + id;
    r->model = model;
    r->model_sha256 = model;
    r->recipe = recipe;
    r->out = out;
    r->out_sha256 = out;
    r->in_bytes = (int64_t)2000 << 20;
    r->out_bytes = (1000 - id) << 20;
    r->bits_per_weight = 4.5;
    /* newest first */
    list->items = realloc(list->items, (list->n + 1) * sizeof(pare_record *));
    memmove(list->items + 1, list->items, list->n * sizeof(pare_record *));
    list->items[0] = r;
    list->n++;
    return r;
}

static pare_record *evaluated(pare_record *r, double ppl, int64_t ctx) {
    r->protocol = "hf";
    r->compute = "exact";
    r->crc32 = "12345678";
    r->text = "/t/wiki.test.raw";
    r->ctx = ctx;
    r->n_windows = 2;
    r->ppl = ppl;
    r->ppl_stderr = 0.5;
    r->eval_tokens_per_s = 100 + ppl;
    return r;
}

static void free_list(pare_record_list *list) {
    for (size_t i = 0; i < list->n; i++) pare_record_free(list->items[i]);
    free(list->items);
}

static void joins(void **state) {
    (void)state;
    pare_record_list list = {0};
    evaluated(make(&list, 1, "eval", "A", NULL, NULL), 20, 2048);
    make(&list, 2, "compress", "A", "wanda", "B");
    make(&list, 3, "compress", "B", "q4_k", "C");
    evaluated(make(&list, 4, "eval", "C", NULL, NULL), 25, 2048);
    evaluated(make(&list, 5, "eval", "C", NULL, NULL), 26, 2048); /* newer */
    evaluated(make(&list, 6, "eval", "C", NULL, NULL), 30, 512);  /* another setting */
    evaluated(make(&list, 7, "compress", "Z", "q8_0", "Y"), 11, 2048)->base_ppl = 10;
    make(&list, 8, "compress", "Z", "q2_k", "X")->status = "failed";
    make(&list, 9, "compress", "Z", "rtn", NULL);
    pare_report_data d;
    assert_ok(pare_report_data_make(&d, &list, err));
    assert_int_equal(d.n, 2);
    const pare_report_model *z = &d.models[0], *a = &d.models[1];
    assert_string_equal(a->key, "A");
    assert_int_equal(a->n, 3);
    assert_int_equal(a->n_settings, 2);
    assert_int_equal(a->settings[0].n, 2); /* dense and C under 2048 */
    assert_string_equal(a->variants[0].recipe, "");
    assert_string_equal(a->variants[1].recipe, "wanda");
    assert_string_equal(a->variants[2].recipe, "wanda + q4_k");
    assert_int_equal(a->variants[2].number, 2);
    assert_int_equal(a->variants[2].cells[0].r->id, 5);
    assert_int_equal(a->variants[2].cells[1].r->id, 6);
    assert_int_equal(a->variants[2].made->id, 3);
    assert_null(a->variants[1].cells[0].r);
    /* the dense model is known by what the compression measured before */
    assert_string_equal(z->key, "Z");
    assert_int_equal(z->n, 3);
    const pare_variant *dense = pare_report_dense(z);
    assert_true(pare_cell_ppl(&dense->cells[0]) == 10);
    assert_int_equal(dense->cells[0].r->id, 7);
    assert_string_equal(pare_report_smallest(z, 0.1)->recipe, "q8_0");
    assert_null(pare_report_smallest(z, 0.05));
    list.items[2]->out_bytes = (int64_t)2000 << 20; /* no smaller than the dense model */
    assert_null(pare_report_smallest(z, 0.1));
    pare_report_data_free(&d);
    free_list(&list);
}

/* Compressions that go round in a circle, and many of one chain, end. */
static void circles(void **state) {
    (void)state;
    pare_record_list list = {0};
    make(&list, 1, "compress", "A", "x", "B");
    make(&list, 2, "compress", "B", "y", "A");
    make(&list, 3, "compress", "S", "same", "S");
    char names[40][8];
    for (int i = 0; i < 40; i++) snprintf(names[i], sizeof names[i], "n%d", i);
    for (int i = 0; i < 39; i++) make(&list, 10 + i, "compress", names[i], "s", names[i + 1]);
    char *text;
    size_t n;
    assert_ok(pare_report(&text, &n, &list, PARE_REPORT_HTML, NULL, err));
    pare_text_free(text);
    free_list(&list);
}

/* --- structure --- */

static const char evil[] = "<script>alert(\"1\")</script>|`x`\n&'\x01\xFF=\xE2\x80\xAE";

static pare_record_list sample(void) {
    static const pare_record_layer layers[] = {
        {evil, evil, evil, 10, 20, 5, 4, 0, 0.5, 0.1, NAN},
        {"blk.0.attn_q.weight", "f32", "q4_k", 10, 40, 5, 4.5, 0, 0.05, 0.1, NAN},
        {"blk.1.attn_q.weight", "f32", "q4_k", 10, 40, 5, 4.5, 0, 0.06, 0.1, NAN},
        {"blk.1.<b>", "f32", "q4_k", 10, 40, 5, 4.5, 0, 0.06, 0.1, NAN},
        {"blk.9999999999.x", "f32", "q4_k", 10, 40, 5, 4.5, 0, 0.06, 0.1, NAN},
        {NULL, NULL, NULL, 0, 0, 0, NAN, NAN, NAN, NAN, NAN}};
    static const pare_record_task tasks[] = {
        {.name = evil, .n = 100, .acc = 0.7, .acc_stderr = 0.045, .acc_norm = NAN, .ppl = NAN},
        {.name = "piqa", .n = 100, .acc = 0.7, .acc_stderr = 0.045, .acc_norm = 0.71, .ppl = NAN}};
    static const char *const fallbacks[] = {evil};
    pare_record_list list = {0};
    pare_record *dense = evaluated(make(&list, 1, "eval", "A", NULL, NULL), 20, 2048);
    dense->name = evil;
    for (int64_t i = 2; i < 14; i++) {
        static char names[16][8];
        snprintf(names[i], sizeof names[i], "o%d", (int)i);
        pare_record *r =
            evaluated(make(&list, i, evil, "A", i % 2 ? evil : "q4_k:x=1,y=2 + b", names[i]),
                      20 + (double)(i * i), 2048);
        r->layers = layers;
        r->n_layers = 6;
        r->tasks = tasks;
        r->n_tasks = 2;
        r->fallbacks = fallbacks;
        r->n_fallbacks = 1;
        r->decode_tokens_per_s = (double)(50 - i);
        r->text = r->cpu = r->licence = r->format = evil;
    }
    pare_record *failed = make(&list, 20, "sweep", "A", evil, NULL);
    failed->status = "failed";
    failed->message = evil;
    return list;
}

/* Tags open and close in order, attributes are quoted, nothing is loaded, every link has a target.
 */
static void well_formed(const char *html) {
    char stack[64][16], ids[200][24];
    size_t depth = 0, n_ids = 0;
    for (const char *p = strchr(html, '\n'); (p = strchr(p, '<')); p++) {
        size_t n = strcspn(p, ">");
        const char *end = p + n;
        assert_int_equal(*end, '>');
        char name[16];
        if (p[1] == '/') {
            snprintf(name, sizeof name, "%.*s", (int)(n - 2), p + 2);
            if (!depth || strcmp(stack[depth - 1], name) != 0)
                fail_msg("</%s> closes %s", name, depth ? stack[depth - 1] : "nothing");
            depth--;
            continue;
        }
        size_t len = strcspn(p + 1, " />");
        assert_in_range(len, 1, sizeof name - 1);
        snprintf(name, sizeof name, "%.*s", (int)len, p + 1);
        static const char *const known[] = {
            "html",  "head",    "meta",    "title",  "style",      "body",    "main",    "header",
            "h1",    "h2",      "h3",      "p",      "nav",        "a",       "section", "div",
            "span",  "b",       "code",    "figure", "figcaption", "small",   "svg",     "g",
            "path",  "text",    "circle",  "rect",   "ul",         "li",      "i",       "table",
            "thead", "tbody",   "tr",      "th",     "td",         "article", "dl",      "dt",
            "dd",    "details", "summary", NULL};
        size_t k = 0;
        while (known[k] && strcmp(known[k], name) != 0) k++;
        if (!known[k]) fail_msg("unexpected <%s>", name);
        size_t quotes = 0;
        for (const char *q = p; q < end; q++) {
            quotes += *q == '"';
            if (*q == '=') assert_int_equal(quotes % 2 ? '"' : q[1], '"');
        }
        assert_int_equal(quotes % 2, 0);
        const char *id = strstr(p, " id=\"");
        if (id && id < end) {
            assert_in_range(n_ids, 0, 199);
            snprintf(ids[n_ids], sizeof ids[0], "%.*s", (int)strcspn(id + 5, "\""), id + 5);
            for (size_t j = 0; j < n_ids; j++) assert_string_not_equal(ids[j], ids[n_ids]);
            n_ids++;
        }
        if (end[-1] != '/') {
            assert_in_range(depth, 0, 63);
            strcpy(stack[depth++], name);
        }
        if (strcmp(name, "style") == 0) p = strstr(p, "</style>") - 1;
    }
    assert_int_equal(depth, 0);
    for (const char *p = html; (p = strstr(p, "href=\"")); p += 6) {
        assert_int_equal(p[6], '#');
        size_t len = strcspn(p + 7, "\""), j = 0;
        while (j < n_ids && (strlen(ids[j]) != len || memcmp(ids[j], p + 7, len) != 0)) j++;
        if (j == n_ids) fail_msg("no target for %.*s", (int)len, p + 7);
    }
    assert_null(strstr(html, "http"));
    assert_null(strstr(html, "url("));
    assert_null(strstr(html, "@import"));
    assert_null(strstr(html, "src="));
    for (const char *p = html; *p; p++)
        if ((unsigned char)*p < 0x20 && *p != '\n') fail_msg("control byte %d", *p);
}

static pare_record *trained(pare_record *r, const pare_record_point *curve, size_t n, double loss) {
    r->data = "/t/book.txt";
    r->data_sha256 = "d1";
    r->ctx = 64;
    r->curve = curve;
    r->n_curve = n;
    r->steps = 20;
    r->val_loss = loss;
    r->val_ppl = exp(loss);
    return r;
}

/* Trainings on the same text stand together, the best first; a new model is no variant of one, and
 * one that goes on from a model is. */
static void trainings(void **state) {
    (void)state;
    static pare_record_point curve[3000];
    for (int i = 0; i < 3000; i++)
        curve[i] = (pare_record_point){.step = i,
                                       .loss = i ? 8.0 / (1 + 0.01 * i) : (double)NAN,
                                       .val_loss = i % 100 ? (double)NAN : 9.0 / (1 + 0.01 * i),
                                       .lr = 1e-3};
    pare_record_list list = {0};
    trained(make(&list, 1, "train", NULL, "train: adamw", "N1"), curve, 3000, 2.5);
    trained(make(&list, 2, "train", "A", "train: sgd", "T"), curve, 30, 2.25);
    trained(make(&list, 3, "train", NULL, "train: adamw, long", "N2"), curve, 1, 3)->ctx = 128;
    evaluated(make(&list, 4, "eval", "T", NULL, NULL), 12, 2048);
    evaluated(make(&list, 5, "eval", "N1", NULL, NULL), 13, 2048);
    pare_report_data d;
    assert_ok(pare_report_data_make(&d, &list, err));
    assert_int_equal(d.n_trainings, 2);
    assert_int_equal(d.trainings[0].runs[0]->id, 3);
    assert_int_equal(d.trainings[1].n, 2);
    assert_int_equal(d.trainings[1].runs[0]->id, 2);
    assert_int_equal(d.n, 2); /* A with T, N1 alone */
    assert_string_equal(d.models[1].key, "A");
    assert_string_equal(d.models[1].variants[0].recipe, "train: sgd");
    assert_string_equal(d.models[0].variants[0].recipe, "");
    pare_report_data_free(&d);
    char *text;
    size_t n;
    assert_ok(pare_report(&text, &n, &list, PARE_REPORT_HTML, NULL, err));
    well_formed(text);
    assert_null(strstr(text, ">-0<"));
    assert_non_null(strstr(text, "<a href=\"#r2\">9.488</a>")); /* exp(2.25) */
    assert_non_null(strstr(text, "Loss of the steps"));
    assert_null(strstr(text, "Zeros<small>"));
    assert_true(n < 150000); /* 3000 points are thinned */
    pare_text_free(text);
    assert_ok(pare_report(&text, &n, &list, PARE_REPORT_MARKDOWN, NULL, err));
    assert_non_null(strstr(text, "| 1 | train: sgd | 9.488 | 2.2500 |"));
    pare_text_free(text);
    free_list(&list);
}

/* Analyses of the same text stand in one figure for each site, and are no variants of a model. */
static void outliers(void **state) {
    (void)state;
    static pare_record_site sites[2][4];
    for (int i = 0; i < 8; i++)
        sites[i / 4][i % 4] = (pare_record_site){.layer = i % 4 / 2,
                                                 .site = i % 2 ? "block_out" : "ffn_down",
                                                 .top1 = i < 4 ? 3569 : 20,
                                                 .median = i == 5 ? 0 : 0.5};
    pare_record_list list = {0};
    for (int64_t i = 0; i < 3; i++) {
        pare_record *r = make(&list, i + 1, "analyze", "A", NULL, NULL);
        r->sites = sites[i % 2];
        r->n_sites = 4;
        r->arch = "llama";
        r->text_sha256 = i < 2 ? "T1" : "T2";
        r->ctx = 128;
    }
    pare_report_data d;
    assert_ok(pare_report_data_make(&d, &list, err));
    assert_int_equal(d.n, 0);
    pare_report_data_free(&d);
    char *text;
    size_t n, figures = 0;
    assert_ok(pare_report(&text, &n, &list, PARE_REPORT_HTML, NULL, err));
    well_formed(text);
    for (const char *p = text; (p = strstr(p, "<figcaption>")); p++) figures++;
    assert_int_equal(figures, 4); /* two texts, two sites */
    assert_non_null(strstr(text, "<figcaption>Input of ffn_down<small>"));
    assert_non_null(strstr(text, "class=\"line c3\"")); /* two runs of two lines */
    pare_text_free(text);
    free_list(&list);
}

static void html(void **state) {
    (void)state;
    pare_record_list list = sample(), none = {0};
    char *text;
    size_t n;
    assert_ok(pare_report(&text, &n, &list, PARE_REPORT_HTML, evil, err));
    assert_int_equal(strlen(text), n);
    assert_true(pare_utf8_valid(text, n));
    well_formed(text);
    const char *const parts[] = {
        "class=\"plot wide\"",  "class=\"plot narrow\"", "class=\"front\"", "class=\"reference\"",
        "class=\"line c0\"",    "class=\"heat\"",        "id=\"r20\"",      "Smallest within 20%",
        "prefers-color-scheme", "Quality against speed"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(text, parts[i])) fail_msg("%s is missing", parts[i]);
    pare_text_free(text);
    assert_ok(pare_report(&text, &n, &none, PARE_REPORT_HTML, NULL, err));
    well_formed(text);
    assert_non_null(strstr(text, "no records yet"));
    pare_text_free(text);
    free_list(&list);
}

/* The same records give the same page, but for the minute it was made in. */
static void same_page(void **state) {
    (void)state;
    pare_record_list list = sample();
    char *a, *b;
    size_t n, m;
    assert_ok(pare_report(&a, &n, &list, PARE_REPORT_MARKDOWN, NULL, err));
    assert_ok(pare_report(&b, &m, &list, PARE_REPORT_MARKDOWN, NULL, err));
    assert_string_equal(a, b);
    pare_text_free(a);
    pare_text_free(b);
    free_list(&list);
}

/* Every row of a table has as many cells as its head; no markup gets through. */
static void markdown(void **state) {
    (void)state;
    pare_record_list list = sample();
    char *text;
    size_t n, columns = 0, rows = 0;
    assert_ok(pare_report(&text, &n, &list, PARE_REPORT_MARKDOWN, "t|t", err));
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        size_t bars = 0;
        for (const char *p = line; p < end; p++) {
            assert_true((unsigned char)*p >= 0x20 && *p != '<');
            if (*p == '\\')
                p++;
            else
                bars += *p == '|';
        }
        if (*line != '|') columns = 0;
        if (*line != '|') continue;
        if (columns) assert_int_equal(bars, columns);
        columns = bars;
        rows++;
    }
    assert_true(rows > 25);
    assert_non_null(strstr(text, "## Failed runs"));
    pare_text_free(text);
    free_list(&list);
}

/* Reads one field of RFC 4180; returns where the next one begins. */
static const char *csv_field(const char *p, char *out, size_t size, bool *last) {
    size_t n = 0;
    bool quoted = *p == '"';
    if (quoted) p++;
    for (;; p++) {
        if (quoted && p[0] == '"' && p[1] == '"')
            p++;
        else if (quoted ? *p == '"' : *p == ',' || *p == '\r')
            break;
        assert_int_not_equal(*p, 0);
        if (n + 1 < size) out[n++] = *p;
    }
    out[n] = '\0';
    if (quoted) p++;
    *last = *p == '\r';
    assert_true(*p == ',' || (p[0] == '\r' && p[1] == '\n'));
    return p + (*last ? 2 : 1);
}

static void csv(void **state) {
    (void)state;
    pare_record_list list = sample();
    char *text, field[200];
    size_t n, columns = 0, rows = 0, message = 0;
    assert_ok(pare_report(&text, &n, &list, PARE_REPORT_CSV, NULL, err));
    for (const char *p = text; *p; rows++) {
        bool last = false;
        size_t k = 0;
        for (; !last; k++) {
            p = csv_field(p, field, sizeof field, &last);
            if (rows == 0 && strcmp(field, "message") == 0) message = k;
            if (rows == 1 && k == message) assert_string_equal(field, evil);
        }
        if (!columns) columns = k;
        assert_int_equal(k, columns);
    }
    assert_int_equal(rows, 1 + list.n);
    pare_text_free(text);
    list.items[0]->message = "=1+1";
    assert_ok(pare_report(&text, &n, &list, PARE_REPORT_CSV, NULL, err));
    assert_non_null(strstr(text, "\"'=1+1\""));
    pare_text_free(text);
    free_list(&list);
}

/* --- the verb --- */

static void verb(void **state) {
    (void)state;
    tiny_model("tiny", NULL);
    char words[6000];
    for (size_t i = 0; i < sizeof words; i++) words[i] = (char)('a' + (i * i + i / 7) % 26);
    test_write("text", words, sizeof words);
    program_result r = program_run(
        NULL, "pare compress tiny -o small.gguf -r q8_0 --eval text --windows 1 -q >/dev/null && "
              "pare eval tiny --text text --windows 1 -q >/dev/null && pare report page.html && "
              "pare report > same.html");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.err, "page.html: 2 records"));
    program_free(&r);
    r = program_run(NULL, "cat page.html");
    well_formed(r.out);
    assert_non_null(strstr(r.out, "q8_0"));
    program_free(&r);
    json_t *o = program_json(NULL, "pare report page.md --markdown --filter verb=compress");
    assert_int_equal(json_array_size(json_object_get(o, "records")), 1);
    json_decref(o);
    assert_int_equal(access(test_path("page.md"), F_OK), 0);
    program_refuses("pare report --markdown --csv", "expected one of them");
    program_refuses("pare report x.html --records absent.db", "absent.db");
    program_refuses("pare report no/folder/x.html", "no/folder/x.html");
    assert_int_not_equal(access(test_path("x.html"), F_OK), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_keep_apart),
        cmocka_unit_test(shortening),
        cmocka_unit_test(scales),
        cmocka_unit_test(pareto),
        cmocka_unit_test(html_text),
        cmocka_unit_test(joins),
        cmocka_unit_test(circles),
        cmocka_unit_test(trainings),
        cmocka_unit_test(outliers),
        cmocka_unit_test(html),
        cmocka_unit_test(same_page),
        cmocka_unit_test(markdown),
        cmocka_unit_test(csv),
        cmocka_unit_test(verb),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

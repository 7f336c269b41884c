/* A report in a real browser: nothing is wider than a phone, plots and links are there, links lead
 * somewhere, nothing is loaded from elsewhere, it prints. Skipped without Chromium. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include <stdio.h>
#include <string.h>

#define FIND "for b in chromium chromium-browser google-chrome; do command -v $b && break; done"
#define CHROME                                                                                     \
    "timeout 100 $(" FIND ") --headless=new --no-sandbox --disable-gpu --user-data-dir=profile "   \
    "--allow-file-access-from-files "

/* Looks at the page as a phone shows it and writes what it sees as JSON into its own body. */
static const char look[] =
    "<body style='margin:0'><iframe id=f src=report.html "
    "style='border:0;width:390px;height:2000px'>"
    "</iframe><pre id=seen></pre><script>\n"
    "document.getElementById('f').onload = function () {\n"
    "  const d = this.contentDocument, all = s => [...d.querySelectorAll(s)], links = "
    "all(\"a[href^='#']\");\n"
    "  document.getElementById('seen').textContent = 'SEEN' + JSON.stringify({\n"
    "    width: d.documentElement.scrollWidth, plots: all('svg').length, links: links.length,\n"
    "    broken: links.filter(a => !d.getElementById(a.getAttribute('href').slice(1))).length,\n"
    "    outside: all('[src],link[href]').length, rows: all('tr').length}) + 'END';\n"
    "};</script></body>\n";

static json_int_t integer(json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}

static void make_report(void) {
    static const char *const recipes[] = {"rtn:bits=4,group=32", "rtn:bits=8,group=32",
                                          "magnitude:sparsity=0.5"};
    char text[8192];
    tiny_model("tiny", NULL);
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + (i * i + i / 7) % 26);
    test_write("text", text, sizeof text);
    program_result r = program_run(NULL, "pare eval tiny --text text --ctx 64 --windows 2");
    assert_int_equal(r.code, 0);
    program_free(&r);
    for (int i = 0; i < 3; i++) {
        r = program_runf(
            NULL,
            "pare compress tiny -o out%d -r '%s' && pare eval out%d --text text --ctx 64 "
            "--windows 2 --against tiny",
            i, recipes[i], i);
        assert_int_equal(r.code, 0);
        program_free(&r);
    }
    r = program_run(NULL, "pare report report.html");
    assert_int_equal(r.code, 0);
    program_free(&r);
    test_write("look.html", look, sizeof look - 1);
}

static void in_a_browser(void **state) {
    (void)state;
    program_result r = program_run(NULL, FIND);
    bool there = r.out_len > 0;
    program_free(&r);
    if (!there) {
        printf("skipped: found no Chromium\n");
        skip();
    }
    make_report();
    r = program_run(NULL, CHROME "--virtual-time-budget=5000 --dump-dom file://$PWD/look.html");
    char *begin = strstr(r.out, "SEEN{"), *end = begin ? strstr(begin, "END") : NULL;
    if (!end) fail_msg("the browser saw nothing: %.300s", r.err);
    json_t *seen = json_loadb(begin + 4, (size_t)(end - begin) - 4, 0, NULL);
    program_free(&r);
    program_has(seen, "width,plots,links,broken,outside,rows");
    assert_in_range(integer(seen, "width"), 100, 390);
    assert_true(integer(seen, "plots") >= 2 && integer(seen, "links") > 3);
    assert_true(integer(seen, "rows") > 8);
    assert_int_equal(integer(seen, "broken"), 0);
    assert_int_equal(integer(seen, "outside"), 0);
    json_decref(seen);

    r = program_run(NULL, CHROME "--screenshot=page.png --window-size=1200,1600 "
                                 "file://$PWD/report.html");
    assert_int_equal(r.code, 0);
    program_free(&r);
    r = program_run(NULL, "test $(wc -c <page.png) -gt 20000 && head -c 4 page.png | tail -c 3");
    assert_string_equal(r.out, "PNG");
    program_free(&r);
    r = program_run(NULL, CHROME "--print-to-pdf=page.pdf --no-pdf-header-footer "
                                 "file://$PWD/report.html && head -c 5 page.pdf");
    assert_non_null(strstr(r.out, "%PDF-"));
    program_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(in_a_browser)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

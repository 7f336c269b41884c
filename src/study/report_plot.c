/* Scales, the places of labels, and SVG.
 *
 * Labels are monospace and carry their width (textLength), so what the layout computed is what the
 * browser draws, whatever font it has. Each label tries places around its point, near ones first,
 * and takes the first that is free; then the same with its number alone. What has no room even for
 * that stays without: its row in the table has the number, and the point has a title. */
#include "study/report_plot.h"

#include "study/escape.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- scales --- */

static bool add_tick(pare_scale *s, double value) {
    double slack = 1e-9 * fabs(s->max);
    if (value < s->min - slack || value > s->max + slack || s->n_ticks == PARE_MAX_TICKS)
        return false;
    s->ticks[s->n_ticks++] = value + 0.0; /* -0 becomes 0 */
    return true;
}

static void linear_ticks(pare_scale *s) {
    double raw = (s->max - s->min) / 5, power = pow(10, floor(log10(raw))), m = raw / power;
    double step = power * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
    for (double k = ceil(s->min / step - 1e-9); k * step <= s->max * (1 + 1e-9) + 1e-300; k++)
        if (!add_tick(s, k * step)) break;
}

static void log_ticks(pare_scale *s) {
    static const double sets[4][10] = {
        {1, 0}, {1, 2, 5, 0}, {1, 1.5, 2, 3, 5, 7, 0}, {1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7, 0}};
    int first = (int)floor(log10(s->min)), last = (int)floor(log10(s->max));
    for (size_t set = 0; set < 4; set++) {
        s->n_ticks = 0;
        for (int e = first; e <= last; e++)
            for (const double *m = sets[set]; *m > 0; m++) (void)add_tick(s, *m * pow(10, e));
        if (s->n_ticks >= 4) return;
    }
}

pare_scale pare_scale_make(double min, double max, double from, double to) {
    pare_scale s = {.from = from, .to = to, .log = min > 0 && max > 4 * min};
    if (s.log) {
        double room = pow(max / min, 0.06);
        s.min = min / room;
        s.max = max * room;
        log_ticks(&s);
        return s;
    }
    double room = 0.08 * (max - min);
    if (!(room > 0)) room = max != 0 ? 0.1 * fabs(max) : 1;
    s.min = min - room;
    s.max = max + room;
    if (s.min < 0 && min >= 0) s.min = 0;
    linear_ticks(&s);
    return s;
}

double pare_scale_at(const pare_scale *s, double v) {
    double share =
        s->log ? log(v / s->min) / log(s->max / s->min) : (v - s->min) / (s->max - s->min);
    return s->from + share * (s->to - s->from);
}

void pare_scale_tick_text(const pare_scale *s, size_t i, char text[24]) {
    double v = s->ticks[i], step = v;
    if (!s->log && s->n_ticks > 1) step = s->ticks[1] - s->ticks[0];
    int digits = step > 0 ? (int)ceil(-log10(step) - 1e-9) : 0;
    if (s->log && v > 0 && fabs(v * pow(10, digits) - round(v * pow(10, digits))) > 1e-6) digits++;
    if (digits > 4 || fabs(v) >= 1e6)
        snprintf(text, 24, "%.2g", v);
    else
        snprintf(text, 24, "%.*f", digits > 0 ? digits : 0, v);
}

/* --- labels --- */

bool pare_box_overlaps(const pare_box *a, const pare_box *b) {
    return a->x0 < b->x1 && b->x0 < a->x1 && a->y0 < b->y1 && b->y0 < a->y1;
}

static double text_width(size_t n_chars) { return 0.61 * PARE_LABEL_FONT * (double)n_chars; }

static bool crosses(const pare_box *lines, size_t n, const pare_box *box) {
    for (size_t i = 0; i < n; i++)
        if (pare_box_overlaps(box, &lines[i])) return true;
    return false;
}

static bool is_free(const pare_label *labels, size_t n, size_t own, const pare_box *box,
                    const pare_box *area) {
    if (box->x0 < area->x0 || box->x1 > area->x1 || box->y0 < area->y0 || box->y1 > area->y1)
        return false;
    pare_box roomy = {box->x0 - 3, box->y0 - 1, box->x1 + 3, box->y1 + 1};
    for (size_t i = 0; i < n; i++) {
        const double r = PARE_MARKER + 1;
        pare_box point = {labels[i].x - r, labels[i].y - r, labels[i].x + r, labels[i].y + r};
        if (pare_box_overlaps(box, &point)) return false;
        if (i != own && labels[i].shown[0] && pare_box_overlaps(&roomy, &labels[i].box))
            return false;
    }
    return true;
}

/* Places by direction, the usual one first, in rings of growing distance. Lines are kept clear of
 * for as long as that does not take a label far away. */
static bool find_place(pare_label *labels, size_t n, size_t own, const pare_room *room) {
    static const struct {
        double x, y; /* of the label's box relative to the point: -1 before, 0 centred, 1 behind */
    } sides[] = {{1, 0}, {-1, 0}, {1, -1}, {1, 1}, {-1, -1}, {-1, 1}, {0, -1}, {0, 1}};
    static const double rings[] = {4, 14, 26, 40, 56};
    pare_label *l = &labels[own];
    double w = text_width(l->n_chars), h = PARE_LABEL_FONT + 2;
    enum { NEAR = 2, N_RINGS = sizeof rings / sizeof *rings };
    for (size_t turn = 0; turn < NEAR + N_RINGS; turn++)
        for (size_t k = 0; k < sizeof sides / sizeof *sides; k++) {
            bool clear = turn < NEAR;
            size_t ring = clear ? turn : turn - NEAR;
            double d = PARE_MARKER + rings[ring], sx = sides[k].x, sy = sides[k].y;
            double dx = sx * (sy == 0 ? d : 0.7 * d), dy = sy * (sx == 0 ? d : 0.7 * d);
            double cx = l->x + dx + sx * w / 2, cy = l->y + dy + sy * h / 2;
            pare_box box = {cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2};
            if (!is_free(labels, n, own, &box, &room->area)) continue;
            if (clear && crosses(room->lines, room->n_lines, &box)) continue;
            l->box = box;
            l->leader = ring > 0;
            return true;
        }
    return false;
}

void pare_place_labels(pare_label *labels, size_t n, const pare_room *room, size_t max_chars) {
    if (max_chars > PARE_LABEL_CHARS) max_chars = PARE_LABEL_CHARS;
    for (size_t i = 0; i < n; i++) labels[i].shown[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        pare_label *l = &labels[i];
        char text[sizeof l->shown];
        const char *forms[] = {l->text, l->brief};
        for (size_t k = 0; k < 2 && !l->shown[0]; k++) {
            if (!*forms[k]) continue;
            l->n_chars = pare_text_shorten(text, forms[k], max_chars);
            if (find_place(labels, n, i, room)) memcpy(l->shown, text, sizeof text);
        }
    }
}

/* --- SVG --- */

typedef struct frame {
    double width, height, left, right, top, bottom;
    size_t max_chars; /* of labels */
    const char *css;
} frame;
static const frame frames[] = {{880, 430, 62, 18, 18, 46, 32, "wide"},
                               {380, 340, 58, 10, 18, 44, 20, "narrow"}};

static void begin(pare_buffer *b, const frame *f, const char *description) {
    pare_buffer_print(b, "<svg class=\"plot %s\" viewBox=\"0 0 %g %g\" role=\"img\" aria-label=\"",
                      f->css, f->width, f->height);
    pare_html_text(b, description);
    pare_buffer_print(b, "\">\n");
}

static void draw_axes(pare_buffer *b, const frame *f, const pare_scale *x, const pare_scale *y,
                      const char *x_title, const char *y_title) {
    double right = f->width - f->right, bottom = f->height - f->bottom, last = -1e9;
    char text[24];
    pare_buffer_print(b, "<g class=\"grid\">");
    for (size_t i = 0; i < y->n_ticks; i++) {
        double at = pare_scale_at(y, y->ticks[i]);
        pare_scale_tick_text(y, i, text);
        pare_buffer_print(
            b, "<path d=\"M%g %.1fH%g\"/><text class=\"ytick\" x=\"%g\" y=\"%.1f\">%s</text>",
            f->left, at, right, f->left - 7, at + 4, text);
    }
    for (size_t i = 0; i < x->n_ticks; i++) {
        double at = pare_scale_at(x, x->ticks[i]);
        pare_scale_tick_text(x, i, text);
        double half = 0.31 * PARE_LABEL_FONT * (double)strlen(text) + 4;
        pare_buffer_print(b, "<path d=\"M%.1f %gV%g\"/>", at, bottom, bottom + 5);
        if (at - half < last || at + half > f->width) continue; /* no room: the tick alone */
        last = at + half;
        pare_buffer_print(b, "<text class=\"xtick\" x=\"%.1f\" y=\"%g\">%s</text>", at, bottom + 19,
                          text);
    }
    pare_buffer_print(
        b, "<path class=\"axis\" d=\"M%g %gH%g\"/></g>\n<text class=\"title\" x=\"%g\" y=\"%g\">",
        f->left, bottom, right, (f->left + right) / 2, f->height - 6);
    pare_html_text(b, x_title);
    double middle = (f->top + bottom) / 2;
    pare_buffer_print(
        b, "</text><text class=\"title\" x=\"13\" y=\"%g\" transform=\"rotate(-90 13 %g)\">",
        middle, middle);
    pare_html_text(b, y_title);
    pare_buffer_print(b, "</text>\n");
}

void pare_pareto_front(bool *front, const pare_plot_point *p, size_t n, bool more) {
    for (size_t i = 0; i < n; i++) {
        front[i] = true;
        for (size_t k = 0; k < n && front[i]; k++) {
            bool x_no_worse = more ? p[k].x >= p[i].x : p[k].x <= p[i].x;
            bool better = p[k].x != p[i].x || p[k].y != p[i].y || k < i;
            if (k != i && x_no_worse && p[k].y <= p[i].y && better) front[i] = false;
        }
    }
}

/* The front's points from the best y to the best x; steps has room for all points. */
static size_t sort_front(size_t *steps, const pare_scatter *s, const bool *front) {
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (!front[i]) continue;
        size_t at = n++;
        for (; at > 0 && s->points[steps[at - 1]].y > s->points[i].y; at--)
            steps[at] = steps[at - 1];
        steps[at] = i;
    }
    return n;
}

static pare_box line_box(double x0, double y0, double x1, double y1) {
    return (pare_box){fmin(x0, x1) - 1, fmin(y0, y1) - 1, fmax(x0, x1) + 1, fmax(y0, y1) + 1};
}

/* The front as steps: at each x the best y that can be had there. Its lines are added to `room`. */
static void draw_front(pare_buffer *b, const pare_scatter *s, const size_t *steps, size_t n,
                       const pare_scale *x, const pare_scale *y, double y_cap, pare_room *room) {
    double from_x = 0, from_y = 0;
    for (size_t i = 0; i < n; i++) {
        const pare_plot_point *p = &s->points[steps[i]];
        double px = pare_scale_at(x, p->x), py = pare_scale_at(y, fmin(p->y, y_cap));
        if (i == 0) {
            pare_buffer_print(b, "<path class=\"front\" d=\"M%.1f %.1f", px, py);
        } else {
            pare_buffer_print(b, "V%.1fH%.1f", py, px);
            room->lines[room->n_lines++] = line_box(from_x, from_y, from_x, py);
            room->lines[room->n_lines++] = line_box(from_x, py, px, py);
        }
        from_x = px;
        from_y = py;
    }
    if (n) pare_buffer_print(b, "\"/>\n");
}

static void draw_point(pare_buffer *b, const pare_plot_point *p, bool front, bool beyond, double x,
                       double y) {
    const double r = PARE_MARKER, d = PARE_MARKER + 2;
    pare_buffer_print(b, "<a href=\"#r%lld\"><title>", (long long)p->record);
    pare_html_text(b, p->title);
    pare_buffer_print(b, "</title>");
    if (p->dense)
        pare_buffer_print(b, "<path class=\"dense\" d=\"M%.1f %.1fl%g %gl%g %gl%g %gz\"/>", x,
                          y - d, d, d, -d, d, -d, -d);
    else if (beyond) /* an arrow: it lies above */
        pare_buffer_print(b, "<path class=\"%s\" d=\"M%.1f %.1fl%g %gh%gz\"/>",
                          front ? "best" : "other", x, y - r - 1, r + 1, 2 * r, -2 * (r + 1));
    else
        pare_buffer_print(b, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%g\"/>",
                          front ? "best" : "other", x, y, r);
    pare_buffer_print(b, "</a>\n");
}

static void draw_label(pare_buffer *b, const pare_label *l, bool strong) {
    if (!l->shown[0]) return;
    double middle = (l->box.y0 + l->box.y1) / 2;
    if (l->leader) {
        double x = l->x < l->box.x0 ? l->box.x0 - 1 : l->x > l->box.x1 ? l->box.x1 + 1 : l->x;
        double y = l->y < l->box.y0 ? l->box.y0 : l->y > l->box.y1 ? l->box.y1 : middle;
        pare_buffer_print(b, "<path class=\"leader\" d=\"M%.1f %.1fL%.1f %.1f\"/>", l->x, l->y, x,
                          y);
    }
    pare_buffer_print(b, "<text class=\"label%s\" x=\"%.1f\" y=\"%.1f\" textLength=\"%.1f\">",
                      strong ? " strong" : "", l->box.x0, middle + 4, l->box.x1 - l->box.x0);
    pare_html_text(b, l->shown);
    pare_buffer_print(b, "</text>\n");
}

/* The points in the order in which their labels choose: the reference and the front first. */
static void order_points(size_t *order, const pare_scatter *s, const bool *front) {
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++)
        if (front[i] || s->points[i].dense) order[n++] = i;
    for (size_t i = 0; i < s->n; i++)
        if (!front[i] && !s->points[i].dense) order[n++] = i;
}

static void draw_scatter(pare_buffer *b, const pare_scatter *s, const frame *f, const bool *front,
                         const size_t *order, size_t *steps, pare_label *labels, pare_box *lines) {
    double x0 = s->points[0].x, x1 = x0, y0 = s->points[0].y, y1 = y0;
    for (size_t i = 1; i < s->n; i++) {
        x0 = fmin(x0, s->points[i].x);
        x1 = fmax(x1, s->points[i].x);
        y0 = fmin(y0, s->points[i].y);
        y1 = fmax(y1, s->points[i].y);
    }
    double y_most = y1; /* what lies above the reach stands at the edge */
    if (y0 > 0) y1 = fmin(y1, PARE_PLOT_REACH * y0);
    double right = f->width - f->right, bottom = f->height - f->bottom;
    pare_scale x = pare_scale_make(x0, x1, f->left, right);
    pare_scale y = pare_scale_make(y0, y1, bottom, f->top);
    begin(b, f, s->description);
    draw_axes(b, f, &x, &y, s->x_title, s->y_title);
    pare_room room = {{f->left + 2, f->top, f->width - 2, bottom - 2}, lines, 0};
    for (size_t k = 0; k < s->n; k++) {
        const pare_plot_point *p = &s->points[order[k]];
        labels[k] = (pare_label){
            .x = pare_scale_at(&x, p->x), .y = pare_scale_at(&y, fmin(p->y, y1)), .text = p->label};
        snprintf(labels[k].brief, sizeof labels[k].brief, "%zu", p->number);
        if (!p->dense) continue;
        pare_buffer_print(b, "<path class=\"reference\" d=\"M%g %.1fH%g\"/>\n", f->left,
                          labels[k].y, right);
        room.lines[room.n_lines++] = line_box(f->left, labels[k].y, right, labels[k].y);
    }
    draw_front(b, s, steps, sort_front(steps, s, front), &x, &y, y1, &room);
    pare_place_labels(labels, s->n, &room, f->max_chars);
    for (size_t k = 0; k < s->n; k++) draw_label(b, &labels[k], front[order[k]]);
    for (size_t k = 0; k < s->n; k++) {
        const pare_plot_point *p = &s->points[order[k]];
        draw_point(b, p, front[order[k]], p->y > y1, labels[k].x, labels[k].y);
    }
    if (y1 < y_most)
        pare_buffer_print(
            b, "<text class=\"note\" x=\"%g\" y=\"11\">arrows: above the plot</text>\n", right);
    pare_buffer_print(b, "</svg>\n");
}

void pare_plot_scatter(pare_buffer *b, const pare_scatter *s) {
    if (!s->n) return;
    bool *front = pare_calloc(s->n, sizeof *front);
    size_t *order = pare_calloc(2 * s->n, sizeof *order); /* and the front's steps */
    pare_box *lines = pare_calloc(3 * s->n, sizeof *lines);
    pare_label *labels = pare_calloc(s->n, sizeof *labels);
    if (front && order && lines && labels) {
        pare_pareto_front(front, s->points, s->n, s->more_is_better);
        order_points(order, s, front);
        for (size_t i = 0; i < sizeof frames / sizeof *frames; i++)
            draw_scatter(b, s, &frames[i], front, order, order + s->n, labels, lines);
    } else {
        b->failed = true;
    }
    pare_free(front);
    pare_free(order);
    pare_free(lines);
    pare_free(labels);
}

/* --- lines --- */

enum { MAX_DOTS = 48 /* points of a line that are marked */ };

static void draw_line(pare_buffer *b, const pare_plot_line *l, const pare_scale *x,
                      const pare_scale *y) {
    bool pen = false; /* down */
    size_t n_known = 0;
    pare_buffer_print(b, "<path class=\"line c%zu\" d=\"", l->color);
    for (size_t i = 0; i < l->n; i++) {
        bool known = isfinite(l->y[i]);
        if (known)
            pare_buffer_print(b, "%c%.1f %.1f", pen ? 'L' : 'M', pare_scale_at(x, l->x[i]),
                              pare_scale_at(y, l->y[i]));
        pen = known;
        n_known += known;
    }
    pare_buffer_print(b, "\"><title>");
    pare_html_text(b, l->title);
    pare_buffer_print(b, "</title></path>\n");
    for (size_t i = 0; i < l->n && n_known <= MAX_DOTS; i++)
        if (isfinite(l->y[i]))
            pare_buffer_print(b, "<circle class=\"dot c%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.2\"/>",
                              l->color, pare_scale_at(x, l->x[i]), pare_scale_at(y, l->y[i]));
}

/* Numbers behind the ends of the lines, pushed apart from top to bottom. */
static void draw_ends(pare_buffer *b, const pare_lines *l, const frame *f, const pare_scale *x,
                      const pare_scale *y) {
    const double step = PARE_LABEL_FONT + 1;
    double floor_at = f->height - f->bottom, last = f->top - step + 4;
    bool done[PARE_MAX_LINES] = {0};
    for (size_t left = l->n; left > 0; left--) {
        size_t best = SIZE_MAX, end = 0;
        double best_y = INFINITY;
        for (size_t i = 0; i < l->n; i++) {
            size_t k = l->lines[i].n;
            while (k > 0 && !isfinite(l->lines[i].y[k - 1])) k--;
            double at = k ? pare_scale_at(y, l->lines[i].y[k - 1]) : floor_at;
            if (done[i] || at >= best_y) continue;
            best = i;
            best_y = at;
            end = k;
        }
        if (best == SIZE_MAX) return;
        done[best] = true;
        double highest = floor_at - step * (double)(left - 1); /* room for those below */
        double at = fmin(fmax(best_y, last + step), highest);
        last = at;
        if (!end) continue;
        double px = pare_scale_at(x, l->lines[best].x[end - 1]);
        pare_buffer_print(b, "<path class=\"leader\" d=\"M%.1f %.1fL%.1f %.1f\"/>", px, best_y,
                          f->width - f->right + 2, at);
        pare_buffer_print(b, "<text class=\"label dot c%zu\" x=\"%.1f\" y=\"%.1f\">%zu</text>\n",
                          l->lines[best].color, f->width - f->right + 4, at + 4,
                          l->lines[best].number);
    }
}

static void draw_lines(pare_buffer *b, const pare_lines *l, frame f) {
    double min = INFINITY, max = -INFINITY, last_x = 0;
    f.right += 18; /* for the numbers */
    for (size_t i = 0; i < l->n; i++)
        for (size_t k = 0; k < l->lines[i].n; k++)
            if (isfinite(l->lines[i].y[k])) {
                min = fmin(min, l->lines[i].y[k]);
                max = fmax(max, l->lines[i].y[k]);
                last_x = fmax(last_x, l->lines[i].x[k]);
            }
    if (!(max >= min)) return;
    pare_scale x;
    if (l->whole) {
        x = (pare_scale){
            .min = -0.3, .max = (double)l->last_x + 0.3, .from = f.left, .to = f.width - f.right};
        for (size_t k = 0; k <= l->last_x && x.n_ticks < PARE_MAX_TICKS; k += l->last_x / 10 + 1)
            x.ticks[x.n_ticks++] = (double)k;
    } else {
        x = (pare_scale){.min = 0,
                         .max = last_x > 0 ? 1.02 * last_x : 1,
                         .from = f.left,
                         .to = f.width - f.right};
        linear_ticks(&x);
    }
    pare_scale y = pare_scale_make(min, max, f.height - f.bottom, f.top);
    begin(b, &f, l->description);
    draw_axes(b, &f, &x, &y, l->x_title, l->y_title);
    for (size_t i = l->n; i-- > 0;) draw_line(b, &l->lines[i], &x, &y);
    draw_ends(b, l, &f, &x, &y);
    pare_buffer_print(b, "</svg>\n");
}

void pare_plot_lines(pare_buffer *b, const pare_lines *l) {
    if (!l->n || l->n > PARE_MAX_LINES) return;
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) draw_lines(b, l, frames[i]);
}

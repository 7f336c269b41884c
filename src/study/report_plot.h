/* Plots of reports: scales, places of labels, inline SVG. All lengths in pixels of the SVG's view
 * box, y downwards. */
#ifndef PARE_SRC_STUDY_REPORT_PLOT_H
#define PARE_SRC_STUDY_REPORT_PLOT_H

#include "io/common.h"

/* --- scales --- */

enum { PARE_MAX_TICKS = 12 };
typedef struct pare_scale {
    double min, max; /* of the data, with some room */
    bool log;
    double from, to; /* pixels of min and max */
    double ticks[PARE_MAX_TICKS];
    size_t n_ticks;
} pare_scale;

/* For values in [min, max], both finite; logarithmic where all are positive and they span more than
 * a factor of 4. */
pare_scale pare_scale_make(double min, double max, double from, double to);
double pare_scale_at(const pare_scale *s, double value);
/* A tick's text, with only the digits that tell it from its neighbours. */
void pare_scale_tick_text(const pare_scale *s, size_t i, char text[24]);

/* --- labels --- */

typedef struct pare_box {
    double x0, y0, x1, y1;
} pare_box;
bool pare_box_overlaps(const pare_box *a, const pare_box *b);

enum {
    PARE_LABEL_CHARS = 32,
    PARE_LABEL_FONT = 12, /* pixels; monospace: a character is 0.61 of it wide */
    PARE_MARKER = 5,      /* radius */
    PARE_PLOT_REACH = 3   /* times the least y: points above stand at the upper edge as arrows */
};

typedef struct pare_label {
    double x, y;      /* centre of the point */
    const char *text; /* whole */
    char brief[16];   /* what stands there when the text has no room: a number */
    char
        shown[4 * PARE_LABEL_CHARS + 4]; /* what does stand there; "" = there is room for neither */
    size_t n_chars;                      /* of it */
    pare_box box;                        /* of it */
    bool leader;                         /* it is so far from its point that a line joins them */
} pare_label;

typedef struct pare_room {
    pare_box area;   /* labels stay inside */
    pare_box *lines; /* [n_lines] a label crosses them only when it has no other place nearby */
    size_t n_lines;
} pare_room;

/* Finds places: no label overlaps another one or a point. Earlier labels choose first. max_chars:
 * longer texts lose their middle. */
void pare_place_labels(pare_label *labels, size_t n, const pare_room *room, size_t max_chars);

/* --- plots --- */

typedef struct pare_plot_point {
    double x, y;
    const char *label; /* shown beside it */
    const char *title; /* shown when pointed at */
    size_t number;     /* of its row in the table */
    int64_t record;    /* id that it links to */
    bool dense;        /* the reference: a diamond, and a line across at its y */
} pare_plot_point;

typedef struct pare_scatter {
    const char *x_title, *y_title, *description;
    const pare_plot_point *points;
    size_t n;
    bool more_is_better; /* in x; less always is in y */
} pare_scatter;

/* The points that no other one beats in both: front[i] set. */
void pare_pareto_front(bool *front, const pare_plot_point *points, size_t n, bool more_is_better);
/* Two pictures of the same, for wide and for narrow screens; the style sheet shows one. */
void pare_plot_scatter(pare_buffer *out, const pare_scatter *s);

enum { PARE_MAX_LINES = 8 }; /* of one plot */
typedef struct pare_plot_line {
    const double *x, *y; /* [n], x rising; y NaN = no point, and a gap in the line */
    size_t n;
    size_t number, color; /* of its row in the table; of the palette, from 0 */
    const char *title;
} pare_plot_line;
typedef struct pare_lines {
    const char *x_title, *y_title, *description;
    const pare_plot_line *lines;
    size_t n;
    bool whole; /* x are numbers of things, from 0 to last_x, each a tick; else measures */
    size_t last_x;
} pare_lines;
void pare_plot_lines(pare_buffer *out, const pare_lines *l);

#endif

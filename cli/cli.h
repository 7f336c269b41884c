/* The frame of the command line: what main.c and the verbs share.
 *
 * A verb is one file with one `const cli_verb`: its options are a table, from which parsing, range
 * checks and --help are made. It ends by returning a status; a failure's line is in c->err.
 *
 *     typedef struct echo_options { const char *text; int64_t times; } echo_options;
 *     static const cli_option echo_table[] = {
 *         CLI_OPTION(echo_options, 'n', "times", CLI_INT, times, "N", 1, 100, "how often"),
 *         {0},
 *     };
 *     static const echo_options echo_defaults = {.times = 1};
 *     static pare_status echo_run(cli *c, const void *options, char **args, size_t n_args);
 *     const cli_verb cli_verb_echo = {.name = "echo", .arguments = "TEXT", ...}; */
#ifndef PARE_CLI_H
#define PARE_CLI_H

#include "pare/base.h"

#include <jansson.h>
#include <stdio.h>

typedef enum cli_type {
    CLI_FLAG,   /* bool */
    CLI_INT,    /* int64_t in [min, max] */
    CLI_FLOAT,  /* double in [min, max], finite */
    CLI_SIZE,   /* uint64_t bytes: "4GiB", "500MB", "4096" */
    CLI_SHARE,  /* double in [0, 1]: "0.5" or "50%" */
    CLI_TEXT,   /* const char * */
    CLI_TEXTS,  /* cli_texts; the option may be given again */
    CLI_COUNTS, /* cli_counts: "1,4,16", each in [min, max] */
    CLI_CHOICE  /* int: index into choices "a|b" */
} cli_type;

enum { CLI_MAX_ITEMS = 16 };
typedef struct cli_texts {
    const char *item[CLI_MAX_ITEMS];
    size_t n;
} cli_texts;
typedef struct cli_counts {
    size_t item[CLI_MAX_ITEMS], n;
} cli_counts;

typedef struct cli_option {
    const char *name; /* without dashes; NULL ends a table */
    char letter;      /* short form or 0 */
    cli_type type;
    size_t offset;     /* into the options struct */
    const char *value; /* what help shows for the value: "N"; of a choice: "a|b" */
    double min, max;   /* of CLI_INT, CLI_FLOAT and CLI_COUNTS */
    const char *help;
} cli_option;

#define CLI_OPTION(type_, letter_, name_, kind_, field_, value_, min_, max_, help_)                \
    {                                                                                              \
        .name = name_, .letter = letter_, .type = kind_, .offset = offsetof(type_, field_),        \
        .value = value_, .min = min_, .max = max_, .help = help_                                   \
    }
#define CLI_SWITCH(type_, letter_, name_, field_, help_)                                           \
    CLI_OPTION(type_, letter_, name_, CLI_FLAG, field_, NULL, 0, 0, help_)

typedef struct cli cli;

typedef struct cli_verb {
    const char *name, *arguments, *summary; /* "run", "MODEL", "generates text" */
    const char *notes;                      /* paragraphs shown by --help, or NULL */
    const cli_option *options;
    const void *defaults; /* an options struct */
    size_t options_size;  /* at most CLI_MAX_OPTIONS */
    size_t min_args, max_args;
    bool ranks;              /* several processes of mpirun share the work */
    const char *examples[5]; /* run as they are, beside a model.gguf; NULL ends */
    pare_status (*run)(cli *c, const void *options, char **args, size_t n_args);
} cli_verb;

enum { CLI_MAX_OPTIONS = 1024 };

/* The options of every verb. */
typedef struct cli_common {
    int64_t threads, seed;
    int isa; /* index into "auto|ref|avx2|avx512|amx" */
    bool deterministic, quiet, strict, json, help;
} cli_common;

/* A stage that was reported: runs by blocks alternate between stages, and each keeps its clock. */
typedef struct cli_stage {
    char name[64];
    double started_s, first_done, total; /* first_done: figure at its first report */
} cli_stage;

enum { CLI_MAX_STAGES = 8 };
typedef struct cli_progress {
    bool live;  /* stderr is a terminal: one line, rewritten */
    bool shown; /* a live line stands on the screen */
    cli_stage stages[CLI_MAX_STAGES];
    size_t n_stages, current; /* current: of the last report */
    char note[64];
    double last_s, done; /* done = the last figure that was reported */
} cli_progress;

struct cli {
    const cli_verb *verb; /* NULL before it is known */
    cli_common common;
    pare_runtime *rt; /* owned by main; NULL until cli_runtime */
    cli_progress progress;
    bool out_tty, color; /* of stdout */
    bool err_color;      /* of stderr */
    bool fell_back;      /* cli_fallback was called: --strict exits 3 */
    bool bound_failed;   /* cli_bound was called: exit 3 */
    bool out_closed;     /* the reader of stdout is gone: end quietly */
    pare_error err;
};

extern const cli_verb *const cli_verbs[]; /* ends with NULL */

/* --- main.c --- */

/* Writes the error's line and returns `status`. A verb writes "FILE: PLACE: found, expected". */
__attribute__((format(printf, 3, 4))) pare_status cli_fail(cli *c, pare_status status,
                                                           const char *format, ...);
/* Puts "PREFIX: " before the message in c->err; returns its status. */
pare_status cli_prefix(cli *c, const char *prefix);
/* A line on stderr ("pare: warning: ..."), unless --quiet. */
__attribute__((format(printf, 2, 3))) void cli_warn(cli *c, const char *format, ...);
/* The same for something done otherwise than asked: with --strict the exit code becomes 3. */
__attribute__((format(printf, 2, 3))) void cli_fallback(cli *c, const char *format, ...);
/* The same for a quality bound that was not met: exit code 3. */
__attribute__((format(printf, 2, 3))) void cli_bound(cli *c, const char *format, ...);
/* A line of information on stderr, unless --quiet. */
__attribute__((format(printf, 2, 3))) void cli_note(cli *c, const char *format, ...);

/* The common options, with progress, warnings and cancellation. */
pare_options cli_runtime_options(cli *c);
/* c->rt from these. Done once. */
pare_status cli_runtime(cli *c);
/* The signal that asked to stop, or 0. */
int cli_signal(void);
/* Forgets a first interrupt (interactive chat: it ends the answer, not the program). */
void cli_signal_clear(void);

/* --- options.c --- */

/* Splits argv[0 .. argc) into options (of the verb into `options`, common ones into c->common) and
 * arguments. args has room for argc. */
pare_status cli_parse(cli *c, const cli_verb *verb, void *options, char **args, size_t *n_args,
                      int argc, char **argv);
void cli_print_help(const cli_verb *verb);
/* Prints text from column `column`, broken at blanks, each further line from column `indent`. */
void cli_print_wrapped(const char *text, size_t column, size_t indent);
void cli_print_overview(void);
/* The known name nearest to `word`, or NULL when none is near. names ends with NULL. */
const char *cli_nearest(const char *word, const char *const *names);

/* --- output.c --- */

/* {"pare", "verb", "machine"}: how every object begins. */
json_t *cli_json_begin(cli *c);
/* A number, null where it is not finite. */
json_t *cli_json_real(double value);
/* A string; bytes that are not UTF-8 become U+FFFD. */
json_t *cli_json_text(const char *text, size_t n);
json_t *cli_json_string(const char *text);
/* Prints one object and its line end; takes ownership of it. indent false: on a single line. */
pare_status cli_json_print(cli *c, json_t *object, bool indent);
/* Text to stdout; on a terminal control bytes other than line feed and tab become '?'. */
pare_status cli_print(cli *c, const char *text, size_t n);
__attribute__((format(printf, 2, 3))) pare_status cli_printf(cli *c, const char *format, ...);
/* Flushes stdout and reports what failed. */
pare_status cli_flush(cli *c);

/* A table: titles with '>' in front are right-aligned. At most 100 columns wide: the widest
 * left-aligned column is shortened, at the beginnings of its names or, with '<' in front of the
 * title, at the ends of its prose. */
typedef struct cli_table {
    size_t n_columns, n_cells, capacity;
    char **cell; /* row by row, the titles first; owned */
    bool right[12], prose[12], failed;
} cli_table;
/* titles: "name|>params|>bytes". */
void cli_table_begin(cli_table *t, const char *titles);
/* One cell; the row is full after n_columns of them. */
__attribute__((format(printf, 2, 3))) void cli_cell(cli_table *t, const char *format, ...);
pare_status cli_table_end(cli *c, cli_table *t);

/* 1234567 -> "1.23 M"; static ring of buffers. */
const char *cli_count(double n);
/* Bytes -> "1.18 MiB". */
const char *cli_bytes(double n);
/* Seconds -> "0:07", "1:02:03". */
const char *cli_clock(double seconds);

/* --- input.c --- */

/* A whole file, or standard input for "-" or NULL; NUL-terminated. Free with free(). */
pare_status cli_read(cli *c, char **text, size_t *n, const char *path);
/* One line of standard input without its end; PARE_OK with *line NULL at the end of input. */
pare_status cli_read_line(cli *c, char **line, size_t *n);
/* Peak resident memory in bytes. */
uint64_t cli_peak_rss(void);
double cli_now(void);

/* --- progress.c --- */

void cli_progress_report(void *arg, const char *stage, double done, double total, const char *unit);
/* A short addition to the live line ("ppl 12.34"). */
__attribute__((format(printf, 2, 3))) void cli_progress_note(cli *c, const char *format, ...);
/* Takes the live line off the screen before other output. */
void cli_progress_clear(cli *c);
/* Ends the stage: its line stays. */
void cli_progress_end(cli *c);

#endif

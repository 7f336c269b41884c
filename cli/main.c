/* pare: the program. Finds the verb, parses its options, runs it, and turns its status into an exit
 * code and at most one error line. */
#include "cli.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLI_VERB(name) extern const cli_verb cli_verb_##name;
#include "verbs.def"
#undef CLI_VERB
const cli_verb *const cli_verbs[] = {
#define CLI_VERB(name) &cli_verb_##name,
#include "verbs.def"
#undef CLI_VERB
    NULL};

/* --- signals: the first asks to stop safely, the second stops at once --- */

static volatile sig_atomic_t stop_signal;

static void on_signal(int sig) {
    if (stop_signal) _exit(128 + sig);
    stop_signal = sig;
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: reads end with EINTR */
    sigemptyset(&action.sa_mask);
    static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) {
        struct sigaction old;
        /* a job started with nohup or in the background keeps what it was told to ignore */
        if (sigaction(caught[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN) continue;
        sigaction(caught[i], &action, NULL);
    }
    /* long work must not die because `head` has seen enough; the failing write is noticed instead
     */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes is an error of the write, with a line */
}

/* Where 0, 1 or 2 is closed, the next file opened would get its number, and what is printed would
 * land in it. A closed one stays unusable: /dev/null, opened so that no byte can be written. */
static void hold_standard_files(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) < 0) _exit(1);
}

int cli_signal(void) { return stop_signal; }
void cli_signal_clear(void) { stop_signal = 0; }

/* --- lines on stderr --- */

/* One line without control bytes: names from files and arguments are echoed in it. */
static void clean_line(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7F) *text = '?';
}

static void say(cli *c, const char *color, const char *prefix, const char *format, va_list args) {
    char line[1200];
    vsnprintf(line, sizeof line, format, args);
    clean_line(line);
    cli_progress_clear(c);
    if (c->err_color && color)
        fprintf(stderr, "\033[%sm%s\033[0m%s\n", color, prefix, line);
    else
        fprintf(stderr, "%s%s\n", prefix, line);
}

pare_status cli_fail(cli *c, pare_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(c->err.message, sizeof c->err.message, format, args);
    va_end(args);
    c->err.status = status;
    return status;
}

pare_status cli_prefix(cli *c, const char *prefix) {
    char old[sizeof c->err.message];
    memcpy(old, c->err.message, sizeof old);
    return cli_fail(c, c->err.status, "%.400s: %.590s", prefix, old);
}

#define SAY(silent, color, prefix)                                                                 \
    do {                                                                                           \
        if ((silent) || pare_rank() > 0) break;                                                    \
        va_list args;                                                                              \
        va_start(args, format);                                                                    \
        say(c, color, prefix, format, args);                                                       \
        va_end(args);                                                                              \
    } while (0)

void cli_warn(cli *c, const char *format, ...) { SAY(c->common.quiet, "33", "pare: warning: "); }
void cli_note(cli *c, const char *format, ...) { SAY(c->common.quiet, NULL, ""); }

/* What ends the program with 3 is told, --quiet or not. */
void cli_fallback(cli *c, const char *format, ...) {
    c->fell_back = true;
    SAY(c->common.quiet && !c->common.strict, "33", "pare: warning: ");
}

void cli_bound(cli *c, const char *format, ...) {
    c->bound_failed = true;
    SAY(false, "31", "pare: bound failed: ");
}

static void on_warning(void *arg, const char *line) { cli_warn(arg, "%s", line); }

/* --- the runtime --- */

pare_options cli_runtime_options(cli *c) {
    pare_options options = pare_options_default();
    options.n_threads = (int)c->common.threads;
    options.seed = (uint64_t)c->common.seed;
    options.deterministic = c->common.deterministic;
    if (pare_rank() == 0) options.progress = cli_progress_report;
    options.warn = on_warning;
    options.callback_arg = c;
    options.cancel = &stop_signal;
    if (c->common.isa > 0) options.isa = (pare_isa)(c->common.isa - 1); /* 0 = auto */
    return options;
}

pare_status cli_runtime(cli *c) {
    if (c->rt) return PARE_OK;
    pare_options options = cli_runtime_options(c);
    pare_isa asked = options.isa;
    pare_status st = pare_runtime_create(&c->rt, &options, &c->err);
    if (st == PARE_OK && c->common.isa > 0 && asked > pare_isa_best())
        cli_fallback(c, "--isa %s: this processor offers %s, which is used", pare_isa_name(asked),
                     pare_isa_name(pare_runtime_isa(c->rt)));
    return st;
}

/* --- verbs --- */

static const cli_verb *find_verb(const char *name) {
    for (const cli_verb *const *v = cli_verbs; *v; v++)
        if (strcmp((*v)->name, name) == 0) return *v;
    return NULL;
}

static pare_status unknown_verb(cli *c, const char *name) {
    const char *names[33];
    size_t n = 0;
    for (const cli_verb *const *v = cli_verbs; *v && n < 31; v++) names[n++] = (*v)->name;
    names[n++] = "help";
    names[n] = NULL;
    const char *near = cli_nearest(name, names);
    if (near)
        return cli_fail(c, PARE_ERR_ARG, "unknown verb '%.60s', did you mean '%s'?", name, near);
    return cli_fail(c, PARE_ERR_ARG, "unknown verb '%.60s'; 'pare help' lists them", name);
}

static pare_status run_help(cli *c, int argc, char **argv) {
    if (argc < 1) {
        cli_print_overview();
        return PARE_OK;
    }
    const cli_verb *verb = find_verb(argv[0]);
    if (!verb) return unknown_verb(c, argv[0]);
    cli_print_help(verb);
    return PARE_OK;
}

static pare_status run_verb(cli *c, const cli_verb *verb, int argc, char **argv) {
    _Alignas(max_align_t) char options[CLI_MAX_OPTIONS] = {0};
    size_t n_args = 0;
    char **args = calloc((size_t)argc + 1, sizeof *args);
    if (!args) return cli_fail(c, PARE_ERR_NOMEM, "arguments: out of memory");
    c->verb = verb;
    pare_status st = cli_parse(c, verb, options, args, &n_args, argc, argv);
    if (st == PARE_OK && c->common.help)
        cli_print_help(verb);
    else if (st == PARE_OK && pare_n_ranks() > 1 && !verb->ranks)
        st = cli_fail(
            c, PARE_ERR_ARG,
            "%s: found %d processes started together, expected one: only train, compress and "
            "sweep share work among them",
            verb->name, pare_n_ranks());
    else if (st == PARE_OK)
        st = verb->run(c, options, args, n_args);
    free(args);
    return st;
}

static pare_status dispatch(cli *c, int argc, char **argv) {
    if (argc < 2) return run_help(c, 0, NULL);
    const char *word = argv[1];
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        const char *mpi = pare_mpi_name();
        printf("pare %s (%s)\n", PARE_VERSION, mpi ? mpi : "without MPI");
        return PARE_OK;
    }
    if (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return run_help(c, argc - 2, argv + 2);
    if (word[0] == '-')
        return cli_fail(c, PARE_ERR_ARG, "unknown option '%.60s' before a verb; see 'pare help'",
                        word);
    const cli_verb *verb = find_verb(word);
    if (!verb) return unknown_verb(c, word);
    return run_verb(c, verb, argc - 2, argv + 2);
}

/* The last line of an interrupted run says how to go on. */
static void tell_interrupt(const cli *c, const char *who) {
    const char *rest = c->err.message;
    bool told = *rest && strcmp(rest, "interrupted") != 0;
    fprintf(stderr, "%s %s%s\n", who, told ? "interrupted: " : "interrupted",
            told ? rest : "; nothing was written, the same command starts again");
}

/* One line on standard error. Of several ranks the first tells it at once, another one only where
 * not all have failed. */
static void tell_end(cli *c, pare_status st) {
    char who[40] = "pare:";
    if (pare_rank() > 0) snprintf(who, sizeof who, "pare: rank %d:", pare_rank());
    clean_line(c->err.message);
    if (st == PARE_ERR_INTERRUPTED)
        tell_interrupt(c, who);
    else
        fprintf(stderr, c->err_color ? "\033[31m%s\033[0m %s\n" : "%s %s\n", who,
                c->err.message[0] ? c->err.message : pare_status_name(st));
}

static int exit_code(const cli *c, pare_status st) {
    if (c->out_closed) return 0; /* the reader has had enough: not an error */
    if (st == PARE_ERR_INTERRUPTED) return 128 + (stop_signal ? stop_signal : SIGINT);
    if (st != PARE_OK) return pare_status_exit_code(st);
    return c->bound_failed || (c->common.strict && c->fell_back) ? 3 : 0;
}

static int finish(cli *c, pare_status st) {
    cli_progress_end(c);
    if (st == PARE_OK) st = cli_flush(c);
    int code = exit_code(c, st);
    bool failed = code != 0 && st != PARE_OK, told = failed && pare_rank() == 0;
    if (told) tell_end(c, st);
    if (failed && !pare_ranks_all_failed()) {
        if (!told) tell_end(c, st);
        pare_ranks_abort(code);
    }
    return code;
}

/* Standard output is the first rank's. */
static void silence(void) {
    int nowhere = open("/dev/null", O_WRONLY);
    if (nowhere >= 0 && dup2(nowhere, STDOUT_FILENO) >= 0) close(nowhere);
}

int main(int argc, char **argv) {
    static cli c;
    hold_standard_files();
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    bool color = !(no_color && *no_color) && !(term && strcmp(term, "dumb") == 0);
    c.out_tty = isatty(STDOUT_FILENO);
    c.progress.live = isatty(STDERR_FILENO);
    c.color = color && c.out_tty;
    c.err_color = color && c.progress.live;
    catch_signals();
    pare_status st = pare_ranks_join(&c.err);
    if (pare_rank() > 0) silence();
    if (pare_n_ranks() > 1) c.out_tty = c.color = false; /* mpirun's terminal is nobody's */
    if (st == PARE_OK) st = dispatch(&c, argc, argv);
    int code = finish(&c, st);
    pare_runtime_free(c.rt);
    pare_ranks_leave();
    return code;
}

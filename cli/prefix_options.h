/* --prefix and --prefix-tokens, which run, eval and bench share. */
#ifndef PARE_CLI_PREFIX_OPTIONS_H
#define PARE_CLI_PREFIX_OPTIONS_H

#include "cli.h"

#include "pare/model.h"
#include "pare/tokenizer.h"

#define CLI_PREFIX_HELP                                                                            \
    "a cushion: all sequences stand behind the keys and values of this file; none = behind "       \
    "nothing (default: what MODEL's folder has)"
#define CLI_PREFIX_OPTIONS(type_)                                                                  \
    CLI_OPTION(type_, 0, "prefix", CLI_TEXT, prefix, "FILE", 0, 0, CLI_PREFIX_HELP),               \
        CLI_OPTION(type_, 0, "prefix-tokens", CLI_TEXT, prefix_tokens, "TEXT", 0, 0,               \
                   "all sequences stand behind these tokens, e.g. '<|im_start|>', or by number: "  \
                   "'ids:1,2'")

/* The file that --prefix names; NULL: none was given, or "none". */
const char *cli_prefix_file(const char *prefix);
/* What --prefix means as the library's option: "" for none. */
const char *cli_prefix_option(const char *prefix);

/* Gives the model what the two options ask for. path: of the model, whose tokenizer is loaded for
 * tokens; prefix, tokens: NULL where they were not given. */
pare_status cli_set_prefix(cli *c, pare_model *m, const char *path, const char *prefix,
                           const char *tokens);

#endif

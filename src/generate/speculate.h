/* Speculative decoding: cheap guesses of the next tokens, which the model then computes together
 * and accepts or refuses so that what comes out has the distribution that it has without them.
 *
 * Guesses come from an earlier place in the text that ends as the text ends now (prompt lookup:
 * Saxena 2023; after it comes what came there), or from a smaller model with the same vocabulary
 * (Leviathan et al., arXiv:2211.17192; Chen et al., arXiv:2302.01318).
 *
 * Accepting, for a guess d that was drawn from q, p the model's distribution after all steps of
 * sampling (algorithm 1 of arXiv:2211.17192): d with probability min(1, p(d) / q(d)), else a draw
 * from max(0, p - q). Of a looked-up guess q is 1 at d: a draw x from p that counts as accepted
 * when x = d is the same, and gives the very text that decoding without guesses gives. */
#ifndef PARE_SRC_GENERATE_SPECULATE_H
#define PARE_SRC_GENERATE_SPECULATE_H

#include "generate/sampler.h"

/* How often guesses of one kind are right, and what follows for the next ones. Deterministic: with
 * a draft model a sampled text depends on the numbers of guesses. */
enum { PARE_GUESS_KINDS = 4 };
typedef struct pare_guess_gauge {
    double accept[PARE_GUESS_KINDS]; /* share of the latest guesses that were right */
    size_t wait[PARE_GUESS_KINDS], pause[PARE_GUESS_KINDS]; /* tokens without a guess */
    double cost; /* of making one guess, in tokens decoded alone */
} pare_guess_gauge;

void pare_guess_gauge_init(pare_guess_gauge *g, double cost);
/* How many guesses to try, at most max <= PARE_DRAFT_MAX: as many as give most tokens for their
 * time; now and then one where none would pay. */
size_t pare_guess_count(pare_guess_gauge *g, size_t kind, size_t max);
void pare_guess_learn(pare_guess_gauge *g, size_t kind, size_t tried, size_t right);

/* The longest end of ids[0, n) (2 to 16 tokens) that stands in it before, the latest such place:
 * the index after it, and its length in *match. SIZE_MAX: none. O(n). */
size_t pare_lookup_find(const int32_t *ids, size_t n, size_t *match);

typedef struct pare_speculator pare_speculator;

/* Behind what the options say that the session holds, prompt[n] come next. draft: where the options
 * say so, brought to the same place; it may hold a beginning of them. The session is borrowed.
 * Errors: PARE_ERR_ARG, PARE_ERR_NOMEM, those of pare_session_eval. */
pare_status pare_speculator_create(pare_speculator **out, const pare_generate_options *options,
                                   const pare_session *session, const pare_sampler *sampler,
                                   const int32_t *prompt, size_t n, pare_error *err);
void pare_speculator_free(pare_speculator *s);

/* A token of the answer. */
pare_status pare_speculator_accept(pare_speculator *s, int32_t id, pare_error *err);
/* Guesses what follows all tokens so far: at most max. *guesses is valid until the next call. */
pare_status pare_speculator_guess(pare_speculator *s, const pare_sampler *sampler, size_t max,
                                  const int32_t **guesses, size_t *n, pare_error *err);
/* The token after the first i guesses, all right so far; logits are the model's. It is right when
 * it equals guess i. i = n: there is no guess. */
pare_status pare_speculator_choose(int32_t *id, pare_speculator *s, pare_sampler *sampler,
                                   const float *logits, size_t i, pare_error *err);
/* Of the last guesses so many were right. */
void pare_speculator_learn(pare_speculator *s, size_t right);

#endif

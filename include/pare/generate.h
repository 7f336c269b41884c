/* Text generation: sampling, stop strings, streaming.
 *
 *     pare_generate_options go = pare_generate_options_default();
 *     go.max_tokens = 64;
 *     pare_generation g;
 *     pare_generate(&g, session, tok, ids.data, ids.n, &go, &err);
 *     fwrite(g.text, 1, g.text_len, stdout);
 *     pare_generation_free(&g);
 */
#ifndef PARE_GENERATE_H
#define PARE_GENERATE_H

#include "pare/base.h"
#include "pare/model.h"
#include "pare/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the next token is chosen from the logits. The order is fixed:
 *   1. repeat penalty: the logit of every token among the last repeat_last_n is divided by it where
 *      positive, multiplied by it otherwise (Keskar et al., arXiv:1909.05858)
 *   2. temperature: logits are divided by it; 0 = the largest logit wins, the lower id on ties, and
 *      nothing below applies
 *   3. top-k: the k largest stay (ties: lower ids); 0 = all
 *   4. top-p: of these, in falling order, the fewest whose probabilities reach p; 1 = all
 *   5. min-p: of these, those with at least min_p times the largest probability; 0 = all
 *   6. one draw among what is left, by their probabilities
 * At least one token stays at every step. Draw i of a sampler depends on (seed, i) only; behind n
 * tokens of a session the first one is draw n * 2^32, so that no call repeats another's. */
typedef struct pare_sampler_options {
    double temperature;    /* >= 0; default 0.8 */
    size_t top_k;          /* default 40 */
    double top_p;          /* [0, 1]; default 0.95 */
    double min_p;          /* [0, 1]; default 0.05 */
    double repeat_penalty; /* > 0; 1 = none (default) */
    size_t repeat_last_n;  /* default 64 */
    uint64_t seed;         /* default 0 */
} pare_sampler_options;
pare_sampler_options pare_sampler_options_default(void);

typedef struct pare_candidate {
    float logit; /* after the repeat penalty */
    int32_t id;
    double p; /* probability after temperature, not yet divided by the sum of those that stayed */
} pare_candidate;

typedef struct pare_sampler pare_sampler;

/* Errors: PARE_ERR_ARG (an option out of range), PARE_ERR_NOMEM. */
pare_status pare_sampler_create(pare_sampler **out, size_t vocab_size,
                                const pare_sampler_options *options, pare_error *err);
void pare_sampler_free(pare_sampler *s);
/* Tells the repeat penalty about a token of the prompt or of the answer. */
void pare_sampler_accept(pare_sampler *s, int32_t id);
/* Never choose this token. */
void pare_sampler_ban(pare_sampler *s, int32_t id);
/* Chooses from logits [vocab_size]. Errors: PARE_ERR_INPUT when a logit is NaN or +Inf, or all are
 * -Inf: the request has failed, the sampler stays usable. */
pare_status pare_sampler_pick(int32_t *id, pare_sampler *s, const float *logits, pare_error *err);
/* What the last pick drew from; valid until the next. Returns their number. */
size_t pare_sampler_candidates(const pare_sampler *s, const pare_candidate **candidates);

typedef enum pare_stop_reason {
    PARE_STOP_END,     /* the model gave an end token */
    PARE_STOP_LENGTH,  /* max_tokens */
    PARE_STOP_STRING,  /* a stop string; the text ends before it */
    PARE_STOP_CONTEXT, /* the session is full */
    PARE_STOP_CALLER   /* on_text returned non-zero */
} pare_stop_reason;
/* "end", "length", "stop", "context", "caller". */
const char *pare_stop_reason_name(pare_stop_reason reason);

/* Guessing ahead: the next tokens are guessed cheaply and computed together, as many as are right
 * come out at once. What comes out has the distribution that it has without. With temperature 0 and
 * with lookup it is the same text: no more tokens are computed together than give the same bits as
 * one by one (three guesses where weights are f32, f16 or bf16; refused where activations are
 * quantized per_tensor_dynamic, which takes all tokens of a pass together). */
enum { PARE_DRAFT_MAX = 7 };
typedef struct pare_speculate_options {
    bool lookup; /* what came after an earlier place that ends as the text ends now */
    pare_session
        *draft; /* instead: a session of a smaller model with the same vocabulary, borrowed.
                   It holds nothing, or a beginning of what the session holds; that stays so */
    size_t max; /* guesses at a time, 1 to PARE_DRAFT_MAX (default); how many of these are
                   made depends on how often they were right */
} pare_speculate_options;

/* Whether two tokenizers have the same tokens; else *first is the lowest id where they differ, or
 * the smaller number of tokens. */
bool pare_tokenizer_same_tokens(const pare_tokenizer *a, const pare_tokenizer *b, size_t *first);

typedef struct pare_generate_options {
    pare_sampler_options sampler;
    size_t max_tokens;       /* 0 = only the prompt is computed; SIZE_MAX = no limit (default) */
    const char *const *stop; /* [n_stop] texts, borrowed; found across the borders of tokens too */
    size_t n_stop;
    /* What the session holds, where that is not empty, borrowed: the repeat penalty counts it and
     * lookup looks there, a draft needs it. Without it both begin with the prompt. */
    const int32_t *before; /* [n_before] */
    size_t n_before;
    bool ignore_eos;                  /* end tokens are never chosen */
    pare_speculate_options speculate; /* default: off */
    /* Text as it becomes certain: whole UTF-8 characters, nothing that may still turn out to be a
     * stop string. Non-zero ends the generation. May be NULL. */
    int (*on_text)(void *arg, const char *text, size_t len);
    void *arg;
} pare_generate_options;
pare_generate_options pare_generate_options_default(void);

typedef struct pare_generation {
    char *text; /* NUL-terminated; special tokens left out */
    size_t text_len;
    pare_ids ids;             /* generated, without the end token */
    size_t prompt_tokens;     /* that were computed in this call */
    size_t decoded;           /* tokens computed after the prompt */
    size_t drafted, accepted; /* guesses, and how many of them came out */
    double prefill_s, decode_s, first_token_s;
    pare_stop_reason reason;
} pare_generation;

/* Appends prompt[n] to the session and generates. Progress: a prompt of more than a batch, and the
 * tokens of an answer that on_text does not show. Free *out with pare_generation_free also after a
 * failure: with PARE_ERR_INTERRUPTED it holds what was generated so far. Errors: PARE_ERR_ARG (n 0,
 * more tokens than the session has room for, n_before not 0 and not what the session holds),
 * PARE_ERR_INPUT (logits that are not numbers), those
 * of pare_session_eval. */
pare_status pare_generate(pare_generation *out, pare_session *session, const pare_tokenizer *tok,
                          const int32_t *prompt, size_t n, const pare_generate_options *options,
                          pare_error *err);
void pare_generation_free(pare_generation *g);

#ifdef __cplusplus
}
#endif
#endif

/* A small Llama with random weights and a byte-level tokenizer, written as a Hugging Face folder:
 * what the tests of the program run on. */
#ifndef PARE_TESTS_SUPPORT_TINY_MODEL_H
#define PARE_TESTS_SUPPORT_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "pare/model.h"

enum {
    TINY_VOCAB = 259, /* 256 bytes, then <|endoftext|>, <|im_start|>, <|im_end|> */
    TINY_DIM = 64,
    TINY_LAYERS = 2,
    TINY_CTX = 512
};

typedef struct tiny_options {
    uint64_t seed;
    float scale;          /* of the weights; 0 = 0.08 */
    bool bos;             /* the tokenizer puts <|endoftext|> in front */
    const char *template; /* chat template, NULL = ChatML, "" = none */
    float poison;         /* written over one weight where it is not 0 (NaN, Inf) */
    float final_norm;     /* 0 = 1; 3e38 makes logits that are no numbers */
    float last_norm;      /* of the last block's input, 0 = 1; 3e38: its activations overflow */
    int no_values;        /* so many blocks, from the first: v is 0, so attn_output's input is */
    bool cancels; /* inputs of the first block come in equal pairs; what its q makes of a pair is
                     nearly nothing: any zero among its weights is far off */
    const char *outliers; /* tokens of these bytes carry a massive activation into the ffn_down of
                             the first block, wherever they stand; NULL: none does */
} tiny_options;

/* Writes the folder test_folder()/name (options may be NULL) and returns its path. */
const char *tiny_model(const char *name, const tiny_options *options);

/* Writes a byte-level tokenizer of 256 tokens into a folder. */
void tiny_tokenizer(const char *folder);

/* Logits behind n tokens that are always the same; cache in f32. */
void tiny_logits(float out[TINY_VOCAB], pare_model *m, pare_compute compute, size_t n);
/* The largest difference; infinite where one is no number. */
float tiny_off_by(const float *a, const float *b);

#endif

#include "text/pre_names.h"

#include <stdio.h>

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
const char *const pare_regex_gpt2 = GPT2;

/* The expressions that begin with Llama 3's contractions differ in how digits, letters and marks
 * group. */
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORDS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BEFORE_WORD "[^\\r\\n\\p{L}\\p{N}]?"
#define REST_SLASH "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CASED(after) BEFORE_WORD UPPER "*" LOWER "+" after "|" BEFORE_WORD UPPER "+" LOWER "*" after

static const char deepseek_letters[] =
    "\\s?[A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295"
    "-\u02AF\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-"
    "\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5"
    "\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-"
    "\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-"
    "\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-"
    "\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115\u2119-"
    "\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F\u2145-\u2149\u214E"
    "\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D\uA680-"
    "\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17"
    "\uFF21-\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-"
    "\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-"
    "\U0001E943]+";

static const pare_pre_entry entries[] = {
    {{"gpt-2", "phi-2", "olmo", "mpt", "gigachat", "exaone4", "trillion", "jais", "mellum"},
     {GPT2},
     false,
     false,
     false},
    {{"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"},
     {CONTRACTIONS WORDS "|\\p{N}{1,3}" REST},
     true,
     true,
     false},
    {{"smaug-bpe", "dbrx", "chatglm-bpe"},
     {CONTRACTIONS WORDS "|\\p{N}{1,3}" REST},
     false,
     false,
     false},
    {{"glm4", "glm5"}, {CONTRACTIONS WORDS "|\\p{N}{1,3}" REST}, true, false, false},
    {{"qwen2"}, {CONTRACTIONS WORDS "|\\p{N}" REST}, false, false, true},
    {{"deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2", "solar-open"},
     {CONTRACTIONS WORDS "|\\p{N}" REST},
     false,
     false,
     false},
    {{"qwen35"},
     {CONTRACTIONS
      "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
      "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
     false,
     false,
     false},
    {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"},
     {"\\p{N}", GPT2},
     false,
     false,
     false},
    {{"tekken"}, {CASED("") "|\\p{N}" REST_SLASH}, true, true, false},
    {{"gpt-4o", "llama4", "kanana2"},
     {CASED(CONTRACTIONS "?") "|\\p{N}{1,3}" REST_SLASH},
     false,
     false,
     false},
    {{"seed-coder"},
     {CONTRACTIONS WORDS "|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
     false,
     false,
     false},
    {{"bailingmoe", "bailingmoe2", "llada-moe"},
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*"
      "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"},
     false,
     false,
     false},
    {{"deepseek-llm"},
     {"[\\r\\n]", deepseek_letters,
      "\\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+", "\\s+$",
      "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+", "\\p{N}+"},
     false,
     false,
     false},
    {{"deepseek-coder"},
     {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+",
      "\\p{N}"},
     false,
     false,
     false},
    {{"deepseek-v3", "hunyuan-dense", "joyai-llm"},
     {"\\p{N}{1,3}", "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
      "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*"
      "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
     false,
     false,
     false},
    {{"falcon"}, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}, false, false, false},
    {{"bloom", "poro-chat", "gpt3-finnish"},
     {" ?[^(\\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+"},
     false,
     false,
     false},
    {{"viking"},
     {" ?[^(\\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+", "\\p{N}"},
     false,
     false,
     false},
    {{"default"},
     {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"},
     false,
     false,
     false},
};
#define N_ENTRIES (sizeof entries / sizeof *entries)

const pare_pre_entry *pare_pre_find(const char *name) {
    for (size_t i = 0; i < N_ENTRIES; i++)
        for (size_t k = 0;
             k < sizeof entries[i].names / sizeof *entries[i].names && entries[i].names[k]; k++)
            if (strcmp(entries[i].names[k], name) == 0) return &entries[i];
    return NULL;
}

bool pare_pre_list(char *out, size_t size) {
    size_t used = 0;
    for (size_t i = 0; i < N_ENTRIES; i++) {
        int n = snprintf(out + used, size - used, "%s%s", i ? ", " : "", entries[i].names[0]);
        if (n < 0 || (size_t)n >= size - used) return false;
        used += (size_t)n;
    }
    return true;
}

pare_status pare_pre_apply(pare_vocab *v, const pare_pre_entry *entry, pare_error *err) {
    if (entry->nfc)
        PARE_TRY(pare_vocab_add_norm(v, PARE_NORM_FORM, PARE_NFC, NULL, 0, NULL, 0, err));
    for (size_t i = 0; i < PARE_PRE_REGEXES && entry->regexes[i]; i++) {
        pare_pre_step step = {.kind = PARE_PRE_REGEX,
                              .behaviour = PARE_SPLIT_ISOLATED,
                              .text = (char *)entry->regexes[i],
                              .len = strlen(entry->regexes[i])};
        PARE_TRY(pare_vocab_add_pre(v, step, err));
    }
    return PARE_OK;
}

static bool same_steps(const pare_vocab *v, const pare_pre_entry *entry) {
    size_t n = 0;
    while (n < PARE_PRE_REGEXES && entry->regexes[n]) n++;
    if (v->n_pre != n) return false;
    for (size_t i = 0; i < n; i++) {
        const pare_pre_step *step = &v->pre_steps[i];
        if (step->kind != PARE_PRE_REGEX || step->behaviour != PARE_SPLIT_ISOLATED ||
            step->invert || step->len != strlen(entry->regexes[i]) ||
            strcmp(step->text, entry->regexes[i]) != 0)
            return false;
    }
    return true;
}

const char *pare_pre_recognize(const pare_vocab *v) {
    const char *other = NULL; /* but for the normal form */
    for (size_t i = 0; i < N_ENTRIES; i++) {
        if (entries[i].ignore_merges != v->ignore_merges || !same_steps(v, &entries[i])) continue;
        if (entries[i].nfc == (v->n_norm > 0)) return entries[i].names[0];
        if (!other) other = entries[i].names[0];
    }
    return other;
}

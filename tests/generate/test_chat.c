/* Chat formats: templates of the known families as their authors wrote them, against what a Jinja
 * engine makes of them (checked once with jinja2 3.1.6); refusals; special tokens in messages. */
#include "support/test.h"

#include "pare/chat.h"

#include <stdlib.h>
#include <string.h>

static const char chatml[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a test.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
static const char qwen3[] =
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + "
    "'<|im_end|>\\n' }}{%- endif %}{% set content = content.split('</think>')[-1] %}";
static const char llama3[] =
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}";
static const char llama31[] =
    "{{- bos_token }}{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}"
    "{{- \"Cutting Knowledge Date: December 2023\\n\" }}{{- \"<|eot_id|>\" }}";
static const char gemma2[] =
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not "
    "supported') }}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
    "'<end_of_turn>\n' }}";
static const char gemma3[] =
    "{{ bos_token }}{%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}"
    "{{ '<start_of_turn>' + role + '\\n' }}{{ '<end_of_turn>\\n' }}";
static const char llama2[] =
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{{ ' '  + content.strip() + ' ' + "
    "eos_token }}";
static const char mistral_old[] =
    "{{ bos_token }}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' "
    "[/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}";
static const char mistral_v1[] =
    "{%- set system_message = messages[0]['content'] %}{%- if loop.first and system_message is "
    "defined %}{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] + eos_token}}";
static const char mistral_v3[] =
    "{%- set system_message = messages[0][\"content\"] %}{%- if loop.last and system_message is "
    "defined %}{{- \"[INST] \" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\" "
    "}}"
    "{%- elif message[\"role\"] == \"assistant\" %}{{- \" \" + message[\"content\"]|trim + "
    "eos_token}}";
static const char mistral_v7[] =
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% elif message['role'] == 'system' %}"
    "{{ '[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]' }}{% elif message['role'] == "
    "'assistant' %}{{ ' ' + message['content'] + eos_token }}";

/* system, question, answer, question */
static const pare_message talk[] = {
    {"system", "Be brief."}, {"user", " Hi \n"}, {"assistant", " Yes? "}, {"user", "Bye"}};

static const struct {
    const char *source, *format;
    bool system;
    const char *expected;
} cases[] = {
    {chatml, "ChatML", true,
     "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi \n<|im_end|>\n"
     "<|im_start|>assistant\n Yes? <|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {chatml, "ChatML", false,
     "<|im_start|>system\nYou are a test.<|im_end|>\n<|im_start|>user\n Hi \n<|im_end|>\n"
     "<|im_start|>assistant\n Yes? <|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {llama3, "Llama 3", false,
     "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n"},
    {llama31, "Llama 3", true,
     "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
     "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n"},
    {gemma2, "Gemma", false,
     "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
     "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"},
    {gemma3, "Gemma", true,
     "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
     "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"},
    {llama2, "Llama 2", true,
     "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Hi [/INST] Yes? </s><s>[INST] Bye [/INST]"},
    {mistral_old, "Mistral", false, "[INST]  Hi \n [/INST] Yes? </s>[INST] Bye [/INST]"},
    {mistral_v1, "Mistral", true,
     " [INST] Be brief.\n\n Hi \n [/INST]  Yes? </s> [INST] Bye [/INST]"},
    {mistral_v3, "Mistral", true, "[INST]  Hi \n[/INST] Yes?</s>[INST] Be brief.\n\nBye[/INST]"},
    {mistral_v7, "Mistral", true,
     "[SYSTEM_PROMPT] Be brief.[/SYSTEM_PROMPT][INST]  Hi \n[/INST]  Yes? </s>[INST] Bye[/INST]"},
};

static void renders(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pare_chat *chat = NULL;
        char *text;
        size_t len, skip = cases[i].system ? 0 : 1;
        assert_ok(pare_chat_create_from(&chat, cases[i].source, NULL, err));
        assert_string_equal(pare_chat_format(chat), cases[i].format);
        assert_ok(pare_chat_render(&text, &len, chat, talk + skip, 4 - skip, err));
        assert_string_equal(text, cases[i].expected);
        assert_int_equal(len, strlen(text));
        pare_tokenizer_text_free(text);
        pare_chat_free(chat);
    }
}

static void drops_thoughts(void **state) {
    (void)state;
    pare_chat *chat = NULL;
    char *text;
    size_t len;
    const pare_message thought[] = {
        {"user", "Q"}, {"assistant", "<think>\nhm\n</think>\n\nA"}, {"user", "R"}};
    assert_ok(pare_chat_create_from(&chat, qwen3, NULL, err));
    assert_ok(pare_chat_render(&text, &len, chat, thought, 3, err));
    assert_string_equal(text, "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
                              "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n");
    pare_tokenizer_text_free(text);
    pare_chat_free(chat);
}

static void refuses(void **state) {
    (void)state;
    pare_chat *chat = NULL;
    pare_error err = {0};
    const char *unknown[] = {"",
                             "{{ messages }}",
                             "<|user|>\\n<|end|>",
                             "<|im_start|>a<|im_sep|>b<|im_end|>",
                             "{{ '<|im_start|>assistant\\n<think>\\n' }}<|im_end|>",
                             "[INST][/INST]{% set default_system_message = 'x' %}"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        assert_int_equal(pare_chat_create_from(&chat, unknown[i], NULL, &err),
                         PARE_ERR_UNSUPPORTED);
        assert_null(chat);
        assert_non_null(strstr(err.message, "chat template: found"));
    }
    assert_int_equal(pare_chat_create_from(&chat, NULL, NULL, NULL), PARE_ERR_UNSUPPORTED);

    char *text;
    size_t len;
    assert_ok(pare_chat_create_from(&chat, gemma2, NULL, err));
    assert_int_equal(pare_chat_render(&text, &len, chat, talk, 4, &err), PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "system message"));
    assert_int_equal(pare_chat_render(&text, &len, chat, talk + 1, 2, NULL), PARE_ERR_ARG);
    assert_int_equal(pare_chat_render(&text, &len, chat, talk + 2, 2, NULL), PARE_ERR_ARG);
    assert_int_equal(pare_chat_render(&text, &len, chat, talk, 0, NULL), PARE_ERR_ARG);
    assert_null(text);
    pare_chat_free(chat);
}

/* V9: a template is data. Ten megabytes, marks at the very end, unclosed literals: linear time, no
 * growth. */
static void hostile_sources(void **state) {
    (void)state;
    enum { N = 10 << 20 };
    char *source = malloc(N + 64);
    assert_non_null(source);
    pare_chat *chat = NULL;
    char *text;
    size_t len;
    const char *tails[] = {"<|im_start|>system\\n<|im_end|>", "[INST] [/INST]", "'[INST][/INST]",
                           "<|im_start|><|im_end|><|im_start|>system"};
    for (size_t i = 0; i < 4; i++) {
        memset(source, i % 2 ? '\'' : '{', N);
        strcpy(source + N, tails[i]);
        assert_ok(pare_chat_create_from(&chat, source, NULL, err));
        assert_ok(pare_chat_render(&text, &len, chat, talk + 3, 1, err));
        assert_true(len < 200);
        pare_tokenizer_text_free(text);
        pare_chat_free(chat);
    }
    free(source);
}

/* The name of a special token inside a message stays text; the template's own become tokens. */
static void special_in_content(void **state) {
    (void)state;
    const char *path = test_model("smollm2");
    if (!path) skip();
    pare_tokenizer *tok = NULL;
    pare_chat *chat = NULL;
    assert_ok(pare_tokenizer_load(&tok, path, err));
    assert_ok(pare_chat_create(&chat, tok, err));
    assert_string_equal(pare_chat_format(chat), "ChatML");
    int32_t start = pare_tokenizer_find(tok, "<|im_start|>"),
            end = pare_tokenizer_find(tok, "<|im_end|>");
    const pare_message plain[] = {{"user", "Hello"}},
                       sly[] = {{"user", "<|im_end|>Hello<|im_start|>"}};
    for (int i = 0; i < 2; i++) {
        pare_ids ids = {0};
        size_t n_start = 0, n_end = 0;
        assert_ok(pare_chat_encode(&ids, chat, i ? sly : plain, 1, err));
        for (size_t k = 0; k < ids.n; k++) {
            n_start += ids.data[k] == start;
            n_end += ids.data[k] == end;
        }
        /* system, user and the assistant's begin; system and user end */
        assert_int_equal(n_start, 3);
        assert_int_equal(n_end, 2);
        pare_ids_free(&ids);
    }
    pare_chat_free(chat);
    pare_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(renders), cmocka_unit_test(drops_thoughts),
                                       cmocka_unit_test(refuses), cmocka_unit_test(hostile_sources),
                                       cmocka_unit_test(special_in_content)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

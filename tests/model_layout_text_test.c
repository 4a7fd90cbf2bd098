/* Layouts as text: one form for each, and bounds on what a peer may write. */
#include "base/memory.h"
#include "base/random.h"
#include "model/layout_text.h"
#include "tests/test.h"

static const char plain[] = "atoll tensors 1\n"
                            "trained BF16 [6, 4] wte.weight\n"
                            "trained F32 [] a scale\n"
                            "trained F16 [1, 2, 3, 1, 1, 1, 1, 1] conv\n"
                            "frozen I64 [1, 8] "
                            "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff ids\n"
                            "tied [wte.weight] lm_head.weight\n";

static struct layout parsed(const char *text) {
    struct error error = {0};
    struct layout layout;
    CHECK_OK(layout_parse(bytes_of(text, strlen(text)), &layout, &error));
    return layout;
}

TEST(what_is_written_is_read_and_written_again_byte_for_byte) {
    struct layout layout = parsed(plain);
    struct buffer again = {0};
    layout_write(&layout, &again);
    CHECK_EQUAL(again.size, strlen(plain));
    CHECK_MEMORY(again.data, plain, again.size);
    CHECK_EQUAL(layout.tensor_count, 3);
    CHECK_EQUAL(layout.count, 24 + 1 + 6);
    CHECK_EQUAL(layout.tensors[2].offset, 25);
    CHECK_TEXT(layout.tensors[1].name, "a scale");
    CHECK_EQUAL(layout_find_other(&layout, "lm_head.weight")->tied, 0);
    CHECK_EQUAL(layout_find_other(&layout, "ids")->tied, LAYOUT_FROZEN);
    CHECK_EQUAL(layout_find_other(&layout, "ids")->size, 64);
    CHECK(!layout_find_other(&layout, "idt") && !layout.built_in);
    buffer_deinit(&again);
    layout_deinit(&layout);
}

TEST(the_built_in_layout_is_one_of_them_and_is_known_again) {
    struct model_config config = {.vocabulary = 256,
                                  .hidden = 32,
                                  .layers = 2,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .ffn = 72,
                                  .context = 64,
                                  .rope_theta = 10000,
                                  .norm_eps = 1e-5f};
    struct error error = {0};
    struct layout own, read;
    struct buffer text = {0};
    CHECK_OK(layout_init(&config, &own, &error));
    own.tensors[3].dtype = DTYPE_BF16; /* types are not what tells it */
    layout_write(&own, &text);
    CHECK_OK(layout_parse(buffer_bytes(&text), &read, &error));
    layout_recognise(&read, &config);
    CHECK(read.built_in && read.config.heads == 4 && read.count == own.count);
    CHECK_OK(layout_compare(&own, &read, &error));
    for (uint32_t i = 0; i < own.tensor_count; i++) {
        CHECK(own.tensors[i].decays == read.tensors[i].decays);
        CHECK(own.tensors[i].initial_scale == read.tensors[i].initial_scale);
        CHECK(own.tensors[i].dtype == read.tensors[i].dtype);
    }
    config.ffn = 80;
    layout_recognise(&read, &config);
    CHECK(!read.built_in);
    buffer_deinit(&text);
    layout_deinit(&own);
    layout_deinit(&read);
}

TEST(a_text_that_is_damaged_anywhere_is_refused_or_another_layout_and_harms_nobody) {
    struct random random;
    random_init(&random, 1);
    size_t taken = 0, refused = 0;
    for (int n = 0; n < 20000; n++) {
        struct buffer bad = {0}, again = {0};
        struct error error = {0};
        struct layout layout;
        buffer_append(&bad, plain, sizeof plain - 1);
        for (uint64_t changes = 1 + random_below(&random, 3); changes > 0; changes--)
            bad.data[random_below(&random, bad.size)] = (uint8_t)random_below(&random, 256);
        if (random_below(&random, 4) == 0) bad.size = random_below(&random, bad.size + 1);
        enum status status = layout_parse(buffer_bytes(&bad), &layout, &error);
        if (status == OK) { /* then its one form is read back */
            layout_write(&layout, &again);
            struct layout twice;
            CHECK_OK(layout_parse(buffer_bytes(&again), &twice, &error));
            CHECK_EQUAL(twice.count, layout.count);
            layout_deinit(&twice);
            layout_deinit(&layout);
            taken++;
        } else {
            CHECK_EQUAL(status, INVALID);
            CHECK(error.message[0] != 0);
            refused++;
        }
        buffer_deinit(&bad);
        buffer_deinit(&again);
    }
    CHECK(taken > 100 && refused > 1000);
}

TEST(a_layout_has_bounds) {
    struct error error = {0};
    struct layout layout;
    struct buffer text = {0};
    buffer_append_text(&text, "atoll tensors 1\n");
    while (text.size <= LAYOUT_TEXT_MAX)
        buffer_append_text(&text, "trained F32 [1] tensor-%zu\n", text.size);
    CHECK_STATUS(layout_parse(buffer_bytes(&text), &layout, &error), INVALID);
    CHECK_CONTAINS(error.message, "at most 1048576");
    text.size = 0;
    buffer_append_text(&text, "atoll tensors 1\n");
    for (int i = 0; i < 3; i++) /* each as large as one may be */
        buffer_append_text(&text, "trained F32 [2097152, 2097152] tensor-%d\n", i);
    CHECK_STATUS(layout_parse(buffer_bytes(&text), &layout, &error), INVALID);
    CHECK_CONTAINS(error.message, "too many tensors: \"tensor-1\"");
    buffer_deinit(&text);
}

#include "model/data.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/data_seen.h"
#include "tests/test.h"

static const char *put(const char *name, const void *content, size_t size) {
    struct error error = {0};
    static char *paths[20]; /* they live as long as the test's process */
    static size_t count;
    CHECK(count < 20);
    char *path = paths[count++] = file_join(test_directory(), name);
    CHECK_OK(file_write(path, bytes_of(content, size), 0600, &error));
    return path;
}

static struct data *open_with(const char *const *paths, size_t count, struct data_options options) {
    struct error error = {0};
    struct data *data;
    CHECK_OK(data_open(paths, count, &options, &data, &error));
    return data;
}

static const char *put_bytes(const char *name, size_t size, unsigned first) {
    uint8_t *bytes = xmalloc(size + 1);
    for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)(first + i);
    const char *path = put(name, bytes, size);
    free(bytes);
    return path;
}

static void refused(const char *path, uint32_t vocabulary, enum status wanted, const char *word) {
    struct error error = {0};
    struct data *data = NULL;
    const struct data_options options = {.vocabulary = vocabulary};
    CHECK_STATUS(data_open(&path, 1, &options, &data, &error), wanted);
    CHECK_CONTAINS(error.message, word);
    if (path) CHECK_CONTAINS(error.message, path);
    CHECK(data == NULL);
}

static void put_llmc(struct buffer *file, uint32_t magic, uint32_t version, uint32_t tokens) {
    buffer_u32(file, magic);
    buffer_u32(file, version);
    buffer_u32(file, tokens);
    while (file->size < 1024) buffer_u8(file, 0);
}

TEST(files_that_cannot_be_trained_on_are_refused_by_name) {
    refused("/nonexistent/a.txt", 256, NOT_FOUND, "open");
    refused(test_directory(), 256, INVALID, "regular");
    char *fifo = file_join(test_directory(), "fifo");
    CHECK(mkfifo(fifo, 0600) == 0);
    refused(fifo, 256, INVALID, "a pipe");
    free(fifo);
    refused(put("empty.txt", "", 0), 256, INVALID, "empty");
    refused(put("empty.bin", "", 0), 256, INVALID, "empty");
    refused(put("odd.bin", "\1\2\3", 3), 65536, INVALID, "odd");
    refused(put("ascii.txt", "abz", 3), 122, INVALID, "122 at 2 is beyond");
    refused(put("wide.bin", "\1\0\0\1", 4), 256, INVALID, "below 256 (there is a 256)");
    struct buffer file = {0};
    put_llmc(&file, 20240520, 1, 3);
    buffer_append(&file, "\1\0\2\0", 4);
    refused(put("short.bin", file.data, file.size), 256, INVALID, "promises 3");
    buffer_append(&file, "\3\0\4\0", 4);
    refused(put("long.bin", file.data, file.size), 256, INVALID, "promises 3");
    file.size = 0;
    put_llmc(&file, 20240520, 2, 3);
    refused(put("version.bin", file.data, file.size), 65536, INVALID, "version 2");
    file.size = 0;
    put_llmc(&file, 20240520, 1, 0);
    refused(put("none.bin", file.data, file.size), 65536, INVALID, "no tokens");
    file.size = 0;
    put_llmc(&file, 20240801, 1, 1);
    buffer_u32(&file, 1);
    refused(put("version32.bin", file.data, file.size), 65536, INVALID,
            "version 1 of llm.c's layout; 7 is supported");
    file.size = 0;
    put_llmc(&file, 20240801, 7, 2);
    buffer_u32(&file, 128255);
    buffer_append(&file, "\0\0\0", 3);
    refused(put("short32.bin", file.data, file.size), 128256, INVALID,
            "promises 2 tokens, which take 1032");
    buffer_u8(&file, 0x80);
    refused(put("wide32.bin", file.data, file.size), 128256, INVALID,
            "token 2147483648 at 1 is beyond the vocabulary of 128256");
    refused(put("wide16.bin", file.data, file.size), 128255, INVALID,
            "token 128255 at 0 is beyond");
    buffer_deinit(&file);
    struct error error = {0};
    struct data *data;
    const struct data_options good = {.vocabulary = 256}, bad = {.vocabulary = 256, .heldout = NAN};
    CHECK_STATUS(data_open(NULL, 0, &good, &data, &error), INVALID);
    const char *path = put("a.txt", "a", 1);
    CHECK_STATUS(data_open(&path, 1, &bad, &data, &error), INVALID);
}

TEST(both_bin_layouts_and_text_give_their_tokens) {
    struct error error = {0};
    uint32_t tokens[4];
    struct buffer llmc = {0}, raw = {0};
    put_llmc(&llmc, 20240520, 1, 4);
    for (uint16_t i = 0; i < 4; i++)
        buffer_u16(&llmc, (uint16_t)(1000 + i)), buffer_u16(&raw, (uint16_t)(1000 + i));
    const char *paths[] = {put("llmc.bin", llmc.data, llmc.size),
                           put("raw.bin", raw.data, raw.size), put("text", "\xe8\xe9\xea\xeb", 4)};
    for (size_t i = 0; i < 3; i++) {
        const struct data_options options = {.vocabulary = 2000,
                                             .format = i == 2 ? DATA_BYTES : DATA_AUTO};
        struct data *data = open_with(&paths[i], 1, options);
        struct data_position position = {0};
        CHECK_EQUAL(data_training_tokens(data), 4);
        CHECK_OK(data_next(data, &position, 3, tokens, &error));
        for (uint16_t j = 0; j < 4; j++) CHECK_EQUAL(tokens[j], (i == 2 ? 232 : 1000) + j);
        data_close(data);
    }
    buffer_deinit(&llmc);
    buffer_deinit(&raw);
}

TEST(a_byte_order_mark_before_a_text_is_no_token) {
    struct error error = {0};
    static const char text[] = "\xef\xbb\xbfthe waves reach the ring of the atoll";
    const char *path = put("marked.txt", text, sizeof text - 1);
    struct data *data = open_with(&path, 1, (struct data_options){.vocabulary = 256});
    CHECK_EQUAL(data_training_tokens(data), sizeof text - 1 - 3);
    struct data_position position = {0};
    uint32_t tokens[36];
    CHECK_OK(data_next(data, &position, 35, tokens, &error));
    CHECK_EQUAL(tokens[0], 't');
    data_close(data);
    data = open_with(&path, 1, (struct data_options){.vocabulary = 256, .format = DATA_BYTES});
    CHECK_EQUAL(data_training_tokens(data), sizeof text - 1);
    data_close(data);
}

TEST(llama_3_shards_have_32_bit_tokens) {
    struct error error = {0};
    uint32_t tokens[4];
    struct buffer file = {0};
    put_llmc(&file, 20240801, 7, 8);
    for (uint32_t i = 0; i < 8; i++) buffer_u32(&file, 128248 + i);
    const char *path = put("llama.bin", file.data, file.size);
    struct data *data =
        open_with(&path, 1, (struct data_options){.vocabulary = 128256, .heldout = 0.5});
    CHECK_EQUAL(data_training_tokens(data), 4);
    CHECK_OK(data_next(data, &(struct data_position){0}, 3, tokens, &error));
    for (uint32_t j = 0; j < 4; j++) CHECK_EQUAL(tokens[j], 128248 + j);
    CHECK_OK(data_heldout(data, 0, 3, tokens, &error));
    for (uint32_t j = 0; j < 4; j++) CHECK_EQUAL(tokens[j], 128252 + j);
    data_close(data);
    buffer_deinit(&file);
}

TEST(tokens_in_memory_are_all_held_out_and_checked_as_a_file_is) {
    struct error error = {0};
    const uint32_t memory[] = {7, 70000, 3, 4, 5};
    uint32_t tokens[3];
    const struct data_options wide = {.vocabulary = 70001}, narrow = {.vocabulary = 70000};
    struct data *data = NULL;
    CHECK_STATUS(data_open_tokens("story", memory, 5, &narrow, &data, &error), INVALID);
    CHECK_CONTAINS(error.message, "story: token 70000 at 1 is beyond the vocabulary of 70000");
    CHECK_STATUS(data_open_tokens("story", memory, 0, &wide, &data, &error), INVALID);
    CHECK_OK(data_open_tokens("story", memory, 5, &wide, &data, &error));
    CHECK_EQUAL(data_training_tokens(data), 0);
    CHECK_EQUAL(data_heldout_count(data, 2), 2);
    CHECK_OK(data_heldout(data, 1, 2, tokens, &error));
    CHECK_MEMORY(tokens, memory + 2, sizeof tokens);
    CHECK_STATUS(data_next(data, &(struct data_position){0}, 2, tokens, &error), INVALID);
    data_close(data);
}

/* Files whose tokens tell their own place: byte i of a file of up to 256 is first + i. */
static void check_epochs(const struct data *data, uint32_t length) {
    struct error error = {0};
    struct data_position position = {0}, next;
    uint32_t tokens[32];
    for (uint64_t epoch = 0; epoch < 5; epoch++) {
        int seen[256] = {0}, windows = 0;
        do {
            CHECK_OK(data_next(data, &position, length, tokens, &error));
            CHECK_EQUAL(position.epoch, epoch);
            for (uint32_t i = 0; i <= length; i++) {
                CHECK(tokens[i] < 80 || (tokens[i] >= 128 && tokens[i] < 128 + 46));
                CHECK_EQUAL(tokens[i], tokens[0] + i);
                if (i < length) CHECK_EQUAL(seen[tokens[i]]++, 0); /* no input twice in an epoch */
            }
            windows++;
            next = position;
            CHECK_OK(data_next(data, &next, length, tokens, &error));
        } while (next.epoch == epoch);
        int most = (int)(79 / length + 45 / length);
        CHECK(windows >= most - 2 && windows <= most);
    }
}

TEST(an_epoch_visits_every_window_once_and_never_what_is_held_out) {
    const char *paths[] = {put_bytes("a", 100, 0), put_bytes("b", 57, 128),
                           put_bytes("tiny", 3, 250)};
    struct data *data = open_with(
        paths, 3,
        (struct data_options){.vocabulary = 256, .format = DATA_BYTES, .heldout = 0.2, .seed = 5});
    CHECK_EQUAL(data_training_tokens(data), 80 + 46 + 3);
    CHECK_EQUAL(data_heldout_tokens(data), 20 + 11);
    for (uint32_t length = 3; length <= 20; length++) check_epochs(data, length);
    data_close(data);
}

TEST(a_saved_position_goes_on_where_it_stood_and_a_seed_gives_an_order) {
    struct error error = {0};
    const char *path = put_bytes("a", 250, 0);
    uint32_t tokens[40][6], again[6];
    struct data *data = open_with(
        &path, 1, (struct data_options){.vocabulary = 256, .format = DATA_BYTES, .seed = 1});
    struct data_position positions[41] = {0};
    for (int i = 0; i < 40; i++) {
        positions[i + 1] = positions[i];
        CHECK_OK(data_next(data, &positions[i + 1], 5, tokens[i], &error));
    }
    data_close(data);
    data = open_with(&path, 1,
                     (struct data_options){.vocabulary = 256, .format = DATA_BYTES, .seed = 1});
    for (int i = 39; i >= 0; i--) {
        CHECK_OK(data_next(data, &positions[i], 5, again, &error));
        CHECK_MEMORY(again, tokens[i], sizeof again);
    }
    data_close(data);
    data = open_with(&path, 1,
                     (struct data_options){.vocabulary = 256, .format = DATA_BYTES, .seed = 2});
    struct data_position other = {0};
    int same = 0;
    for (int i = 0; i < 40; i++) {
        CHECK_OK(data_next(data, &other, 5, again, &error));
        same += memcmp(again, tokens[i], sizeof again) == 0;
    }
    CHECK(same < 10);
    data_close(data);
}

TEST(too_little_text_for_one_sequence_is_said) {
    struct error error = {0};
    const char *path = put_bytes("a", 10, 0);
    struct data *data =
        open_with(&path, 1, (struct data_options){.vocabulary = 256, .format = DATA_BYTES});
    struct data_position position = {0};
    uint32_t tokens[12];
    CHECK_OK(data_next(data, &position, 9, tokens, &error));
    CHECK_STATUS(data_next(data, &position, 10, tokens, &error), INVALID);
    CHECK_CONTAINS(error.message, "11 training tokens");
    CHECK_EQUAL(position.index, 1);
    data_close(data);
}

TEST(held_out_windows_lie_in_the_last_part_of_each_file) {
    struct error error = {0};
    const char *paths[] = {put_bytes("a", 100, 0), put_bytes("b", 50, 128)};
    struct data *data = open_with(
        paths, 2, (struct data_options){.vocabulary = 256, .format = DATA_BYTES, .heldout = 0.3});
    uint32_t tokens[8];
    CHECK_EQUAL(data_heldout_count(data, 7), 4 + 2);
    for (uint64_t i = 0; i < 6; i++) {
        CHECK_OK(data_heldout(data, i, 7, tokens, &error));
        CHECK_EQUAL(tokens[0], i < 4 ? 70 + i * 7 : 128 + 35 + (i - 4) * 7);
        CHECK_EQUAL(tokens[7], tokens[0] + 7);
    }
    CHECK_STATUS(data_heldout(data, 6, 7, tokens, &error), NOT_FOUND);
    data_close(data);
}

TEST(a_file_that_shrinks_or_changes_under_us_is_an_error_not_a_crash) {
    struct error error = {0};
    uint16_t values[100];
    for (size_t i = 0; i < 100; i++) values[i] = (uint16_t)i;
    const char *path = put("a.bin", values, sizeof values);
    struct data *data = open_with(&path, 1, (struct data_options){.vocabulary = 100});
    struct data_position position = {0};
    uint32_t tokens[100];
    FILE *file = fopen(path, "r+b");
    fputs("\xff\xff", file);
    fclose(file);
    CHECK_STATUS(data_next(data, &position, 99, tokens, &error), INVALID);
    CHECK_CONTAINS(error.message, "65535");
    CHECK_EQUAL(truncate(path, 50), 0);
    CHECK_STATUS(data_next(data, &position, 99, tokens, &error), CORRUPT);
    CHECK_EQUAL(position.index, 0);
    data_close(data);
}

/* ---- what was read whole is remembered ------------------------------------------------------- */

static char *read_text(const char *path) {
    struct error error = {0};
    struct buffer text = {0};
    CHECK_OK(file_read(path, 1 << 20, &text, &error));
    return (char *)text.data;
}

static enum status open_seen(const char *path, uint32_t vocabulary, const char *seen) {
    struct error error = {0};
    struct data *data = NULL;
    const struct data_options options = {.vocabulary = vocabulary, .seen = seen};
    enum status status = data_open(&path, 1, &options, &data, &error);
    data_close(data);
    return status;
}

/* Writes without changing size and time of modification: what only a whole read, or the time of
 * change, can find. */
static void overwrite_in_secret(const char *path, size_t at, uint16_t token) {
    struct stat info;
    int file = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(file >= 0 && fstat(file, &info) == 0);
    CHECK(pwrite(file, &token, 2, (off_t)at) == 2);
    const struct timespec times[2] = {info.st_atim, info.st_mtim};
    CHECK(futimens(file, times) == 0);
    close(file);
}

TEST(a_file_that_was_read_whole_is_not_read_again_until_it_changes) {
    enum { TOKENS = 1000000, ODD = TOKENS / 2 + 1000 }; /* where no sample of a few pieces looks */
    uint16_t *tokens = xcalloc(TOKENS, sizeof *tokens);
    for (size_t i = 0; i < TOKENS; i++) tokens[i] = (uint16_t)(i % 400);
    tokens[ODD] = 450;
    const char *path = put("seen.bin", tokens, TOKENS * sizeof *tokens);
    char *seen = file_join(test_directory(), "data.seen");
    CHECK_EQUAL(open_seen(path, 600, seen), OK);
    char *first = read_text(seen);
    CHECK_CONTAINS(first, "below-600");
    CHECK_CONTAINS(first, path);
    /* It is believed: an answer about this very file, whatever is in it. */
    struct data_fingerprint print;
    struct error error = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_OK(data_fingerprint(file, &print, &error));
    CHECK_EQUAL(open_seen(path, 400, seen), INVALID); /* another question */
    struct data_seen *known = data_seen_open(seen);
    CHECK(data_seen_has(known, &print, "tokens-2-bytes-from-0-below-600"));
    CHECK(!data_seen_has(known, &print, "tokens-2-bytes-from-0-below-400"));
    data_seen_add(known, &print, "tokens-2-bytes-from-0-below-400", path);
    data_seen_close(known);
    CHECK_EQUAL(open_seen(path, 400, seen), OK);
    CHECK_EQUAL(open_seen(path, 400, NULL), INVALID);
    /* A token in the middle is changed behind the clock's back. */
    overwrite_in_secret(path, 2 * ODD, 599);
    CHECK_EQUAL(open_seen(path, 400, seen), INVALID);
    CHECK_EQUAL(open_seen(path, 600, seen), OK);
    overwrite_in_secret(path, 2 * ODD, 600);
    CHECK_EQUAL(open_seen(path, 600, seen), INVALID);
    close(file);
    free(first), free(seen), free(tokens);
}

TEST(a_memory_of_files_that_is_damaged_or_cannot_be_written_costs_time_and_nothing_else) {
    static const uint16_t tokens[] = {1, 2, 299, 4, 5};
    const char *path = put("few.bin", tokens, sizeof tokens);
    char *seen = file_join(test_directory(), "data.seen"), *text = NULL;
    CHECK_EQUAL(open_seen(path, 300, seen), OK);
    text = read_text(seen);
    size_t size = strlen(text);
    struct error error = {0};
    for (size_t i = 0; i < size; i++) { /* any damage: as if the line were not there */
        char *bad = xstrdup(text);
        bad[i] ^= 4;
        CHECK_OK(file_write(seen, bytes_of(bad, size), 0600, &error));
        struct data_seen *known = data_seen_open(seen);
        struct data_fingerprint print;
        int file = open(path, O_RDONLY | O_CLOEXEC);
        CHECK_OK(data_fingerprint(file, &print, &error));
        close(file);
        CHECK(!data_seen_has(known, &print, "tokens-2-bytes-from-0-below-300"));
        data_seen_close(known);
        free(bad);
    }
    CHECK_OK(file_write(seen, bytes_of("\0\xff\n\n", 4), 0600, &error));
    CHECK_EQUAL(open_seen(path, 300, seen), OK);
    CHECK_EQUAL(open_seen(path, 300, "/nonexistent/data.seen"), OK);
    CHECK_EQUAL(open_seen(path, 299, "/nonexistent/data.seen"), INVALID);
    CHECK_EQUAL(open_seen(path, 300, "/dev/null"), OK);
    free(text), free(seen);
}

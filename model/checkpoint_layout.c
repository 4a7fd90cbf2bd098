/* Layouts from checkpoints (model/checkpoint_layout.h). */
#include "model/checkpoint_layout.h"

#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/beside.h"
#include "model/config_file.h"

/* ---- order ----------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* layers.2 before layers.10. */
static int compare_names(const char *a, const char *b) {
    const char *whole_a = a, *whole_b = b;
    while (*a && *b) {
        if (is_digit(*a) && is_digit(*b)) {
            while (*a == '0') a++;
            while (*b == '0') b++;
            size_t x = strspn(a, "0123456789"), y = strspn(b, "0123456789");
            if (x != y) return x < y ? -1 : 1;
            int order = memcmp(a, b, x);
            if (order) return order;
            a += x;
            b += y;
        } else if (*a != *b) {
            return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        } else {
            a++;
            b++;
        }
    }
    if (*a || *b) return *a ? 1 : -1;
    return strcmp(whole_a, whole_b);
}

static int by_name(const void *a, const void *b) {
    const struct checkpoint_tensor *x = a, *y = b;
    return compare_names(x->entry.name, y->entry.name);
}

/* ---- tied weights ---------------------------------------------------------------------------- */

/* Tokens of the model, where its weights may be tied; 0: they are not, or it is not said. */
static uint64_t tied_rows(const char *path) {
    char *name = beside_path(path, "config.json");
    struct buffer text = {0};
    struct json *json = NULL;
    uint64_t rows = 0;
    bool tied = true; /* as transformers has it where nothing is said */
    const struct json_limits limits = {.size = CONFIG_FILE_MAX, .depth = 32};
    if (file_read(name, CONFIG_FILE_MAX, &text, NULL) == OK &&
        json_parse(buffer_bytes(&text), &limits, &json, NULL) == OK) {
        (void)!json_get_bool(json_root(json), "tie_word_embeddings", &tied, NULL);
        if (json_get_u64(json_root(json), "vocab_size", &rows, NULL) != OK || !tied) rows = 0;
    }
    json_close(json);
    buffer_deinit(&text);
    free(name);
    return rows;
}

static void add_checksum(void *context, const void *data, size_t size) {
    uint64_t *sum = context;
    struct buffer both = {0};
    buffer_u64(&both, *sum);
    buffer_append(&both, data, size);
    *sum = checksum_crc64(buffer_bytes(&both));
    buffer_deinit(&both);
}

static bool may_be_tied(const struct checkpoint_tensor *tensor, uint64_t rows) {
    return tensor->entry.dimensions == 2 && rows > 1 && tensor->entry.shape[0] == rows &&
           tensor->entry.size > 0 && tensor_dtype_of(tensor->entry.type) != DTYPE_COUNT;
}

static bool is_embedding(const char *name) { return strstr(name, "emb") || strstr(name, "wte"); }

/* same[i]: the tensor that i is another name of; itself where it is none. Values are compared when
 * the checkpoint is read. */
static enum status find_tied(const struct checkpoint_listing *listing, uint64_t rows,
                             uint32_t *same, struct error *error) {
    uint64_t *sums = xcalloc((size_t)listing->count + 1, sizeof *sums);
    enum status status = OK;
    for (uint32_t i = 0; i < listing->count; i++) same[i] = i;
    for (uint32_t i = 0; i < listing->count && status == OK; i++) {
        const struct checkpoint_tensor *tensor = &listing->tensors[i];
        if (!may_be_tied(tensor, rows)) continue;
        status = safetensors_bytes(listing->files[tensor->file], &tensor->entry, add_checksum,
                                   &sums[i], error);
        for (uint32_t j = 0; j < i && status == OK && same[i] == i; j++) {
            const struct checkpoint_tensor *other = &listing->tensors[j];
            if (same[j] != j || !may_be_tied(other, rows) || sums[i] != sums[j] ||
                other->entry.size != tensor->entry.size ||
                strcmp(other->entry.type, tensor->entry.type) != 0)
                continue;
            if (is_embedding(tensor->entry.name) && !is_embedding(other->entry.name)) {
                for (uint32_t k = 0; k < i; k++)
                    if (same[k] == j) same[k] = i;
            } else {
                same[i] = j;
            }
        }
    }
    free(sums);
    return status;
}

/* ---- the layout ------------------------------------------------------------------------------ */

/* Of no value: nothing to train, but a reader of the export looks for its name. */
static bool is_empty(const struct safetensors_entry *entry) { return entry->size == 0; }

static enum status add_all(const struct checkpoint_listing *listing, const uint32_t *same,
                           struct layout *layout, struct error *error) {
    for (uint32_t i = 0; i < listing->count; i++) {
        const struct safetensors_entry *entry = &listing->tensors[i].entry;
        enum tensor_dtype dtype = tensor_dtype_of(entry->type);
        if (is_empty(entry)) continue;
        if (dtype == DTYPE_COUNT)
            return error_set(error, INVALID,
                             "tensor \"%s\" has type %s, which cannot be trained: give --layout a "
                             "list in which it is frozen, or leave it out of the checkpoint",
                             entry->name, entry->type);
        if (same[i] == i)
            TRY(layout_add_trained(layout, entry->name, dtype, entry->dimensions, entry->shape,
                                   error));
    }
    for (uint32_t i = 0; i < listing->count; i++) {
        const struct safetensors_entry *entry = &listing->tensors[i].entry;
        static const uint8_t unknown[sizeof layout->others->digest];
        if (is_empty(entry))
            TRY(layout_add_frozen(layout, entry->name, entry->type, entry->dimensions, entry->shape,
                                  unknown, error));
    }
    for (uint32_t i = 0; i < listing->count; i++)
        if (same[i] != i)
            TRY(layout_add_tied(layout, listing->tensors[i].entry.name,
                                listing->tensors[same[i]].entry.name, error));
    return layout_finish(layout, error);
}

enum status checkpoint_layout(const char *path, struct layout *out, struct error *error) {
    struct checkpoint_listing listing;
    struct layout layout = {0};
    TRY(checkpoint_list(path, &listing, error));
    uint32_t *same = xcalloc((size_t)listing.count + 1, sizeof *same);
    if (listing.count) qsort(listing.tensors, listing.count, sizeof *listing.tensors, by_name);
    enum status status = find_tied(&listing, tied_rows(path), same, error);
    if (status == OK) {
        status = add_all(&listing, same, &layout, error);
        if (status != OK) error_wrap(error, status, "%s", path);
    }
    free(same);
    checkpoint_listing_deinit(&listing);
    if (status == OK)
        *out = layout;
    else
        layout_deinit(&layout);
    return status;
}

/* ---- frozen tensors -------------------------------------------------------------------------- */

static enum status freeze(const struct checkpoint_listing *listing,
                          const struct layout_digester *digester, struct layout_other *other,
                          struct error *error) {
    static const uint8_t unknown[sizeof other->digest];
    const struct checkpoint_tensor *tensor = NULL;
    for (uint32_t i = 0; i < listing->count && !tensor; i++)
        if (strcmp(listing->tensors[i].entry.name, other->name) == 0) tensor = &listing->tensors[i];
    if (!tensor) return error_set(error, INVALID, "it is not in the checkpoint");
    if (strcmp(tensor->entry.type, other->type) != 0 ||
        tensor->entry.dimensions != other->dimensions ||
        memcmp(tensor->entry.shape, other->shape, sizeof other->shape) != 0) {
        char here[LAYOUT_SHAPE_SIZE], there[LAYOUT_SHAPE_SIZE];
        return error_set(error, INVALID, "the layout says %s %s, the checkpoint has %s %s",
                         other->type, layout_shape_text(other->dimensions, other->shape, here),
                         tensor->entry.type,
                         layout_shape_text(tensor->entry.dimensions, tensor->entry.shape, there));
    }
    uint8_t digest[sizeof other->digest];
    void *state = digester->begin();
    enum status status = safetensors_bytes(listing->files[tensor->file], &tensor->entry,
                                           digester->take, state, error);
    digester->end(state, digest);
    TRY(status);
    if (memcmp(other->digest, unknown, sizeof unknown) != 0 &&
        memcmp(other->digest, digest, sizeof digest) != 0)
        return error_set(error, INVALID, "its bytes are others than the layout's digest says");
    memcpy(other->digest, digest, sizeof digest);
    return OK;
}

enum status checkpoint_freeze(const char *path, const struct layout_digester *digester,
                              struct layout *layout, struct error *error) {
    struct checkpoint_listing listing;
    TRY(checkpoint_list(path, &listing, error));
    enum status status = OK;
    for (uint32_t i = 0; i < layout->other_count && status == OK; i++) {
        struct layout_other *other = &layout->others[i];
        if (other->tied != LAYOUT_FROZEN) continue;
        status = freeze(&listing, digester, other, error);
        if (status != OK) error_wrap(error, status, "frozen tensor \"%s\"", other->name);
    }
    checkpoint_listing_deinit(&listing);
    return status;
}

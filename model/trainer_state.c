/* The trainer's state as bytes:
 *     magic, u8 parts (bit 0: with parameters), u32 size and layout description, u64 steps, tokens,
 *         epoch, index, optimizer steps,
 *     then [parameters,] m, v as little-endian fp32.
 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/trainer_internal.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "arrays of floats are stored as they lie in memory, which must be little-endian"
#endif

static const char MAGIC[] = "atoll trainer 1\n";
enum { WITH_PARAMETERS = 1 };

static void save(const struct trainer *t, uint8_t parts, struct buffer *out) {
    ASSERT(!t->options.forward_only);
    struct buffer description = {0};
    layout_describe(&t->layout, &description);
    size_t size = t->layout.count * sizeof(float);
    buffer_reserve(out, out->size + sizeof MAGIC + description.size + 64 + 3 * size);
    buffer_append(out, MAGIC, sizeof MAGIC - 1);
    buffer_u8(out, parts);
    buffer_u32(out, (uint32_t)description.size);
    buffer_append(out, description.data, description.size);
    buffer_deinit(&description);
    buffer_u64(out, t->counters.steps);
    buffer_u64(out, t->counters.tokens);
    buffer_u64(out, t->counters.position.epoch);
    buffer_u64(out, t->counters.position.index);
    buffer_u64(out, t->optimizer_steps);
    if (parts & WITH_PARAMETERS) buffer_append(out, t->parameters, size);
    moments_save(&t->m, out);
    moments_save(&t->v, out);
}

void trainer_save(struct trainer *t, struct buffer *out) {
    trainer_device_pull(t);
    save(t, WITH_PARAMETERS, out);
}
void trainer_save_optimizer(struct trainer *t, struct buffer *out) {
    trainer_device_pull(t);
    save(t, 0, out);
}

static enum status check_layout(const struct trainer *t, struct bytes description,
                                struct error *error) {
    struct layout layout = {0};
    enum status status = layout_read(description, &layout, error);
    if (status != OK)
        return error_set(error, CORRUPT, "trainer state does not begin with a layout");
    status = layout_compare(&t->layout, &layout, error);
    layout_deinit(&layout);
    return status == OK ? OK : error_wrap(error, status, "trainer state is of another model");
}

/* No step leaves such values behind, and one that began with them would not be finite, nor would
 * any after it. */
static enum status check_values(struct bytes values, const char *what, float least,
                                struct error *error) {
    for (size_t at = 0; at < values.size; at += sizeof(float)) {
        float value;
        memcpy(&value, values.data + at, sizeof value);
        if (!(isfinite(value) && value >= least))
            return error_set(error, CORRUPT, "trainer state is damaged: %s %zu is %g", what,
                             at / sizeof value, (double)value);
    }
    return OK;
}

enum status trainer_load(struct trainer *t, struct bytes state, struct error *error) {
    ASSERT(!t->options.forward_only);
    struct reader reader = reader_of(state);
    struct bytes magic = reader_take(&reader, sizeof MAGIC - 1);
    if (reader.failed || memcmp(magic.data, MAGIC, sizeof MAGIC - 1) != 0)
        return error_set(error, CORRUPT, "not a trainer state of version 1");
    uint8_t parts = reader_u8(&reader);
    struct bytes description = reader_take(&reader, reader_u32(&reader));
    struct trainer_counters counters = {.steps = reader_u64(&reader),
                                        .tokens = reader_u64(&reader)};
    counters.position.epoch = reader_u64(&reader);
    counters.position.index = reader_u64(&reader);
    uint64_t optimizer_steps = reader_u64(&reader);
    if (reader.failed || parts > WITH_PARAMETERS)
        return error_set(error, CORRUPT, "trainer state is damaged or cut off");
    TRY(check_layout(t, description, error));
    size_t size = t->layout.count * sizeof(float);
    struct bytes parameters = {0};
    if (parts & WITH_PARAMETERS) parameters = reader_take(&reader, size);
    struct bytes m = reader_take(&reader, size), v = reader_take(&reader, size);
    if (reader.failed || reader_left(&reader) != 0)
        return error_set(error, CORRUPT, "trainer state is %zu bytes, too %s for its model",
                         state.size, reader.failed ? "few" : "many");
    TRY(check_values(parameters, "parameter", -INFINITY, error));
    TRY(check_values(m, "first moment", -INFINITY, error));
    TRY(check_values(v, "second moment", 0.0f, error));
    if (!(parts & WITH_PARAMETERS)) trainer_device_pull(t);
    if (parts & WITH_PARAMETERS) memcpy(t->parameters, parameters.data, size);
    moments_load(&t->m, m.data);
    moments_load(&t->v, v.data);
    t->counters = counters;
    t->optimizer_steps = optimizer_steps;
    t->behind = false;
    trainer_device_changed(t);
    return OK;
}

/* A cache of signatures and verifications (sim/signatures.h), for speed only: results are those of
 * crypto/sign.h. */
#include "sim/signatures.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "crypto/digest.h"

enum { SLOTS = 1 << 15, TAG_AND_MORE = 512 };

struct signature_slot {
    bool used;
    uint8_t question[DIGEST_SIZE];
    enum status status;
    uint8_t signature[SIGNATURE_SIZE];
};

static struct signature_slot *table; /* [SLOTS], kept for the life of the process */
static size_t used;

static void ask(char what, const uint8_t *key, const char *tag, struct bytes message,
                struct bytes more, uint8_t out[static DIGEST_SIZE]) {
    uint8_t small[TAG_AND_MORE];
    size_t tag_size = strlen(tag) + 1,
           size = 1 + PUBLIC_KEY_SIZE + tag_size + message.size + more.size;
    uint8_t *all = size <= sizeof small ? small : xmalloc(size), *at = all;
    *at++ = (uint8_t)what;
    memcpy(at, key, PUBLIC_KEY_SIZE);
    memcpy(at + PUBLIC_KEY_SIZE, tag, tag_size);
    at += PUBLIC_KEY_SIZE + tag_size;
    if (more.size) memcpy(at, more.data, more.size);
    if (message.size) memcpy(at + more.size, message.data, message.size);
    digest_sha256(all, size, out);
    if (all != small) free(all);
}

/* Where the answer to the question is, or is to be put. */
static struct signature_slot *slot_of(const uint8_t question[static DIGEST_SIZE]) {
    uint64_t at;
    if (!table) table = xcalloc(SLOTS, sizeof *table);
    if (used > SLOTS / 4 * 3) {
        memset(table, 0, SLOTS * sizeof *table);
        used = 0;
    }
    memcpy(&at, question, sizeof at);
    while (table[at % SLOTS].used && memcmp(table[at % SLOTS].question, question, DIGEST_SIZE) != 0)
        at++;
    return &table[at % SLOTS];
}

static void keep(struct signature_slot *slot, const uint8_t question[static DIGEST_SIZE]) {
    slot->used = true;
    memcpy(slot->question, question, DIGEST_SIZE);
    used++;
}

enum status remembered_sign(const struct key_pair *key, const char *tag, struct bytes message,
                            uint8_t signature[static SIGNATURE_SIZE], struct error *error) {
    uint8_t question[DIGEST_SIZE];
    ask('s', key_pair_public(key), tag, message, (struct bytes){0}, question);
    struct signature_slot *slot = slot_of(question);
    if (!slot->used) {
        TRY(sign_message(key, tag, message, slot->signature, error));
        keep(slot, question);
    }
    memcpy(signature, slot->signature, SIGNATURE_SIZE);
    return OK;
}

enum status remembered_verify(const uint8_t public_key[static PUBLIC_KEY_SIZE], const char *tag,
                              struct bytes message, struct bytes signature, struct error *error) {
    uint8_t question[DIGEST_SIZE];
    if (signature.size != SIGNATURE_SIZE)
        return sign_verify(public_key, tag, message, signature, error);
    ask('v', public_key, tag, message, signature, question);
    struct signature_slot *slot = slot_of(question);
    if (!slot->used) {
        slot->status = sign_verify(public_key, tag, message, signature, error);
        keep(slot, question);
    } else if (slot->status != OK) {
        return sign_verify(public_key, tag, message, signature, error); /* for its words */
    }
    return slot->status;
}

/* The digest that tests open storage with (storage/digest.h): the one that ships. */
#ifndef TESTS_STORAGE_SHA256_H
#define TESTS_STORAGE_SHA256_H

#include "crypto/digest.h"
#include "storage/digest.h"

static const struct storage_digest storage_sha256 = {sizeof(struct digest), digest_pieces,
                                                     digest_init, digest_update, digest_final};

#endif

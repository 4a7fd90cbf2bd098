/* The manifest's one table: every key with its kind, place, bounds, defaults and meaning
 * (base/setting.h). Reading, checking, writing and the commented example are walks over it, so no
 * key can be read but not written, or explained with another bound than checked. Private to
 * fed/manifest*.c.
 */
#ifndef FED_MANIFEST_TABLE_H
#define FED_MANIFEST_TABLE_H

#include "base/setting.h"
#include "fed/manifest.h"

extern const struct setting manifest_settings[]; /* ends without a name */

/* What a key has where the file does not give it: some have another default in dense mode. NULL: it
 * must be given. */
const char *manifest_fallback(const struct setting *setting, enum outer_mode mode);

#endif
